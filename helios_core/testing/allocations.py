"""How much memory Python allocates at most while a backend works."""

import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PAUSE_SECONDS = 0.2


@asynccontextmanager
async def peak_allocation() -> AsyncIterator[Callable[[], int]]:
    """Yield what returns the most bytes that Python has had allocated at once since then."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        # A thread of a driver that has just delivered a result still frees what Python keeps of
        # it, without the GIL. `stop` at that moment ends the process (CPython issue 128679). The
        # event loop stands still, so that nothing else is asked of the driver meanwhile.
        time.sleep(PAUSE_SECONDS)  # noqa: ASYNC251
        tracemalloc.stop()
