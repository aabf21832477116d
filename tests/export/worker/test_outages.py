"""Backends that are away: what waits for them, for how long, and what it says."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.export.oversight import problems
from helios_core.export.worker import LONGEST_PAUSE, Worker, WorkerOptions
from helios_core.model.jobs import JobStatus
from tests.export.worker.hospital import observation, patient
from tests.export.worker.test_failures import FullDisk
from tests.pace import scaled

MORE_THAN_ALL_ATTEMPTS = 12
MOMENT = timedelta(milliseconds=1)


@pytest.fixture
async def ward(hospital):
    await hospital.store(patient("p1"), patient("p2"))
    return hospital


def fails_first(backend, method, *, times=MORE_THAN_ALL_ATTEMPTS):
    """Make a method of a backend unavailable for some calls."""
    original, left = getattr(backend, method), [None] * times

    async def flaky(*args, **options):
        if left:
            left.pop()
            raise BackendUnavailable("the backend is away")
        return await original(*args, **options)

    setattr(backend, method, flaky)
    return left


def unreadable_at_first(provider):
    original, left = provider.read, [None] * MORE_THAN_ALL_ATTEMPTS

    async def flaky(*args, **options):
        if left:
            left.pop()
            raise BackendUnavailable("the backend is away")
        async for batch in original(*args, **options):
            yield batch

    provider.read = flaky
    return left


async def test_an_output_store_that_is_away_uses_up_no_attempts(ward):
    ward.output_store = FullDisk(failures=MORE_THAN_ALL_ATTEMPTS)

    assert await ward.export() == ["Patient/p1", "Patient/p2"]


async def test_a_data_provider_that_is_away_uses_up_no_attempts(ward):
    job = await ward.kick_off()
    left = unreadable_at_first(ward.data_provider)

    job = await ward.work(job)

    assert (job.status, left) == (JobStatus.COMPLETE, [])
    assert len(await ward.lines(job)) == 2


async def test_a_cohort_that_cannot_be_resolved_uses_up_no_attempts(ward):
    query = ("_typeFilter", "Patient?organization.name=x")
    job = await ward.kick_off(("_type", "Patient"), query)
    left = fails_first(ward.data_provider, "plan")

    job = await ward.work(job)

    assert (job.status, left) == (JobStatus.COMPLETE, [])


@pytest.mark.parametrize("method", ["complete", "postpone"])
async def test_a_job_store_that_is_away_uses_up_no_attempts(ward, method):
    """The commit included; and what was not published leaves nothing behind."""
    job = await ward.kick_off()
    if method == "postpone":
        ward.output_store = FullDisk(failures=1)
    left = fails_first(ward.job_store, method, times=5)
    stop = asyncio.Event()
    options = WorkerOptions(idle=MOMENT, first_pause=MOMENT, max_attempts=1)
    async with asyncio.timeout(scaled(60)), asyncio.TaskGroup() as group:
        group.create_task(Worker("w", ward.backends, options, stop=stop).run())
        while (job := await ward.job_store.get(job.tenant, job.id)).status.active:
            await asyncio.sleep(0.002)
        stop.set()

    assert (job.status, left) == (JobStatus.COMPLETE, [])
    stored = Counter([found async for found in ward.output_store.jobs()])
    published = await ward.job_store.parts(job.tenant, job.id)
    assert stored.total() == 1
    assert len(ward.output_store._parts) == len(published)


async def test_a_lease_that_cannot_be_renewed_is_handed_back(ward):
    """Otherwise it lapses, and that counts as an attempt."""
    await ward.store(*(observation(f"o{number}", "p1") for number in range(3)))
    job = await ward.kick_off()
    started, away = asyncio.Event(), asyncio.Event()
    put, renew = ward.output_store.put, ward.job_store.renew
    attempts = set[int]()

    async def slow(key, chunks):
        started.set()
        while away.is_set():
            await asyncio.sleep(0.001)
        return await put(key, chunks)

    async def unreachable(lease, **rest):
        attempts.add(lease.attempt)
        if away.is_set():
            raise BackendUnavailable("away")
        await renew(lease, **rest)

    away.set()
    ward.output_store.put, ward.job_store.renew = slow, unreachable
    options = WorkerOptions(
        idle=MOMENT, first_pause=MOMENT, lease_for=5 * MOMENT, heartbeat=MOMENT, max_attempts=1
    )
    stop = asyncio.Event()
    with capture_logs() as lines:
        async with asyncio.timeout(scaled(60)), asyncio.TaskGroup() as group:
            group.create_task(Worker("w", ward.backends, options, stop=stop).run())
            await started.wait()
            while "shard.waiting" not in [line["event"] for line in lines]:
                await asyncio.sleep(0.002)
            away.clear()
            while (job := await ward.job_store.get(job.tenant, job.id)).status.active:
                await asyncio.sleep(0.002)
            stop.set()

    assert job.status is JobStatus.COMPLETE
    assert attempts == {1}


async def test_whoever_waited_too_long_counts_attempts_and_ends(ward):
    ward.output_store, ward.patience = FullDisk(failures=10**9), timedelta(milliseconds=5)

    job = await ward.work(await ward.kick_off())

    assert job.status is JobStatus.ERROR
    assert job.failure == "The output folder is out of space."


async def test_another_error_counts_as_an_attempt_at_once(ward):
    async def broken(key, chunks):
        raise BackendError("the output folder is damaged")

    ward.output_store.put = broken

    job = await ward.work(await ward.kick_off())

    assert (job.status, job.failure) == (JobStatus.ERROR, "the output folder is damaged")


async def test_the_pauses_grow_from_one_second_to_a_minute(ward):
    ward.output_store = FullDisk(failures=10**9)
    await ward.kick_off()
    pauses, stop = list[timedelta](), asyncio.Event()
    postpone = ward.job_store.postpone

    async def noted(lease, reason, *, retry_after, patience):
        pauses.append(retry_after)
        if len(pauses) == 9:
            stop.set()
        return await postpone(lease, reason, retry_after=timedelta(0), patience=patience)

    ward.job_store.postpone = noted
    async with asyncio.timeout(scaled(60)):
        await Worker("w", ward.backends, WorkerOptions(), stop=stop).run()

    seconds = [pause.total_seconds() for pause in pauses]
    assert seconds == [1, 2, 4, 8, 16, 32, 60, 60, LONGEST_PAUSE.total_seconds()]


async def test_it_is_logged_once_and_shown_what_is_waited_for(ward):
    ward.output_store = FullDisk(failures=10**9)
    job, stop = await ward.kick_off(), asyncio.Event()
    options = WorkerOptions(idle=MOMENT, first_pause=MOMENT)

    async def times(number):
        lease = ward.job_store._entries[job.tenant, job.id].work[0]
        while lease.postponed < number:
            await asyncio.sleep(0.001)

    with capture_logs() as lines:
        async with asyncio.timeout(scaled(60)), asyncio.TaskGroup() as group:
            group.create_task(Worker("w", ward.backends, options, stop=stop).run())
            await times(5)
            progress = await ward.job_store.progress(job.tenant, job.id)
            [problem] = await problems(ward.job_store)
            ward.output_store.failures = 0
            while (await ward.job_store.get(job.tenant, job.id)).status.active:
                await asyncio.sleep(0.002)
            stop.set()

    assert progress.waiting_for == "The output folder is out of space."
    assert problem == "Exports wait for a backend (1): The output folder is out of space."
    waiting = [line for line in lines if line["event"] == "shard.waiting"]
    assert [line["reason"] for line in waiting] == ["The output folder is out of space."]
    assert "shard.failed" not in [line["event"] for line in lines]
    assert await problems(ward.job_store) == []
