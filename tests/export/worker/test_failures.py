"""What a worker does when a backend fails or its lease is lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from helios_core.errors import BackendUnavailable, LeaseLost
from helios_core.export.expiry import remove_job
from helios_core.export.worker import LEASE_CHECK, Worker, WorkerOptions
from helios_core.memory import MemoryOutputStore
from helios_core.model.jobs import JobStatus
from helios_core.model.parts import PartKey, StoredPart
from tests.export.worker.hospital import Hospital, observation, patient
from tests.pace import scaled


class FullDisk(MemoryOutputStore):
    """Is full for the first `failures` parts."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        if self.failures > 0:
            self.failures -= 1
            raise BackendUnavailable("The output folder is out of space.")
        return await super().put(key, chunks)


class SlowDisk(MemoryOutputStore):
    """Waits for the event `go_on` before it stores a part."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        self.reached.set()
        await self.go_on.wait()
        return await super().put(key, chunks)


@pytest.fixture
async def ward(hospital):
    await hospital.store(patient("p1"), patient("p2"))
    return hospital


async def stored_parts(hospital: Hospital) -> list[tuple[str, str]]:
    return [found async for found in hospital.output_store.jobs()]


async def test_a_full_disk_ends_the_job_in_error_with_the_reason_and_no_parts(ward):
    ward.output_store, ward.patience = FullDisk(failures=3), timedelta(0)

    job = await ward.work(await ward.kick_off())

    assert job.status is JobStatus.ERROR
    assert job.failure == "The output folder is out of space."
    assert await ward.job_store.parts(job.tenant, job.id) == []
    assert await stored_parts(ward) == []


async def test_an_export_after_a_full_disk_works(ward):
    ward.output_store, ward.patience = FullDisk(failures=3), timedelta(0)
    await ward.work(await ward.kick_off())

    assert await ward.export() == ["Patient/p1", "Patient/p2"]


async def test_a_temporary_failure_is_retried(ward):
    ward.output_store = FullDisk(failures=2)

    assert await ward.export() == ["Patient/p1", "Patient/p2"]


async def test_an_unexpected_error_fails_the_job_and_is_not_shown_to_the_client(ward):
    class Defective(MemoryOutputStore):
        async def put(self, key, chunks):
            raise ZeroDivisionError("secret")

    ward.output_store = Defective()

    job = await ward.work(await ward.kick_off())

    assert job.status is JobStatus.ERROR
    assert "internal error" in job.failure
    assert "secret" not in job.failure


async def run_until(ward: Hospital, stop: asyncio.Event, **options) -> None:
    worker = Worker("w", ward.backends, WorkerOptions(**options), stop=stop)
    await worker.run()


ENDINGS = {"lease.lost", "shard.cancelled", "shard.failed", "shard.abandoned"}


async def first_of(events, logs) -> str:
    """Wait until a worker has logged one of the events, and return which."""
    async with asyncio.timeout(scaled(60)):
        while not (logged := [each["event"] for each in logs if each["event"] in events]):
            await asyncio.sleep(0.005)
    return logged[0]


async def test_a_stopped_worker_releases_its_shard_and_the_attempt_does_not_count(ward):
    ward.output_store = SlowDisk()
    job = await ward.kick_off()
    stop = asyncio.Event()
    working = asyncio.create_task(run_until(ward, stop))
    await ward.output_store.reached.wait()

    stop.set()
    await working

    lease = await ward.job_store.claim("x", lease_for=timedelta(seconds=60), max_attempts=1)
    assert lease.job.id == job.id
    assert lease.attempt == 1
    assert await stored_parts(ward) == []


async def test_a_worker_whose_job_is_cancelled_publishes_nothing_and_cleans_up(ward):
    ward.output_store = SlowDisk()
    job = await ward.kick_off()
    stop = asyncio.Event()
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop, heartbeat=timedelta(milliseconds=5)))
        await ward.output_store.reached.wait()

        await ward.job_store.cancel(job.tenant, job.id)
        assert await first_of(ENDINGS, logs) == "shard.cancelled"
    ward.output_store.go_on.set()
    stop.set()
    await working

    assert await stored_parts(ward) == []


async def test_a_worker_that_wakes_after_its_lease_has_lapsed_publishes_nothing(ward):
    ward.output_store = SlowDisk()
    job = await ward.kick_off()
    stop = asyncio.Event()
    with capture_logs() as logs:
        sleeper = asyncio.create_task(run_until(ward, stop, lease_for=timedelta(0)))
        await ward.output_store.reached.wait()
        other = await ward.job_store.claim("x", lease_for=timedelta(seconds=60), max_attempts=3)
        assert other is not None

        ward.output_store.go_on.set()
        assert await first_of(ENDINGS, logs) == "lease.lost"

    assert await ward.job_store.parts(job.tenant, job.id) == []
    assert await stored_parts(ward) == []
    await ward.job_store.complete(other, [])
    stop.set()
    await sleeper
    assert (await ward.job_store.get(job.tenant, job.id)).status is JobStatus.COMPLETE


async def test_parts_stay_when_the_response_to_complete_is_lost(ward):
    """Decision 2: only the job store's word that nothing is published allows discarding."""
    complete = ward.job_store.complete

    async def complete_and_lose_the_answer(lease, parts, **options):
        await complete(lease, parts, **options)
        raise BackendUnavailable("connection lost")

    ward.job_store.complete = complete_and_lose_the_answer

    job = await ward.work(await ward.kick_off())

    assert job.status is JobStatus.COMPLETE
    assert len(await ward.lines(job)) == 2


