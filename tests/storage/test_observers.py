"""Observers are called in their own time, and hold nobody up."""

import asyncio
import threading
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from helios_core.errors import BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.model.exports import ExportRequest, Level
from helios_core.model.jobs import Job
from helios_core.storage import observers as module
from helios_core.storage.observers import JobAnnouncer
from tests.pace import scaled

LONG = timedelta(seconds=60)
SHORT = timedelta(milliseconds=1)


def job(job_id="j1"):
    request = ExportRequest(
        tenant="t", url="http://x", fhir_version=FHIRVersion.R4, level=Level.SYSTEM, types=()
    )
    return Job(id=job_id, request=request, transaction_time=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def watched():
    """Observe what a new announcer announces, until the test ends."""
    async with AsyncExitStack() as stack:

        async def watched(*observers, time_limit=LONG):
            announcer = JobAnnouncer()
            for number, observer in enumerate(observers):
                await stack.enter_async_context(
                    announcer.observed_by(
                        f"o{number}", observer, time_limit=time_limit, drain=LONG
                    )
                )
            return announcer

        yield watched


class Seen:
    """Observes jobs, and lets a test wait for some."""

    def __init__(self, wanted):
        self.ids = []
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._all = asyncio.Event()

    def __call__(self, job):
        self.ids.append(job.id)
        self.threads = threading.get_ident()
        if len(self.ids) == self._wanted:
            self._loop.call_soon_threadsafe(self._all.set)

    async def asynchronous(self, job):
        self(job)

    async def wait(self):
        await asyncio.wait_for(self._all.wait(), scaled(30))


async def test_jobs_come_one_after_the_other(watched):
    seen = Seen(3)
    announcer = await watched(seen)

    for name in "abc":
        announcer.announce(job(name))

    await seen.wait()
    assert seen.ids == ["a", "b", "c"]


async def test_a_blocking_observer_has_a_thread_and_an_asynchronous_one_the_loop(watched):
    blocking, asynchronous = Seen(1), Seen(1)
    announcer = await watched(blocking, asynchronous.asynchronous)

    announcer.announce(job())

    await blocking.wait()
    await asynchronous.wait()
    assert blocking.threads != threading.get_ident()
    assert asynchronous.threads == threading.get_ident()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("Jane Doe"), ""),
        (BackendUnavailable("the queue is down"), "the queue is down"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_observer_that_raises_is_logged_and_called_again(
    watched, error, reason, asynchronous
):
    seen = Seen(2)

    def grumpy(job):
        seen(job)
        raise error

    async def grumpy_later(job):
        grumpy(job)

    announcer = await watched(grumpy_later if asynchronous else grumpy)
    with structlog.testing.capture_logs() as lines:
        announcer.announce(job("a"))
        announcer.announce(job("b"))
        await seen.wait()
        while len(lines) < 2:
            await asyncio.sleep(0.001)

    assert [(line["event"], line["plugin"], line["job_id"]) for line in lines] == [
        ("observer.failed", "o0", "a"),
        ("observer.failed", "o0", "b"),
    ]
    assert {line["error"] for line in lines} == {type(error).__name__}
    assert {line["reason"] for line in lines} == {reason}
    assert "Jane" not in str(lines)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
async def test_an_observer_cannot_end_the_process(watched, error):
    seen = Seen(2)

    async def leaving(job):
        seen(job)
        raise error

    announcer = await watched(leaving)
    announcer.announce(job("a"))
    announcer.announce(job("b"))

    await seen.wait()


async def test_one_that_hangs_keeps_no_other_waiting(watched):
    release, seen = threading.Event(), Seen(1)
    announcer = await watched(lambda _: release.wait() and None, seen)

    announcer.announce(job())

    await seen.wait()
    release.set()


async def test_a_late_observer_is_told_of_and_its_next_job_waits_for_it(watched):
    release, seen = threading.Event(), Seen(2)

    def slow(job):
        release.wait()
        seen(job)

    announcer = await watched(slow, time_limit=SHORT)
    with structlog.testing.capture_logs() as lines:
        announcer.announce(job("a"))
        announcer.announce(job("b"))
        while not lines:
            await asyncio.sleep(0.001)
        assert seen.ids == []
        release.set()
        await seen.wait()

    assert (lines[0]["event"], lines[0]["job_id"]) == ("observer.overdue", "a")
    assert seen.ids == ["a", "b"]


async def test_a_late_asynchronous_observer_is_cancelled(watched):
    seen = Seen(2)

    async def slow(job):
        try:
            await asyncio.Event().wait()
        finally:
            seen(job)

    announcer = await watched(slow, time_limit=SHORT)
    announcer.announce(job("a"))
    announcer.announce(job("b"))

    await seen.wait()


async def test_what_no_longer_fits_into_the_queue_is_dropped_and_told(watched, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    release = threading.Event()
    announcer = await watched(lambda _: release.wait() and None)

    with structlog.testing.capture_logs() as lines:
        for number in range(4):  # before the observer's task has run at all
            announcer.announce(job(str(number)))
    release.set()

    assert [(line["event"], line["job_id"]) for line in lines] == [
        ("observer.overrun", "2"),
        ("observer.overrun", "3"),
    ]


async def test_the_end_waits_for_what_was_announced():
    seen, announcer = Seen(2), JobAnnouncer()

    async with announcer.observed_by("o", seen, time_limit=LONG, drain=LONG):
        announcer.announce(job("a"))
        announcer.announce(job("b"))

    assert seen.ids == ["a", "b"]
    announcer.announce(job("c"))
    assert seen.ids == ["a", "b"]


async def test_the_end_does_not_wait_for_ever():
    release, announcer = threading.Event(), JobAnnouncer()

    with structlog.testing.capture_logs() as lines:
        async with announcer.observed_by(
            "o", lambda _: release.wait() and None, time_limit=LONG, drain=SHORT
        ):
            announcer.announce(job("a"))
            announcer.announce(job("b"))
            await asyncio.sleep(0)
    release.set()

    assert [(line["event"], line["jobs"]) for line in lines] == [("observer.undelivered", 2)]
