"""Run a server or workers until a signal asks to stop."""

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import structlog
import uvicorn

from helios_core import expiry, worker
from helios_core.errors import ConfigurationError
from helios_core.http.app import create_app
from helios_core.pipeline import PartLimits
from helios_core.plugins import Backends, open_backends
from helios_core.settings import Settings
from helios_core.worker import WorkerOptions

_log = structlog.get_logger()


M_MMAP_THRESHOLD = -3
"""mallopt(3): from which size on a block is not part of an arena."""

M_TRIM_THRESHOLD = -1
"""mallopt(3): from which size on free memory at the end of an arena goes back to the system."""

M_ARENA_MAX = -8
"""mallopt(3): how many arenas there are, between which the threads share themselves out."""

ARENAS = 2
"""Every arena keeps what was freed in it; the interpreter's lock lets few threads allocate."""

LARGE_BLOCK_BYTES = 8 * 1024 * 1024

KEPT_BYTES = 32 * 1024 * 1024
"""Enough for the batches of small resources to be made anew without asking the system."""


def return_large_blocks() -> None:
    """
    Have the C library give large blocks back to the system as soon as they are freed.

    glibc otherwise learns from the first large resource to keep such blocks, in one arena per
    thread: measured, 40 MB more after fifty resources of 20 MB, and 50 MB more in many exports of
    small ones. Other C libraries keep none.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_ARENA_MAX, ARENAS)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def keep_what_is_loaded() -> None:
    """
    Take what the process has loaded until now out of every later garbage collection.

    Code and tables are hundreds of thousands of objects that stay. Looked at in every full
    collection, they took a quarter of the processor time of an export from PostgreSQL.
    """
    gc.collect()
    gc.freeze()


def nothing() -> None:
    """Do nothing."""


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str], None],
    on_stop: Callable[[], None] = nothing,
) -> None:
    """
    Serve, work and sweep until SIGINT or SIGTERM; `on_ready` is told the address once it answers.

    `on_stop` is called at the signal. Stopping hands shards back and lets answers under way end,
    for most of HFS_WORKER_SHUTDOWN_TIMEOUT; the rest is for closing the backends. A second signal
    ends the process at once.

    Raises:
        ConfigurationError: A backend refuses to open, or the address cannot be listened on.
        BackendUnavailable: A backend cannot be reached.
    """
    workers = settings.bulk_export_worker_concurrency
    if settings.bulk_export_disable_local_worker or not settings.bulk_export_enabled:
        workers = 0
    return_large_blocks()
    async with open_backends(settings) as backends:
        listener = _listen(settings)
        server = _Server(_configuration(settings, backends))
        with _stop_at_signals(on_stop) as stop:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(server.serve([listener]))
                serving.add_done_callback(lambda _: stop.set())
                group.create_task(server.exit_at(stop))
                await server.ready.wait()
                on_ready(_address(listener))
                await _work_until(stop, backends, settings, workers=workers, sweeps=True)
    _log.info("server.stopped")


async def work(
    settings: Settings, *, on_ready: Callable[[], None], on_stop: Callable[[], None] = nothing
) -> None:
    """
    Work without serving until SIGINT or SIGTERM, then hand shards back; `on_stop` as in `serve`.

    Raises:
        ConfigurationError: A backend refuses to open.
        BackendUnavailable: A backend cannot be reached.
    """
    workers = settings.bulk_export_worker_concurrency
    return_large_blocks()
    async with open_backends(settings) as backends:
        with _stop_at_signals(on_stop) as stop:
            on_ready()
            await _work_until(stop, backends, settings, workers=workers, sweeps=False)
    _log.info("worker.stopped")


def exit_after(timeout: timedelta) -> None:
    """
    End the process when the time is over, whatever it still waits for.

    A store that went silent can hold threads and connections for ever, and nothing it holds is
    needed: a stop without ceremony is survived at any moment.
    """
    seconds = timeout.total_seconds()

    def leave() -> None:
        _log.error("process.stop_overdue", timeout_seconds=seconds)
        sys.stdout.flush()
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


class _Server(uvicorn.Server):
    """Uvicorn that says when it answers, and leaves the signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def exit_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration(settings: Settings, backends: Backends) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings, backends),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(_patience(settings))),
    )


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server_host, settings.server_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error.strerror or error}); HFS_SERVER_HOST "
            "and HFS_SERVER_PORT choose another address, port 0 a free one"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _stop_at_signals(on_stop: Callable[[], None]) -> Iterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def release() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def asked() -> None:
        _log.info("process.stopping")
        on_stop()
        stop.set()
        # Whoever asks twice does not want to wait.
        release()

    for number in signals:
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        release()


async def _work_until(
    stop: asyncio.Event, backends: Backends, settings: Settings, *, workers: int, sweeps: bool
) -> None:
    options = _worker_options(settings)
    keep_what_is_loaded()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(worker.run(name, backends, options, stop=stop))
            for name in _names(workers)
        ]
        sweeping = group.create_task(_sweep(stop, backends, settings)) if sweeps else None
        await stop.wait()
        if sweeping:
            # The next sweep, of any server, goes on where this one was.
            sweeping.cancel()
        await _end(tasks, settings)


async def _end(tasks: Sequence[asyncio.Task[None]], settings: Settings) -> None:
    if not tasks:
        return
    timeout = _patience(settings)
    _, late = await asyncio.wait(tasks, timeout=timeout)
    for task in late:
        _log.warning("worker.late", timeout_seconds=timeout)
        task.cancel()


def _patience(settings: Settings) -> float:
    """How many seconds workers and answers under way have; closing the backends has the rest."""
    return 0.9 * settings.worker_shutdown_timeout.total_seconds()


async def _sweep(stop: asyncio.Event, backends: Backends, settings: Settings) -> None:
    await expiry.run(
        backends,
        output_ttl=settings.bulk_export_output_ttl,
        interval=settings.bulk_export_cleanup_interval,
        stop=stop,
    )


def _names(workers: int) -> list[str]:
    """Name the workers so that no other process on any machine uses the names."""
    process = f"{socket.gethostname()}-{os.getpid()}"
    return [f"{process}-{number}" for number in range(1, workers + 1)]


def _worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(
        lease_for=settings.bulk_export_lease_duration,
        heartbeat=settings.bulk_export_heartbeat_interval,
        max_attempts=settings.bulk_export_max_attempts,
        limits=PartLimits(
            batch_bytes=settings.bulk_export_batch_bytes,
            batch_rows=settings.bulk_export_batch_size,
            part_bytes=settings.bulk_export_part_bytes,
            part_rows=settings.bulk_export_part_rows,
            compression=settings.bulk_export_compression,
        ),
    )
