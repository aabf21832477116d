"""Workers of one process, and how they stop."""

import asyncio
import os
import signal
from datetime import timedelta

import structlog
from msgspec.structs import replace

from helios_core.config.selection import open_backends
from helios_core.config.settings import Settings
from helios_core.server import work as working
from helios_core.storage.backends import Reach

SETTINGS = Settings(
    storage_backend="memory",
    bulk_export_output_backend="memory",
    worker_shutdown_timeout=timedelta(seconds=0.2),
)


async def test_workers_end_at_a_signal():
    await working.work(SETTINGS, on_ready=lambda: os.kill(os.getpid(), signal.SIGINT))


async def test_a_worker_ends_with_its_lifeline():
    ours, theirs = os.pipe()

    await working.work(SETTINGS, on_ready=lambda: os.close(theirs), lifeline=ours)

    os.close(ours)


async def test_what_only_one_process_can_use_has_all_its_workers_there():
    three = replace(
        SETTINGS, bulk_export_worker_concurrency=3, worker_shutdown_timeout=timedelta(hours=1)
    )
    stop = asyncio.Event()

    with structlog.testing.capture_logs() as lines:
        async with open_backends(three) as backends:
            assert backends.reach is Reach.PROCESS
            asyncio.get_running_loop().call_later(0.05, stop.set)
            await working.work_until(stop, backends, three, workers=3)

    assert lines == []


async def test_a_worker_that_does_not_end_in_time_is_cancelled():
    late = asyncio.create_task(asyncio.sleep(60))

    with structlog.testing.capture_logs() as lines:
        await working._end([late], SETTINGS)
        await asyncio.wait([late])

    assert late.cancelled()
    assert [line["event"] for line in lines] == ["worker.late"]


def test_worker_names_are_of_this_process():
    names = working._names(2)

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

    options = working._worker_options(settings)

    assert (options.lease_for, options.heartbeat) == (timedelta(seconds=7), timedelta(seconds=2))
    limits = options.limits
    assert (options.max_attempts, limits.part_rows, limits.part_bytes) == (5, 11, 13)
    assert limits.batch_bytes == 17


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch):
    """The machine may have no process or no memory left for a while."""
    monkeypatch.setattr(working.sys, "executable", "/nowhere/python")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)

    with structlog.testing.capture_logs() as lines:
        await working._supervise(stop)

    assert [line["event"] for line in lines] == ["worker.start_failed", "worker.died"]
