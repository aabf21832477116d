"""
Work on exports until a signal stops it.

A process works on one shard at a time, because two would share its interpreter. Each further
worker has a process of its own, which runs this module and ends with the process that started it.
"""

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta

import structlog
import uvloop
from msgspec.structs import replace

from helios_core.config import logs
from helios_core.config import selection as plugins
from helios_core.config.selection import open_backends
from helios_core.config.settings import Settings
from helios_core.errors import HeliosError
from helios_core.export import worker
from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.export.worker import WorkerOptions
from helios_core.storage.backends import Backends, Reach
from helios_core.storage.indexer import Indexer

_log = structlog.get_logger()


FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
"""The pauses before the process of a worker is restarted; each is twice as long as the last."""

M_MMAP_THRESHOLD = -3
"""mallopt(3): the size from which a block is mapped by itself instead of taken from an arena."""

M_TRIM_THRESHOLD = -1
"""mallopt(3): the size from which free memory at the end of an arena is returned."""

M_ARENA_MAX = -8
"""mallopt(3): the number of arenas, which the threads share."""

ARENAS = 2
"""Few, since each arena keeps its freed memory, and the GIL lets few threads allocate anyway."""

LARGE_BLOCK_BYTES = 8 * 1024 * 1024

KEPT_BYTES = 32 * 1024 * 1024
"""Enough to reuse the memory of batches of small resources without system calls."""


def release_large_blocks() -> None:
    """
    Make the C library return large blocks to the system as soon as they are freed.

    After the first large resource, glibc otherwise keeps such blocks, in one arena per thread.
    Measured: 40 MB more after fifty resources of 20 MB, and 50 MB more in many exports of small
    ones. Other C libraries do not keep them.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_ARENA_MAX, ARENAS)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def freeze_loaded_objects() -> None:
    """
    Exclude everything the process has loaded so far from later garbage collections.

    Code and FHIR definitions are hundreds of thousands of objects that stay. Scanning them in
    every full collection took a quarter of the processor time of an export from PostgreSQL.
    """
    gc.collect()
    gc.freeze()


def do_nothing() -> None:
    """Do nothing."""


async def work(
    settings: Settings,
    *,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None] = do_nothing,
    lifeline: int | None = None,
) -> None:
    """
    Work on exports without serving until SIGINT or SIGTERM, then hand shards back.

    End of file on the file descriptor `lifeline` stops it as well. `on_stop` is called when it
    stops. Handing back may take 90 % of HFS_WORKER_SHUTDOWN_TIMEOUT; the rest is for closing the
    backends. A second signal ends the process at once.

    Raises:
        ConfigurationError: A backend refuses to open.
        BackendUnavailable: A backend cannot be reached.
    """
    release_large_blocks()
    async with open_backends(settings) as backends:
        # With a lifeline, the parent process keeps the search index up to date.
        indexer = backends.indexer if lifeline is None else None
        with stop_at_signals(on_stop, lifeline=lifeline) as stop:
            async with indexing(indexer, stop):
                on_ready()
                workers = settings.bulk_export_worker_concurrency
                await work_until(stop, backends, settings, workers=workers)
    _log.info("worker.stopped")


async def work_until(
    stop: asyncio.Event, backends: Backends, settings: Settings, *, workers: int
) -> None:
    """
    Run `workers` workers until `stop` is set, then let them hand back their shards.

    All but one have a process of their own, unless the backends can only be used in this process.
    """
    freeze_loaded_objects()
    in_process = workers if backends.reach is Reach.PROCESS else min(workers, 1)
    options = _worker_options(settings)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(worker.run_worker(name, backends, options, stop=stop))
            for name in _names(in_process)
        ]
        tasks += [group.create_task(_supervise(stop)) for _ in range(workers - in_process)]
        await stop.wait()
        await _end(tasks, settings)


@asynccontextmanager
async def indexing(indexer: Indexer | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """Keep the search index up to date until the block ends, if there is one."""
    if indexer is None:
        yield
        return
    running = asyncio.ensure_future(indexer.run(stop))
    try:
        yield
    finally:
        # The next process to update the index repeats what was interrupted.
        running.cancel()
        await asyncio.wait([running])


def exit_after(timeout: timedelta) -> None:
    """
    End the process after `timeout`, whatever it still waits for.

    A backend that stopped responding can block threads and connections forever. Ending without
    clean-up is safe at any moment.
    """
    seconds = timeout.total_seconds()

    def end() -> None:
        _log.error("process.stop_overdue", timeout_seconds=seconds)
        sys.stdout.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


@contextmanager
def stop_at_signals(
    on_stop: Callable[[], None], *, lifeline: int | None = None
) -> Iterator[asyncio.Event]:
    """Yield an event set by SIGINT, SIGTERM or the end of the lifeline; a second signal kills."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def release() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        if lifeline is not None:
            loop.remove_reader(lifeline)

    def request_stop() -> None:
        _log.info("process.stopping")
        on_stop()
        stop.set()
        # A second signal means that the operator does not want to wait.
        release()

    for number in signals:
        loop.add_signal_handler(number, request_stop)
    if lifeline is not None:
        loop.add_reader(lifeline, request_stop)
    try:
        yield stop
    finally:
        release()


