"""News from other processes: one change stream for as long as the store is open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from helios_core import HeliosError
from helios_mongodb.background import beside
from helios_mongodb.databases import Database
from helios_mongodb.errors import translated

log = structlog.stdlib.get_logger()

RECONNECT = timedelta(seconds=1)
"""The pause between two tries to listen again."""


@asynccontextmanager
async def listener(database: Database, heard: Callable[[], None]) -> AsyncIterator[None]:
    """
    Call `heard` at every change of the news, and whenever some may have been missed.

    A stream that is lost is replaced; until it is, nothing is heard, and nothing fails.
    """
    closing = asyncio.Event()
    async with beside("listener", _listen(database, heard, closing)):
        try:
            yield
        finally:
            closing.set()


async def _listen(database: Database, heard: Callable[[], None], closing: asyncio.Event) -> None:
    while not closing.is_set():
        try:
            with translated():
                async with await database["news"].watch(max_await_time_ms=1000) as changes:
                    heard()
                    async for _ in changes:
                        if closing.is_set():
                            return
                        heard()
            log.warning("listener.lost", reason="the server ended the change stream")
        except Exception as error:  # noqa: BLE001  whatever it is, work is found by polling
            reason = str(error) if isinstance(error, HeliosError) else type(error).__name__
            log.warning("listener.lost", reason=reason)
        await asyncio.sleep(RECONNECT.total_seconds())
