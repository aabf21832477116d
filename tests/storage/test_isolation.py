"""Code of plugins that hangs, blocks or raises what ends a process."""

import asyncio
import threading
from datetime import timedelta

import pytest

from helios_core.errors import BackendUnavailable
from helios_core.storage.isolation import (
    Overdue,
    ThreadSlots,
    abandon,
    call_within,
    frames_of,
    reason_for_log,
    start_thread,
)
from tests.pace import scaled

AT_ONCE = timedelta(milliseconds=1)
LONG = timedelta(seconds=60)


def raising(error):
    def raise_it():
        raise error

    return raise_it


def raising_later(error):
    async def raise_it():
        raise error

    return raise_it


async def test_a_call_in_time_gives_its_result():
    async def double(number):
        return 2 * number

    assert await call_within(LONG, double, 21) == 42


async def test_a_late_call_is_cancelled():
    cancelled = asyncio.Event()

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(Overdue):
        await call_within(AT_ONCE, hang)
    await asyncio.wait_for(cancelled.wait(), scaled(20))


async def test_a_call_that_ignores_its_cancellation_is_not_waited_for():
    released = asyncio.Event()

    async def stubborn():
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(Overdue) as overdue:
        await call_within(AT_ONCE, stubborn)

    assert not overdue.value.call.done()
    released.set()
    await asyncio.wait({overdue.value.call}, timeout=scaled(20))
    assert overdue.value.call.done()


async def test_a_timeout_that_the_call_raises_itself_is_its_own_error():
    with pytest.raises(TimeoutError):
        await call_within(LONG, raising_later(TimeoutError()))


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
async def test_nothing_that_a_call_raises_ends_the_loop(error):
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await call_within(LONG, raising_later(error))


async def test_a_call_that_cancels_itself_fails_like_any_other():
    with pytest.raises(RuntimeError, match="cancelled itself"):
        await call_within(LONG, raising_later(asyncio.CancelledError()))


async def test_whoever_is_cancelled_while_waiting_leaves_nothing_running():
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.ensure_future(call_within(LONG, hang))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(ended.wait(), scaled(20))


async def test_abandoning_what_has_ended_does_nothing():
    done = asyncio.get_running_loop().create_future()
    done.set_result(1)

    abandon(done)

    assert done.result() == 1


async def test_a_thread_gives_its_result():
    assert await start_thread(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration()])
async def test_nothing_that_a_thread_raises_ends_the_loop(error):
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await start_thread(raising(error))


async def test_an_ordinary_error_of_a_thread_is_passed_on():
    with pytest.raises(KeyError, match="x"):
        await start_thread(raising(KeyError("x")))


def test_a_thread_that_hangs_keeps_no_loop_from_closing():
    release = threading.Event()

    async def start():
        start_thread(release.wait)

    asyncio.run(start())

    release.set()


async def test_a_hanging_thread_keeps_its_slot_and_the_others_work():
    slots, release = ThreadSlots(2), threading.Event()
    with pytest.raises(Overdue):
        await slots.run(AT_ONCE, release.wait)

    assert await slots.run(LONG, int, "7") == 7

    with pytest.raises(Overdue):
        await slots.run(AT_ONCE, release.wait)
    with pytest.raises(Overdue):
        await slots.run(AT_ONCE, int, "7")
    release.set()
    assert await slots.run(LONG, int, "7") == 7


def test_only_our_own_errors_speak_in_logs():
    assert reason_for_log(BackendUnavailable("the queue is down")) == "the queue is down"
    assert reason_for_log(ValueError("Jane Doe, born 1970")) == ""


def test_a_log_says_where_an_error_was_raised():
    with pytest.raises(ValueError, match="x") as caught:
        raising(ValueError("x"))()

    assert frames_of(caught.value)[-1].endswith(" raise_it")