async def test_a_lease_is_renewed_for_as_long_as_the_work_takes(ward):
    ward.output_store = SlowDisk()
    job = await ward.kick_off()
    renewals = []
    renew = ward.job_store.renew

    async def counted(lease, **options):
        renewals.append(lease.token)
        await renew(lease, **options)
        if len(renewals) == 3:
            ward.output_store.go_on.set()

    ward.job_store.renew = counted
    stop = asyncio.Event()
    working = asyncio.create_task(run_until(ward, stop, heartbeat=timedelta(milliseconds=5)))
    async with asyncio.timeout(scaled(60)):
        while (await ward.job_store.get(job.tenant, job.id)).status.active:
            await asyncio.sleep(0.005)
    stop.set()
    await working

    assert len(renewals) >= 3
    assert len(set(renewals)) == 1


async def test_an_unreachable_job_store_ends_the_export_when_the_lease_lapses(ward):
    ward.output_store = SlowDisk()
    await ward.kick_off()

    async def unreachable(_lease, **_options):
        raise BackendUnavailable("down")

    ward.job_store.renew = unreachable
    stop, moment = asyncio.Event(), timedelta(milliseconds=1)
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop, heartbeat=moment, lease_for=moment))
        await first_of({"shard.waiting"}, logs)

    assert not working.done()
    assert await stored_parts(ward) == []
    stop.set()
    await working


async def test_claims_are_retried_until_the_job_store_is_back(ward):
    await ward.kick_off()
    claim, failures = (
        ward.job_store.claim,
        [BackendUnavailable("down"), BackendUnavailable("down")],
    )

    async def flaky(*args, **options):
        if failures:
            raise failures.pop()
        return await claim(*args, **options)

    ward.job_store.claim = flaky

    assert await ward.export() == ["Patient/p1", "Patient/p2"]


async def test_a_lost_lease_during_publishing_discards_the_parts(ward):
    job = await ward.kick_off()

    async def lost(lease, parts, **options):
        assert parts
        await ward.job_store.cancel(job.tenant, job.id)
        raise LeaseLost("a newer lease exists")

    ward.job_store.complete = lost
    stop = asyncio.Event()
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop))
        assert await first_of(ENDINGS, logs) == "shard.cancelled"
    stop.set()
    await working

    assert await stored_parts(ward) == []


