"""Blocking calls from asynchronous code, for the edges of plugins."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

LARGE_BYTES = 16 * 1024
"""Computations on smaller inputs take a few milliseconds at most."""

_COMPUTING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="computing")

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run a blocking call in a thread, and never return while it still runs.

    `asyncio.to_thread` leaves the thread running when its caller is cancelled; the caller then
    closes a file that is still being written, whose number the next file may already have. Here a
    cancelled caller first waits for the call to end, then is cancelled. `anyio.to_thread.run_sync`
    waits in its own cancel scopes only.
    """
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
    return await run_to_end(asyncio.get_running_loop().run_in_executor(None, call))


async def compute(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Call a function that only computes, in a thread if its input has LARGE_BYTES or more.

    Threads take turns every few milliseconds, so the event loop goes on meanwhile. There is one
    thread for all of them: two computations would not be faster, and would need twice the memory.
    """
    if size < LARGE_BYTES:
        return function(*args, **kwargs)
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_COMPUTING, call)


async def run_to_end(work: Awaitable[T]) -> T:
    """Return the result of `work`; a cancelled caller waits for its end, then is cancelled."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _end_of(running)
        raise


async def _end_of(running: "asyncio.Future[T]") -> None:
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            continue  # the caller is being cancelled already, and passes that on
    if not running.cancelled():
        running.exception()  # retrieved, so that it is not logged: the caller is cancelled instead
