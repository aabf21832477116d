"""Notifications from other processes, through one change stream per open store."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from helios_core import HeliosError
from helios_mongodb.background import background_task
from helios_mongodb.databases import Database
from helios_mongodb.errors import translated

log = structlog.stdlib.get_logger()

RECONNECT = timedelta(seconds=1)
"""The pause before another attempt to listen."""


@asynccontextmanager
async def listener(database: Database, notify: Callable[[], None]) -> AsyncIterator[None]:
    """
    Call `notify` at every notification, and whenever some may have been missed.

    A lost stream is replaced; until then there are no notifications, and nothing fails.
    """
    closing = asyncio.Event()
    async with background_task("listener", _listen(database, notify, closing)):
        try:
            yield
        finally:
            closing.set()


async def _listen(database: Database, notify: Callable[[], None], closing: asyncio.Event) -> None:
    while not closing.is_set():
        try:
            with translated():
                async with await database["news"].watch(max_await_time_ms=1000) as changes:
                    notify()
                    async for _ in changes:
                        if closing.is_set():
                            return
                        notify()
            log.warning("listener.lost", reason="the server ended the change stream")
        except Exception as error:  # noqa: BLE001  polling finds work in any case
            reason = str(error) if isinstance(error, HeliosError) else type(error).__name__
            log.warning("listener.lost", reason=reason)
        await asyncio.sleep(RECONNECT.total_seconds())
