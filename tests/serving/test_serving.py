"""Stopping, within one process."""

import asyncio
import os
import signal
from datetime import timedelta

import httpx
import pytest
import structlog

from helios_core import serving
from helios_core.errors import ConfigurationError
from helios_core.settings import Settings

SETTINGS = Settings(
    storage_backend="memory",
    bulk_export_output_backend="memory",
    server_port=0,
    worker_shutdown_timeout=timedelta(seconds=0.2),
)


async def test_a_server_answers_when_it_says_so_and_ends_at_a_signal():
    answers: list[int] = []

    async def ask(url: str) -> None:
        async with httpx.AsyncClient() as client:
            answers.append((await client.get(f"{url}/health")).status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(ask(url)))

    assert answers == [200]


async def test_workers_end_at_a_signal():
    await serving.work(SETTINGS, on_ready=lambda: os.kill(os.getpid(), signal.SIGINT))


async def test_a_taken_port_is_a_matter_of_configuration():
    async def second(url: str) -> None:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match="HFS_SERVER_PORT"):
            serving._listen(Settings(server_port=port))
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(second(url)))


async def test_a_worker_that_does_not_end_in_time_is_cancelled():
    late = asyncio.create_task(asyncio.sleep(60))

    with structlog.testing.capture_logs() as lines:
        await serving._end([late], SETTINGS)
        await asyncio.wait([late])

    assert late.cancelled()
    assert [line["event"] for line in lines] == ["worker.late"]


def test_addresses_of_ip_6_have_brackets():
    listener = serving._listen(Settings(server_host="::1", server_port=0))

    with listener:
        assert serving._address(listener).startswith("http://[::1]:")


def test_worker_names_are_of_this_process():
    names = serving._names(2)

    assert len(set(names)) == 2
    assert all(f"-{os.getpid()}-" in name for name in names)


def test_worker_options_are_what_is_set():
    settings = Settings(
        bulk_export_lease_duration=timedelta(seconds=7),
        bulk_export_heartbeat_interval=timedelta(seconds=2),
        bulk_export_max_attempts=5,
        bulk_export_part_rows=11,
        bulk_export_part_bytes=13,
        bulk_export_batch_bytes=17,
    )

    options = serving._worker_options(settings)

    assert (options.lease_for, options.heartbeat) == (timedelta(seconds=7), timedelta(seconds=2))
    limits = options.limits
    assert (options.max_attempts, limits.part_rows, limits.part_bytes) == (5, 11, 13)
    assert limits.batch_bytes == 17