def grace_seconds(settings: Settings) -> float:
    """Return the seconds for workers and begun responses to finish before backends are closed."""
    return 0.9 * settings.worker_shutdown_timeout.total_seconds()


async def _supervise(stop: asyncio.Event) -> None:
    """Run one worker in a process of its own, and restart it when it ends before `stop`."""
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        started_at = time.monotonic()
        code = await _run_process(stop)
        if stop.is_set():
            return
        if time.monotonic() - started_at > MAX_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        _log.error("worker.died", code=code, again_in_seconds=pause)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


async def _run_process(stop: asyncio.Event) -> int:
    """Run the process of a worker until it ends or `stop` is set; return its exit code."""
    try:
        # -P: import no module from the folder in which the server happens to be started.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", __name__, stdin=asyncio.subprocess.PIPE
        )
    except OSError as error:
        _log.exception("worker.start_failed", reason=str(error))
        return 1
    _log.info("worker.started", pid=process.pid)
    ended = asyncio.ensure_future(process.wait())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        if process.stdin:
            process.stdin.close()
        return await ended
    finally:
        stopped.cancel()
        if process.returncode is None:
            process.kill()


async def _end(tasks: Sequence[asyncio.Task[None]], settings: Settings) -> None:
    if not tasks:
        return
    timeout = grace_seconds(settings)
    _, late = await asyncio.wait(tasks, timeout=timeout)
    for task in late:
        _log.warning("worker.late", timeout_seconds=timeout)
        task.cancel()


def _names(workers: int) -> list[str]:
    """Return names for the workers that no process on any machine shares."""
    process = f"{socket.gethostname()}-{os.getpid()}"
    return [f"{process}-{number}" for number in range(1, workers + 1)]


def _worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(
        lease_for=settings.bulk_export_lease_duration,
        heartbeat=settings.bulk_export_heartbeat_interval,
        max_attempts=settings.bulk_export_max_attempts,
        outage_patience=settings.bulk_export_outage_patience,
        limits=PartLimits(
            batch_bytes=settings.bulk_export_batch_bytes,
            batch_rows=settings.bulk_export_batch_size,
            part_bytes=settings.bulk_export_part_bytes,
            part_rows=settings.bulk_export_part_rows,
            compression=settings.bulk_export_compression,
        ),
    )


def main() -> int:
    """Run one worker until standard input ends or a signal stops it; return the exit code."""
    # SIGHUP is for the server, which reloads its certificate, but a service manager sends it to
    # every process. If a terminal hangs up, the end of standard input follows and ends the worker.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        configured = plugins.configure(os.environ).settings
        settings = replace(configured, bulk_export_worker_concurrency=1)
        logs.configure_logging(settings.log_level, settings.log_format)
        working = work(
            settings,
            on_ready=lambda: _log.info("worker.ready"),
            on_stop=lambda: exit_after(settings.worker_shutdown_timeout),
            lifeline=sys.stdin.fileno(),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(working)
    except HeliosError as error:
        _log.error("worker.start_failed", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
