"""
Call code of plugins so that it neither holds up other tasks for long nor ends the process.

It cannot contain an asynchronous function that blocks: the contracts forbid that.
"""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from traceback import extract_tb
from typing import Any, ParamSpec, TypeVar

from helios_core.errors import (
    BackendError,
    BackendUnavailable,
    HeliosError,
    JobNotFound,
    LeaseLost,
    RequestError,
)

P = ParamSpec("P")
T = TypeVar("T")

THREAD_NAME = "helios_plugin"
"""The name of the threads started here."""

_abandoned = set[asyncio.Future[Any]]()
"""Calls that did not end in time; referenced, so that they are not garbage-collected."""


class Overdue(Exception):
    """A call took longer than it may."""

    def __init__(self, call: asyncio.Future[Any]) -> None:
        super().__init__()
        self.call = call
        """The call itself; it is done once it has really ended."""


async def call_within(
    limit: timedelta, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """
    Return the result of an asynchronous call, which may take at most `limit`.

    A late call is cancelled but not waited for, since it may ignore the cancellation. Whatever it
    raises arrives as an `Exception`: SystemExit in a task would end the event loop.

    Raises:
        Overdue: The call is late.
    """
    call = asyncio.ensure_future(_only_exceptions(function, *args, **kwargs))
    try:
        await asyncio.wait({call}, timeout=limit.total_seconds())
        if call.done():
            return _result_of(call)
    finally:
        abandon(call)
    raise Overdue(call)


async def decide_within(
    name: str,
    limit: timedelta,
    refusal: type[RequestError],
    function: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """
    Return the decision of a plugin about access, which may take at most `limit`.

    Raises:
        RequestError: The plugin refuses, by an error of the class `refusal`.
        BackendUnavailable: The plugin is late, or raises this error.
        BackendError: The plugin raises anything else.
    """
    refused: RequestError
    with contained():
        try:
            return await call_within(limit, function, *args, **kwargs)
        except refusal as error:
            refused = error
        except Overdue as error:
            raise BackendUnavailable(f"the {name} is late") from error
    raise refused


def abandon(call: asyncio.Future[Any]) -> None:
    """Cancel a call without waiting for its end; do nothing if it has ended."""
    if call.done():
        return
    call.cancel()
    _abandoned.add(call)
    call.add_done_callback(_forget)


def start_thread(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> "asyncio.Future[T]":
    """
    Start a blocking call in a thread of its own, and return the future of its result.

    Unlike a thread of a pool, it delays neither the end of the loop nor that of the process, and
    holds up no other call if it never returns. Cancelling the future leaves the thread running.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))

    def run() -> None:
        try:
            settle = partial(_set_result, future, call())
        except BaseException as error:  # noqa: BLE001  whatever it is, it ends this call only
            settle = partial(_set_exception, future, _as_exception(error))
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
    return future


class ThreadSlots:
    """Runs at most `size` blocking calls at once, in threads; one that hangs keeps its slot."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    async def run(
        self, limit: timedelta, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Return the result of a blocking call; `limit` includes the wait for a slot.

        Raises:
            Overdue: The call is late. Its thread goes on.
        """
        return await call_within(limit, self._run, partial(function, *args, **kwargs))

    async def _run(self, function: Callable[[], T]) -> T:
        await self._free.acquire()
        try:
            running = start_thread(function)
        except BaseException:
            self._free.release()
            raise
        running.add_done_callback(lambda _: self._free.release())
        # Shielded, so that the future ends when the thread does and not when nobody waits.
        return await asyncio.shield(running)


@contextmanager
def contained() -> Iterator[None]:
    """
    Convert any exception that a backend should not raise into a BackendError.

    Background loops go on after a BackendError; a defect of one backend, or a row that it cannot
    read, must not end the process and everybody else's exports. The cancellation of the task
    itself passes; a CancelledError that comes from within the backend does not.

    Raises:
        BackendError: The block raised anything but a BackendError, LeaseLost or JobNotFound.
    """
    try:
        yield
    except (BackendError, LeaseLost, JobNotFound, KeyboardInterrupt):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _defect(error) from error
    except BaseException as error:  # GeneratorExit cannot come here, and SystemExit must not pass
        raise _defect(error) from error


def _defect(error: BaseException) -> BackendError:
    frame = extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename}:{frame.lineno} {frame.name}"
    reason = reason_for_log(error)
    text = f"a backend raised {type(error).__name__} ({where})"
    return BackendError(f"{text}: {reason}" if reason else text)


def reason_for_log(error: BaseException) -> str:
    """Return the message of one of our errors, or nothing: others may quote resources."""
    return str(error) if isinstance(error, HeliosError) else ""


def frames_of(error: BaseException) -> list[str]:
    """Return where an error was raised, outermost first, without the values of variables."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in extract_tb(error.__traceback__)
    ]


async def _only_exceptions(
    function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    try:
        return await function(*args, **kwargs)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise _as_exception(error) from error


def _result_of(call: "asyncio.Future[T]") -> T:
    if call.cancelled():
        raise RuntimeError("the call cancelled itself")
    return call.result()


def _as_exception(error: BaseException) -> Exception:
    # A future takes no StopIteration; asyncio passes SystemExit on to whoever runs the loop.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the call raised {type(error).__name__}")


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _forget(call: asyncio.Future[Any]) -> None:
    _abandoned.discard(call)
    if not call.cancelled():
        call.exception()  # retrieved, or asyncio would log that nobody did
