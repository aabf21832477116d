"""News from other processes: one connection that listens for as long as the store is open."""

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
"""The pause between two tries to listen again."""

PULSE = timedelta(seconds=30)
"""How often a connection on which nothing comes is asked whether it is there."""


@asynccontextmanager
async def listener(
    settings: PostgresSettings, channel: str, heard: Callable[[], None]
) -> AsyncIterator[None]:
    """
    Call `heard` at every notification, and whenever some may have been missed.

    A connection that is lost is replaced; until it is, nothing is heard, and nothing fails.
    """
    task = asyncio.create_task(_listen_for_ever(settings, channel, heard))
    try:
        yield
    finally:
        task.cancel()
        await run_to_end(asyncio.wait([task]))


async def _listen_for_ever(
    settings: PostgresSettings, channel: str, heard: Callable[[], None]
) -> None:
    while True:
        try:
            async with connected(settings) as connection:
                await _listen(connection, channel, heard, patience=settings.connect_timeout)
            log.warning("listener.lost", reason="the server ended the connection")
        except Exception as error:  # noqa: BLE001  whatever it is, work is found by polling
            reason = str(error) if isinstance(error, HeliosError) else type(error).__name__
            log.warning("listener.lost", reason=reason)
        await asyncio.sleep(RECONNECT.total_seconds())


async def _listen(
    connection: Connection, channel: str, heard: Callable[[], None], *, patience: timedelta
) -> None:
    """Listen until the connection ends, or does not respond within `patience`."""
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    await connection.add_listener(channel, lambda *_: heard())
    heard()
    while not ended.is_set():
        try:
            async with asyncio.timeout(PULSE.total_seconds()):
                await ended.wait()
        except TimeoutError:
            with translated():
                await connection.execute("SELECT 1", timeout=patience.total_seconds())
