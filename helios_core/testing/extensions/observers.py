"""The contract suite of observers: clauses E1 to E4 of `ObserverExtension`."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from helios_core import Backends, Job, JobStatus, Observer, ObserverExtension
from helios_core.config.extensions import SelectedExtension, is_asynchronous
from helios_core.storage.isolation import THREAD_NAME, call_within, start_thread
from helios_core.testing import corpus
from helios_core.testing.extensions.contract import ExtensionSuite

PATIENCE_SECONDS = 10
ATTEMPTS = 1000


class ObserverSuite(ExtensionSuite):
    """
    Tests that every observer of jobs passes.

    A subclass implements the fixture `extension` and its `settings`. By the time `subject` is
    opened, whatever the observer connects to must be running.
    """

    hook = "helios_observer"

    @pytest.fixture
    async def subject(
        self, extension: ObserverExtension, selected: SelectedExtension, backends: Backends
    ) -> AsyncIterator[Observer]:
        """Open the observer."""
        async with extension.open(selected.settings, backends) as observer:
            yield observer

    async def test_jobs_in_any_status_are_taken(
        self, subject: Observer, extension: ObserverExtension
    ) -> None:
        """E1: also of a tenant that was never seen before."""
        for status in JobStatus:
            job = replace(corpus.job(f"job-{status}", tenant="unheard-of"), status=status)
            await call_within(extension.time_limit, _observe, subject, job)

    async def test_the_same_job_may_come_twice(
        self, subject: Observer, extension: ObserverExtension
    ) -> None:
        """E2: two processes may both see that a job has ended."""
        job = replace(corpus.job("job"), status=JobStatus.COMPLETE)

        for _ in range(2):
            await call_within(extension.time_limit, _observe, subject, job)

    async def test_a_call_ends_when_it_is_cancelled(self, subject: Observer) -> None:
        """E3: a late call is cancelled, and the next job waits for its end."""
        if not is_asynchronous(subject):
            pytest.skip("the observer is called in a thread, which cannot be cancelled")
        awaitable = subject(corpus.job("job"))
        assert awaitable is not None
        running = asyncio.ensure_future(awaitable)
        await asyncio.sleep(0)
        running.cancel()

        await asyncio.wait({running}, timeout=PATIENCE_SECONDS)

        assert running.done()

    async def test_leaving_the_context_leaves_nothing_running(
        self, extension: ObserverExtension, selected: SelectedExtension, backends: Backends
    ) -> None:
        """E4: a process that stops cannot wait for tasks and threads that it does not know."""
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())

        async with AsyncExitStack() as stack:
            observer = await stack.enter_async_context(extension.open(selected.settings, backends))
            await call_within(extension.time_limit, _observe, observer, corpus.job("job"))
        for _ in range(ATTEMPTS):
            if asyncio.all_tasks() != tasks or _left(threads):
                await asyncio.sleep(PATIENCE_SECONDS / ATTEMPTS)

        assert asyncio.all_tasks() == tasks
        assert _left(threads) == []


def _left(before: set[threading.Thread]) -> list[str]:
    """Return the threads started since `before`, without those of the loop and the server."""
    names = [thread.name for thread in set(threading.enumerate()) - before]
    return [name for name in names if not name.startswith(("asyncio_", THREAD_NAME))]


async def _observe(observer: Observer, job: Job) -> None:
    """Call an observer as the server does: in a thread, then on the loop if it is asynchronous."""
    result = await start_thread(observer, job)
    if inspect.isawaitable(result):
        await result
