"""Measure how much memory Python allocates at most while a backend works."""

import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PAUSE_SECONDS = 0.2
"""How long to wait until threads of drivers have freed their memory."""


@asynccontextmanager
async def peak_allocation() -> AsyncIterator[Callable[[], int]]:
    """Yield a function that returns the peak bytes that Python has allocated since the start."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        # A thread of a driver that has just delivered a result still frees what Python keeps of
        # it, without the GIL. `stop` at that moment ends the process (CPython issue 128679). The
        # event loop is blocked on purpose, so that the driver gets no other work meanwhile.
        time.sleep(PAUSE_SECONDS)  # noqa: ASYNC251
        tracemalloc.stop()
