"""Notifications from other processes, through one listening connection per open store."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from helios_core import HeliosError, run_to_end
from helios_postgres.connections import Connection, connected
from helios_postgres.errors import translated
from helios_postgres.settings import PostgresSettings

log = structlog.stdlib.get_logger()

RECONNECT = timedelta(seconds=1)
"""The pause before another attempt to listen."""

CHECK_EVERY = timedelta(seconds=30)
"""How often a silent connection is checked."""


@asynccontextmanager
async def listener(
    settings: PostgresSettings, channel: str, notify: Callable[[], None]
) -> AsyncIterator[None]:
    """
    Call `notify` at every notification, and whenever some may have been missed.

    A lost connection is replaced; until then there are no notifications, and nothing fails.
    """
    task = asyncio.create_task(_listen_for_ever(settings, channel, notify))
    try:
        yield
    finally:
        task.cancel()
        await run_to_end(asyncio.wait([task]))


async def _listen_for_ever(
    settings: PostgresSettings, channel: str, notify: Callable[[], None]
) -> None:
    while True:
        try:
            async with connected(settings) as connection:
                await _listen(connection, channel, notify, patience=settings.connect_timeout)
            log.warning("listener.lost", reason="the server ended the connection")
        except Exception as error:  # noqa: BLE001  polling finds work in any case
            reason = str(error) if isinstance(error, HeliosError) else type(error).__name__
            log.warning("listener.lost", reason=reason)
        await asyncio.sleep(RECONNECT.total_seconds())


async def _listen(
    connection: Connection, channel: str, notify: Callable[[], None], *, patience: timedelta
) -> None:
    """Listen until the connection ends, or does not respond within `patience`."""
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    await connection.add_listener(channel, lambda *_: notify())
    notify()
    while not ended.is_set():
        try:
            async with asyncio.timeout(CHECK_EVERY.total_seconds()):
                await ended.wait()
        except TimeoutError:
            with translated():
                await connection.execute("SELECT 1", timeout=patience.total_seconds())
