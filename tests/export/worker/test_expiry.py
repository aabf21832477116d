"""Removal of expired jobs and their output, and failures of it."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from helios_core.errors import BackendUnavailable, JobNotFound
from helios_core.export.expiry import (
    JOBS_PER_QUERY,
    Lifetimes,
    cancel_job,
    end_unfinished,
    remove_job,
    sweep,
    sweep_periodically,
)
from helios_core.memory import MemoryOutputStore
from helios_core.model.jobs import JobKey, JobStatus
from helios_core.model.parts import PartKey, PartKind
from tests.export.worker.hospital import patient
from tests.pace import scaled

NOW = timedelta(0)
LATER = timedelta(days=1)


class Sticky(MemoryOutputStore):
    """Fails to delete `failures` times."""

    failures = 0

    async def delete(self, tenant: str, job_id: str) -> None:
        if self.failures:
            self.failures -= 1
            raise BackendUnavailable("the folder is not empty")
        await super().delete(tenant, job_id)


@pytest.fixture
async def ward(hospital):
    hospital.output_store = Sticky()
    await hospital.store(patient("p1"))
    return hospital


async def stored(ward):
    return [job_id async for _, job_id in ward.output_store.jobs()]


async def test_output_and_job_stay_until_they_expire(ward):
    job = await ward.work(await ward.kick_off())

    assert await sweep(ward.backends, output_ttl=LATER) == 0
    assert len(await ward.lines(job)) == 1


async def test_output_and_job_are_removed_together_when_they_expire(ward):
    job = await ward.work(await ward.kick_off())
    await asyncio.sleep(0.01)

    assert await sweep(ward.backends, output_ttl=NOW) == 1

    assert await stored(ward) == []
    with pytest.raises(JobNotFound):
        await ward.job_store.get(job.tenant, job.id)


async def test_a_running_job_never_expires(ward):
    job = await ward.kick_off()

    assert await sweep(ward.backends, output_ttl=NOW) == 0

    assert (await ward.job_store.get(job.tenant, job.id)).status is JobStatus.ACCEPTED


async def test_a_failed_removal_is_retried_and_never_forgotten(ward):
    job = await ward.work(await ward.kick_off())
    ward.output_store.failures = 2
    await asyncio.sleep(0.01)

    removed = [await sweep(ward.backends, output_ttl=NOW) for _ in range(3)]

    assert removed == [0, 0, 1]
    assert await stored(ward) == []
    assert not await ward.job_store.exists(job.tenant, job.id)


async def test_a_cancelled_job_is_removed_whatever_its_age(ward):
    job = await ward.work(await ward.kick_off())
    await ward.job_store.cancel(job.tenant, job.id)

    assert await sweep(ward.backends, output_ttl=LATER) == 1
    assert not await ward.job_store.exists(job.tenant, job.id)


async def test_remove_job_removes_output_and_job(ward):
    job = await ward.work(await ward.kick_off())
    await ward.job_store.cancel(job.tenant, job.id)

    await remove_job(ward.backends, job.tenant, job.id)

    assert await stored(ward) == []
    assert not await ward.job_store.exists(job.tenant, job.id)


async def test_output_without_a_job_is_removed(ward):
    key = PartKey(
        tenant="default",
        job_id="forgotten",
        kind=PartKind.OUTPUT,
        resource_type="Patient",
        ordinal=1,
        number=1,
        token=1,
    )

    async def chunks():
        yield b"{}\n"

    await ward.output_store.put(key, chunks())

    assert await sweep(ward.backends, output_ttl=LATER) == 1
    assert await stored(ward) == []


async def test_sweeping_goes_on_until_the_stop_event(ward):
    await ward.work(await ward.kick_off())
    ward.output_store.failures = 1
    stop = asyncio.Event()
    sweeping = asyncio.create_task(
        sweep_periodically(
            ward.backends,
            lifetimes=Lifetimes(output=NOW),
            interval=timedelta(milliseconds=5),
            stop=stop,
        )
    )
    async with asyncio.timeout(scaled(5)):
        while await stored(ward):
            await asyncio.sleep(0.005)
    stop.set()
    await sweeping


async def test_jobs_that_cannot_be_removed_hide_no_others(ward):
    """However many there are of them: as many as one look at the job store gives, and more."""
    jobs = [await ward.work(await ward.kick_off()) for _ in range(2)]
    stuck = {("default", f"stuck-{number}") for number in range(2 * JOBS_PER_QUERY + 1)}
    for _, job_id in stuck:
        replaced = msgspec.structs.replace(jobs[0], id=job_id)
        await ward.job_store.add(replaced, [], max_active=1000)
    await ward.job_store.delete(jobs[0].tenant, jobs[0].id)
    last = await ward.work(await ward.kick_off())

    class Stuck(MemoryOutputStore):
        async def delete(self, tenant, job_id):
            if (tenant, job_id) in stuck:
                raise BackendUnavailable("the folder is not empty")
            await super().delete(tenant, job_id)

    ward.output_store = Stuck()
    await asyncio.sleep(0.01)

    assert await sweep(ward.backends, output_ttl=NOW) == 2

    assert not await ward.job_store.exists(last.tenant, last.id)
    assert len(await ward.job_store.removable(completed_before=NOW, limit=1000)) == len(stuck)


async def test_the_output_of_a_failed_job_is_swept_before_the_job_expires(ward):
    """A job that was given up has no worker who could remove it."""
    key = PartKey(
        tenant="default",
        job_id=(job := await ward.kick_off()).id,
        kind=PartKind.OUTPUT,
        resource_type="Patient",
        ordinal=1,
        number=1,
        token=1,
    )

    async def chunks():
        yield b"{}\n"

    await ward.output_store.put(key, chunks())
    minute = timedelta(minutes=1)
    lease = await ward.job_store.claim("w", lease_for=minute, max_attempts=1)
    await ward.job_store.fail(lease, "broken", max_attempts=1, retry_after=NOW)

    assert await sweep(ward.backends, output_ttl=LATER) == 1

    assert await stored(ward) == []
    assert (await ward.job_store.get(job.tenant, job.id)).status is JobStatus.ERROR


def spoil(ward, job):
    ward.job_store._entries[job.tenant, job.id].accepted = b'{"spoilt'


async def test_an_export_that_nobody_works_on_ends_with_the_reason(ward):
    job = await ward.kick_off()
    await end_unfinished(ward.backends, LATER)
    assert (await ward.job_store.get(job.tenant, job.id)).status is JobStatus.ACCEPTED
    await asyncio.sleep(0.01)

    await end_unfinished(ward.backends, timedelta(milliseconds=5))

    ended = await ward.job_store.get(job.tenant, job.id)
    assert ended.status is JobStatus.ERROR
    assert "no worker had worked on it for 0.005 seconds" in ended.failure
    assert [each.status for each in ward.announced] == [JobStatus.ACCEPTED, JobStatus.ERROR]


async def test_the_files_of_an_export_that_was_given_up_are_removed(ward):
    job = await ward.kick_off()
    key = PartKey(
        tenant=job.tenant,
        job_id=job.id,
        kind=PartKind.OUTPUT,
        resource_type="Patient",
        ordinal=1,
        number=1,
        token=1,
    )

    async def chunks():
        yield b"{}\n"

    await ward.output_store.put(key, chunks())
    await asyncio.sleep(0.01)

    await end_unfinished(ward.backends, timedelta(milliseconds=5))

    assert await stored(ward) == []


async def test_a_cancelled_export_is_announced(ward):
    job = await ward.work(await ward.kick_off())

    await cancel_job(ward.backends, JobKey(tenant=job.tenant, id=job.id))

    assert [each.status for each in ward.announced[-2:]] == ["complete", "cancelled"]
    assert ward.announced[-1].id == job.id
    with pytest.raises(JobNotFound):
        await cancel_job(ward.backends, JobKey(tenant=job.tenant, id=job.id))


async def test_an_export_that_cannot_be_read_is_cancelled_and_expires(ward):
    unread, cancelled = [await ward.work(await ward.kick_off()) for _ in range(2)]
    spoil(ward, unread)
    spoil(ward, cancelled)
    announced = len(ward.announced)

    await cancel_job(ward.backends, JobKey(tenant=cancelled.tenant, id=cancelled.id))

    assert await sweep(ward.backends, output_ttl=LATER) == 1
    assert await sweep(ward.backends, output_ttl=NOW) == 1
    assert await stored(ward) == []
    assert len(ward.announced) == announced


async def test_the_sweeper_finds_exports_that_cannot_be_read(ward):
    job = await ward.kick_off()
    spoil(ward, job)
    stop = asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(
            sweep_periodically(
                ward.backends,
                lifetimes=Lifetimes(output=LATER),
                interval=timedelta(milliseconds=5),
                stop=stop,
            )
        )
        while not ward.job_store.unreadable:
            await asyncio.sleep(0.001)
        stop.set()

    assert ward.job_store.unreadable == [JobKey(tenant=job.tenant, id=job.id)]
