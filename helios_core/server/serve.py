"""Run a server until a signal stops it."""

import asyncio
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import structlog
import uvicorn
from msgspec.structs import replace

from helios_core.config.selection import open_backends
from helios_core.config.settings import Settings
from helios_core.errors import ConfigurationError
from helios_core.export import expiry, oversight
from helios_core.http.addresses import LOOPBACK_HOSTS
from helios_core.http.app import create_app
from helios_core.server.connections import HEAD_SECONDS, KEEP_ALIVE_SECONDS, LimitedProtocol
from helios_core.server.tls import reloader, server_context
from helios_core.server.work import (
    do_nothing,
    grace_seconds,
    indexing,
    release_large_blocks,
    stop_at_signals,
    work_until,
)
from helios_core.storage.backends import Backends

SWITCH_SECONDS = 0.001
BACKLOG = 2048
TICKS_BETWEEN_CHECKS = 10
"""Uvicorn's loop has ten ticks per second; connections are checked once per second."""

_log = structlog.get_logger()


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str], None],
    on_stop: Callable[[], None] = do_nothing,
) -> None:
    """
    Serve, work and sweep until SIGINT or SIGTERM.

    `on_ready` is called with the URL once the server accepts requests, `on_stop` at the signal.
    Stopping hands shards back and finishes the responses that have begun. It has 90 % of
    HFS_WORKER_SHUTDOWN_TIMEOUT for that; the rest is for closing the backends. A second signal
    ends the process at once.

    Raises:
        ConfigurationError: A backend refuses to open, or the server cannot or must not listen on
            the address.
        BackendUnavailable: A backend cannot be reached.
    """
    workers = settings.bulk_export_worker_concurrency
    if settings.bulk_export_disable_local_worker or not settings.bulk_export_enabled:
        workers = 0
    release_large_blocks()
    # While a thread computes, each turn of the event loop waits this long; the default is 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    check_exposure(settings)
    async with open_backends(settings, serving=True) as backends:
        tls = _tls(settings)
        listener = _listen(settings)
        server = _Server(_configuration(settings, backends), tls)
        with stop_at_signals(on_stop) as stop, _reload_at_hangup(settings, tls):
            async with indexing(backends.indexer, stop), asyncio.TaskGroup() as group:
                serving = group.create_task(server.serve([listener]))
                serving.add_done_callback(lambda _: stop.set())
                group.create_task(server.exit_at(stop))
                await server.ready.wait()
                on_ready(_address(listener, tls))
                sweeping = group.create_task(_sweep(stop, backends, settings))
                watching = group.create_task(
                    oversight.watch_workforce(
                        backends.job_store,
                        interval=settings.bulk_export_heartbeat_interval,
                        stop=stop,
                    )
                )
                await work_until(stop, backends, settings, workers=workers)
                # The next sweep of any server continues where this one is interrupted.
                sweeping.cancel()
                watching.cancel()
    _log.info("server.stopped")


class _Server(uvicorn.Server):
    """A Uvicorn server that reports when it accepts requests and does not handle signals."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; Uvicorn itself would wait a minute for each TLS handshake."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()

        def create_protocol() -> asyncio.Protocol:
            return LimitedProtocol(self.config, self.server_state, self.lifespan.state)

        self.servers = [
            await loop.create_server(
                create_protocol,
                sock=listener,
                backlog=BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=HEAD_SECONDS if self._tls else None,
            )
            for listener in sockets or ()
        ]
        self.started = True
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        """Check the time of every connection, once per second."""
        if counter % TICKS_BETWEEN_CHECKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.check_time(now)
        return await super().on_tick(counter)

    async def exit_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _configuration(settings: Settings, backends: Backends) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(with_own_hosts(settings), backends),
        http=LimitedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Uvicorn would trust every proxy on this machine; `PublicAddress` trusts the configured.
        proxy_headers=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(grace_seconds(settings))),
    )


def check_exposure(settings: Settings) -> None:
    """
    Warn if everybody who reaches the server may do everything.

    Raises:
        ConfigurationError: That is everybody on a network, and HFS_ALLOW_ANONYMOUS is not true.
    """
    if settings.auth_enabled:
        return
    if not (_is_loopback(settings.server_host) or settings.allow_anonymous):
        raise ConfigurationError(
            f"HFS_SERVER_HOST is {settings.server_host}, which is reachable from other machines, "
            "and HFS_AUTH_ENABLED is not true: everybody there could read and change everything. "
            "Set HFS_AUTH_ENABLED to true, or HFS_ALLOW_ANONYMOUS if this is meant"
        )
    _log.warning("auth.disabled", host=settings.server_host)


def with_own_hosts(settings: Settings) -> Settings:
    """
    Return the settings, which on an open server for this machine alone name its hosts.

    A web page can have its own host name lead to this machine (DNS rebinding). The page would then
    be of the same origin as the server, and a browser would let it read and change everything.
    """
    named = settings.base_url or settings.trusted_proxies or settings.allowed_hosts
    host = settings.server_host
    if settings.auth_enabled or settings.allow_anonymous or named or not _is_loopback(host):
        return settings
    own = f"[{host}]" if ":" in host else host
    return replace(settings, allowed_hosts=(*LOOPBACK_HOSTS, own))


def _is_loopback(host: str) -> bool:
    """Return whether every address of a host is reachable from this machine alone."""
    try:
        addresses = {str(i[4][0]) for i in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return False
    return bool(addresses) and all(ip_address(a.partition("%")[0]).is_loopback for a in addresses)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server_host, settings.server_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # `create_server` adds the address, which the sentence has already.
        reason, *_ = str(error.strerror or error).split(" (while ")
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({reason}); HFS_SERVER_HOST and HFS_SERVER_PORT "
            "choose another address, port 0 a free one"
        ) from error


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_context(settings.tls_cert, settings.tls_key)


@contextmanager
def _reload_at_hangup(settings: Settings, tls: ssl.SSLContext | None) -> Iterator[None]:
    """Load a renewed certificate on SIGHUP; without TLS that signal ends the process, as usual."""
    if tls is None or settings.tls_cert is None or settings.tls_key is None:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloader(tls, settings.tls_cert, settings.tls_key))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _address(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _sweep(stop: asyncio.Event, backends: Backends, settings: Settings) -> None:
    await expiry.sweep_periodically(
        backends,
        lifetimes=expiry.Lifetimes(
            output=settings.bulk_export_output_ttl,
            unfinished=settings.bulk_export_unfinished_ttl,
        ),
        interval=settings.bulk_export_cleanup_interval,
        stop=stop,
    )
