"""Stopping, within one process."""

import asyncio
import os
import signal
from datetime import timedelta

import httpx
import pytest

from helios_core.config.settings import Settings
from helios_core.errors import ConfigurationError
from helios_core.server import serve as serving

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


async def test_a_taken_port_is_a_matter_of_configuration():
    async def second(url: str) -> None:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match="HFS_SERVER_PORT"):
            serving._listen(Settings(server_port=port))
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.TaskGroup() as group:
        await serving.serve(SETTINGS, on_ready=lambda url: group.create_task(second(url)))


def test_addresses_of_ip_6_have_brackets():
    listener = serving._listen(Settings(server_host="::1", server_port=0))

    with listener:
        assert serving._address(listener, None).startswith("http://[::1]:")