class Endless(MemoryOutputStore):
    """Takes one chunk after the other of a part that has no end."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def put(self, key: PartKey, chunks: AsyncIterator[bytes]) -> StoredPart:
        self.reached.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("end", ["cancel", "delete", "error"])
async def test_the_workers_of_an_ended_export_stop_within_a_second(ward, end):
    """Not only at the next heartbeat, which is twenty seconds away."""
    ward.output_store = Endless()
    job, stop = await ward.kick_off(), asyncio.Event()
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop))
        await ward.output_store.reached.wait()

        if end == "error":
            entry = ward.job_store._entries[job.tenant, job.id]
            entry.end(JobStatus.ERROR, job.transaction_time, failure="another shard failed")
        else:
            await ward.job_store.cancel(job.tenant, job.id)
            if end == "delete":
                await remove_job(ward.backends, job.tenant, job.id)

        async with asyncio.timeout(scaled(10 * LEASE_CHECK.total_seconds())):
            while not any(each["event"] in ENDINGS for each in logs):
                await asyncio.sleep(0.005)
        stop.set()
        await working

    endings = [each["event"] for each in logs if each["event"] in ENDINGS]
    assert endings == ["lease.lost" if end == "error" else "shard.cancelled"]
    assert timedelta(seconds=1) > LEASE_CHECK


async def test_deleting_a_running_export_is_no_failure_of_its_workers(ward):
    """What they write to and read from goes away under them."""

    class Vanishing(MemoryOutputStore):
        async def put(self, key, chunks):
            await ward.job_store.cancel(key.tenant, key.job_id)
            await remove_job(ward.backends, key.tenant, key.job_id)
            raise BackendUnavailable("The folder is gone.")

    ward.output_store = Vanishing()
    job, stop = await ward.kick_off(), asyncio.Event()
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop))
        await first_of(ENDINGS, logs)
        stop.set()
        await working

    assert [each["event"] for each in logs if each["event"] in ENDINGS] == ["shard.cancelled"]
    assert not any(each.get("exc_info") for each in logs)
    assert not await ward.job_store.exists(job.tenant, job.id)


async def test_a_cancelled_export_stops_while_it_resolves_its_view(ward):
    """A lookup of a filter may read for hours."""

    class Slow(type(ward.data_provider)):
        async def plan(self, view, *, shard_bytes):
            if view.request.url == "":
                reached.set()
                await asyncio.Event().wait()
            return await super().plan(view, shard_bytes=shard_bytes)

    reached = asyncio.Event()
    ward.data_provider.__class__ = Slow
    query = ("_typeFilter", "Patient?organization.name=x")
    job, stop = await ward.kick_off(("_type", "Patient"), query), asyncio.Event()
    with capture_logs() as logs:
        working = asyncio.create_task(run_until(ward, stop))
        await reached.wait()
        await ward.job_store.cancel(job.tenant, job.id)
        await first_of(ENDINGS, logs)
        stop.set()
        await working

    assert [each["event"] for each in logs if each["event"] in ENDINGS] == ["shard.cancelled"]


class FullAfter(FullDisk):
    """Has room for some parts before it is full for good."""

    def __init__(self, room: int) -> None:
        super().__init__(failures=0)
        self.room = room

    async def put(self, key, chunks):
        self.room -= 1
        self.failures = int(self.room < 0)
        return await super().put(key, chunks)


async def test_the_parts_of_a_failed_export_go_at_once(ward):
    """Nobody can download them, and the disk is full."""
    await ward.store(*(observation(f"o{number}", "p1") for number in range(3)))
    ward.output_store, ward.patience = FullAfter(room=1), timedelta(0)

    job = await ward.work(await ward.kick_off(), workers=1)

    assert job.status is JobStatus.ERROR
    async with asyncio.timeout(scaled(10)):
        while await stored_parts(ward):
            await asyncio.sleep(0.005)
    assert (await ward.job_store.get(job.tenant, job.id)).failure == job.failure
