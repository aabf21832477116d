"""Tasks that run for as long as a database is open."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog

from helios_core import run_to_end

log = structlog.stdlib.get_logger()

CANCELLED_AGAIN_AFTER = timedelta(milliseconds=200)
"""How long a cancelled task may run before it is cancelled again."""

CANCELLATIONS = 50


@asynccontextmanager
async def background_task(name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine as a task, which is cancelled when the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await run_to_end(_end(name, task))


async def _end(name: str, task: "asyncio.Task[None]") -> None:
    """Cancel a task, repeatedly if needed: the driver may swallow a cancellation."""
    for _ in range(CANCELLATIONS):
        if task.done():
            return
        task.cancel()
        await asyncio.wait([task], timeout=CANCELLED_AGAIN_AFTER.total_seconds())
    log.warning("task.endless", task=name)
