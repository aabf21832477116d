"""The reference job store: jobs, shards and leases of one process."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import msgspec

from helios_core.errors import LeaseLost
from helios_core.memory.records import MemoryRecords
from helios_core.model.exports import Shard
from helios_core.model.jobs import Job, JobProgress, JobStatus, Lease
from helios_core.model.parts import Part
from helios_core.storage.job_records import (
    PART_KINDS,
    count_exported,
    give_up_reason,
    job_not_found,
    lease_lost,
    part_not_found,
    too_many_exports,
)
from helios_core.storage.job_store import JobStore


@dataclass
class _Work:
    """What is known of one shard beside its range."""

    shard: Shard
    token: int = 0
    attempts: int = 0
    held: bool = False
    free_at: datetime | None = None
    """When it may be claimed: the end of the lease or of the wait for a retry; None is now."""
    wait: timedelta = timedelta()
    """How long that lease or wait is."""
    reported: int = 0
    failure: str | None = None
    parts: list[Part] | None = None
    """None until the shard is complete."""
    notes: bytes = b""

    def free(self, now: datetime) -> bool:
        if self.parts is not None:
            return False
        # With more of a wait ahead than there is, the clock was set back (J7).
        return self.free_at is None or not now < self.free_at <= now + 1.5 * self.wait

    def hand_back(self, now: datetime | None = None, wait: timedelta = timedelta()) -> None:
        self.held, self.reported, self.wait = False, 0, wait
        self.free_at = None if now is None else now + wait

    @property
    def resources_done(self) -> int:
        if self.parts is None:
            return self.reported
        return count_exported(self.parts)


@dataclass
class _Entry:
    """A job with its shards, lowest number first."""

    job: Job
    place: int
    """Where the job stands in the order of arrival."""
    work: list[_Work] = field(default_factory=list)

    @property
    def due(self) -> list[_Work]:
        """The shards of the earliest phase that is not complete (J11)."""
        phases = [work.shard.phase for work in self.work if work.parts is None]
        return [work for work in self.work if work.shard.phase == min(phases, default=0)]

    @property
    def visible(self) -> bool:
        return self.job.status is not JobStatus.CANCELLED

    def end(self, status: JobStatus, now: datetime, *, failure: str | None = None) -> None:
        """Put the job in a final status and take every lease away (J6, J9)."""
        self.job = msgspec.structs.replace(
            self.job, status=status, completed_at=now, failure=failure
        )
        for work in self.work:
            work.token += 1
            work.hand_back()


class MemoryJobStore(MemoryRecords, JobStore):
    """
    Keeps jobs in the memory of one process; workers share it within one event loop.

    No method awaits between its first look and its last write, so each is atomic.
    """

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock=clock)
        self._identity = f"memory-{uuid4()}"
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._places = count()
        self._claims = count(1)
        self._served = defaultdict[str, int](int)
        self._news = asyncio.Event()

    @property
    def identity(self) -> str:
        """A name of this object's own, as nothing of it survives."""
        return self._identity

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant is at its cap (J1)."""
        jobs = [entry.job for entry in self._entries.values()]
        active = sum(each.status.active for each in jobs if each.tenant == job.tenant)
        if active >= max_active:
            raise too_many_exports(active, max_active)
        now = self._clock()
        stored = msgspec.structs.replace(job, status=JobStatus.ACCEPTED, created_at=now)
        ordered = sorted(shards, key=lambda shard: shard.number)
        entry = _Entry(stored, next(self._places), [_Work(shard) for shard in ordered])
        if not shards:
            entry.end(JobStatus.COMPLETE, now)
        self._entries[job.tenant, job.id] = entry
        self._tell()
        return entry.job

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job that was not cancelled."""
        return self._visible(tenant, job_id).job

    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """Count published resources and those that holders reported."""
        work = self._visible(tenant, job_id).work
        return JobProgress(
            resources_done=sum(each.resources_done for each in work),
            resources_total=sum(each.shard.resources for each in work),
            shards_done=sum(each.parts is not None for each in work),
            shards_total=len(work),
        )

    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """Return the published parts, by kind, shard number and part number."""
        work = self._visible(tenant, job_id).work
        parts = [(each.shard.number, part) for each in work for part in each.parts or ()]
        parts.sort(
            key=lambda part: (PART_KINDS.index(part[1].key.kind), part[0], part[1].key.number)
        )
        return [part for _, part in parts]

    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """Return the published part of a file name."""
        parts = (part for work in self._visible(tenant, job_id).work for part in work.parts or ())
        found = next((part for part in parts if part.key.name == name), None)
        if found is None:
            raise part_not_found()
        return found

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Yield what completed shards noted, by shard number (J13)."""
        for work in self._visible(tenant, job_id).work:
            if work.notes:
                yield work.notes

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the fairest free shard; one out of attempts ends its job (J2, J3, J8, J11)."""
        now = self._clock()
        while (found := self._fairest(now)) is not None:
            entry, work = found
            if work.attempts >= max_attempts:
                reason = give_up_reason(work.shard.number, work.attempts, work.failure)
                entry.end(JobStatus.ERROR, now, failure=reason)
                continue
            self._served[entry.job.tenant] = next(self._claims)
            return _lease(entry, work, worker, now, lease_for)
        return None

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease, counted from now (J4, J7)."""
        _, work = self._held(lease)
        work.free_at, work.wait = self._clock() + lease_for, lease_for
        work.reported = resources_done

    async def is_held(self, lease: Lease) -> bool:
        """Whether the lease is still the newest one (J14)."""
        with suppress(LeaseLost):
            self._held(lease)
            return True
        return False

    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """Publish a shard's parts; the last shard completes the job (J4, J5, J12, J13)."""
        entry, work = self._held(lease)
        work.hand_back()
        first = sum(len(each.parts or ()) for each in entry.work)
        work.parts = [
            msgspec.structs.replace(part, published=place)
            for place, part in enumerate(parts, first)
        ]
        work.notes = notes
        if all(each.parts is not None for each in entry.work):
            entry.end(JobStatus.COMPLETE, self._clock())
        self._tell()  # the next phase may begin
        return entry.job.status

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Free the shard for a later attempt, or end the job after the last one (J4, J9)."""
        entry, work = self._held(lease)
        work.failure = reason
        if work.attempts >= max_attempts:
            entry.end(JobStatus.ERROR, self._clock(), failure=reason)
        else:
            work.hand_back(self._clock(), retry_after)
            self._tell()
        return entry.job.status

    async def release(self, lease: Lease) -> None:
        """Free the shard at once and forget the attempt (J4)."""
        _, work = self._held(lease)
        work.attempts -= 1
        work.hand_back()
        self._tell()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job for good; its output waits in `removable` (J6)."""
        self._visible(tenant, job_id).end(JobStatus.CANCELLED, self._clock())

    async def removable(self, *, completed_before: timedelta, limit: int) -> list[Job]:
        """Return cancelled jobs, and finished ones old enough (J7)."""
        latest = self._clock() - completed_before
        jobs = [entry.job for entry in self._entries.values()]
        return [job for job in jobs if _removable(job, latest)][:limit]

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """Return the tenant's complete jobs, the latest first."""
        jobs = [entry.job for entry in self._entries.values() if entry.job.tenant == tenant]
        complete = [job for job in jobs if job.status is JobStatus.COMPLETE]
        return sorted(
            complete, key=lambda job: job.completed_at or job.transaction_time, reverse=True
        )[:limit]

    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget a job; whoever holds a shard of it finds its lease lost (J6)."""
        self._entries.pop((tenant, job_id), None)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Whether the job is remembered, cancelled or not."""
        return (tenant, job_id) in self._entries

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return as soon as a shard is added or handed back, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._news.wait()

    def _tell(self) -> None:
        """Wake those who wait now; whoever waits later waits for the next news."""
        self._news.set()
        self._news = asyncio.Event()

    def _visible(self, tenant: str, job_id: str) -> _Entry:
        entry = self._entries.get((tenant, job_id))
        if entry is None or not entry.visible:
            raise job_not_found(job_id)
        return entry

    def _fairest(self, now: datetime) -> tuple[_Entry, _Work] | None:
        active = [entry for entry in self._entries.values() if entry.job.status.active]
        active.sort(key=lambda entry: (self._served[entry.job.tenant], entry.place))
        free = ((entry, work) for entry in active for work in entry.due if work.free(now))
        return next(free, None)

    def _held(self, lease: Lease) -> tuple[_Entry, _Work]:
        """Return the shard of a lease that is still the newest one (J4)."""
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is None or not entry.job.status.active:
            raise lease_lost(lease)
        work = next(each for each in entry.work if each.shard.number == lease.shard.number)
        if not work.held or work.token != lease.token:
            raise lease_lost(lease)
        return entry, work


def _lease(entry: _Entry, work: _Work, worker: str, now: datetime, lease_for: timedelta) -> Lease:
    """Assign the shard to a worker under a token that nobody has had (J3)."""
    work.hand_back(now, lease_for)
    work.held = True
    work.token += 1
    work.attempts += 1
    entry.job = msgspec.structs.replace(entry.job, status=JobStatus.IN_PROGRESS)
    return Lease(
        job=entry.job, shard=work.shard, token=work.token, worker=worker, attempt=work.attempts
    )


def _removable(job: Job, latest: datetime) -> bool:
    if job.status is JobStatus.CANCELLED:
        return True
    return job.completed_at is not None and job.completed_at < latest
