import asyncio
import gc
import threading

import pytest

from helios_core.storage.threads import in_thread


async def test_a_call_gives_its_result_and_takes_arguments():
    assert await in_thread(divmod, 7, 2) == (3, 1)
    assert await in_thread(sorted, [1, 2], reverse=True) == [2, 1]


async def test_an_error_of_the_call_passes():
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_caller_waits_for_the_call_to_end(cancellations):
    begun, may_end = threading.Event(), threading.Event()
    ended = []

    def call():
        begun.set()
        may_end.wait(10)
        ended.append(True)

    caller = asyncio.create_task(in_thread(call))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(cancellations):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True]


async def test_a_call_that_fails_after_its_caller_was_cancelled_still_cancels():
    begun, may_end = threading.Event(), threading.Event()

    def call():
        begun.set()
        may_end.wait(10)
        raise RuntimeError("too late to matter")

    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
    caller = asyncio.create_task(in_thread(call))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []
