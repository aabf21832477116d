"""The reference job store: jobs, shards and leases of one process."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import msgspec

from helios_core.errors import LeaseLost, UnreadableJob
from helios_core.memory.jobs import JobEntry, ShardEntry, goes_on
from helios_core.memory.records import MemoryRecords
from helios_core.model.exports import Shard
from helios_core.model.jobs import (
    Job,
    JobKey,
    JobPlace,
    JobProgress,
    JobQuery,
    JobStatus,
    JobSummary,
    Lease,
    Workforce,
)
from helios_core.model.parts import Part
from helios_core.storage.job_records import (
    PART_KINDS,
    SetAside,
    checked_parts,
    count_exported,
    give_up_reason,
    job_not_found,
    lease_lost,
    lost_shards_reason,
    notes_lost,
    part_not_found,
    stored_shard,
    too_many_exports,
)
from helios_core.storage.job_store import JobStore


class MemoryJobStore(MemoryRecords, JobStore):
    """
    Keeps jobs in the memory of one process; workers share it within one event loop.

    No method awaits between its first read and its last write, so each is atomic.
    """

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock=clock)
        self._identity = f"memory-{uuid4()}"
        self._entries: dict[tuple[str, str], JobEntry] = {}
        self._positions = count()
        self._claims = count(1)
        self._alive: dict[str, tuple[datetime, timedelta]] = {}
        self._set_aside = SetAside()
        self._served = defaultdict[str, int](int)
        self._changed = asyncio.Event()

    @property
    def identity(self) -> str:
        """A name that is unique to this object, since its jobs do not survive it."""
        return self._identity

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant is at its cap (J1)."""
        entries = [entry for entry in self._entries.values() if entry.key.tenant == job.tenant]
        active = sum(entry.status.active for entry in entries)
        if active >= max_active:
            raise too_many_exports(active, max_active)
        now = self._clock()
        stored = msgspec.structs.replace(job, status=JobStatus.ACCEPTED, created_at=now)
        ordered = sorted(shards, key=lambda shard: shard.number)
        entry = JobEntry(stored, next(self._positions), [ShardEntry(shard) for shard in ordered])
        if not shards:
            entry.end(JobStatus.COMPLETE, now)
        self._entries[job.tenant, job.id] = entry
        self._notify()
        return entry.job

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job that was not cancelled."""
        return self._visible(tenant, job_id).job

    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """Return the progress: published resources, and those that holders of leases reported."""
        return self._visible(tenant, job_id).progress

    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """Return the published parts, by kind, shard number and part number."""
        entry = self._visible(tenant, job_id)
        parts = [(work.shard.number, part) for work in entry.work for part in work.parts or ()]
        parts.sort(
            key=lambda part: (PART_KINDS.index(part[1].key.kind), part[0], part[1].key.number)
        )
        return checked_parts(
            job_id,
            [part for _, part in parts],
            published=sum(work.published for work in entry.work),
            exported=sum(work.exported for work in entry.work),
            lost_shards=entry.lost_shards,
        )

    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """Return the published part of a file name."""
        parts = (part for work in self._visible(tenant, job_id).work for part in work.parts or ())
        match = next((part for part in parts if part.key.name == name), None)
        if match is None:
            raise part_not_found()
        return match

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Yield the notes of completed shards, by shard number (J13)."""
        entry = self._visible(tenant, job_id)
        if entry.lost_shards or any(len(work.notes) != work.noted for work in entry.work):
            raise notes_lost(job_id)
        for work in entry.work:
            if work.notes:
                yield work.notes

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the free shard that is next in turn (J2, J3, J8, J9, J11)."""
        now = self._clock()
        while (claimable := self._next_in_turn(now)) is not None:
            entry, work = claimable
            if work.attempts >= max_attempts:
                reason = give_up_reason(work.shard.number, work.attempts, work.failure)
                entry.end(JobStatus.ERROR, now, failure=reason)
                continue
            try:
                job = entry.job
                stored_shard(*work.stored)
            except UnreadableJob as error:
                self._set_aside.add(entry.position, entry.key, error)
                continue
            self._served[job.tenant] = next(self._claims)
            entry.status = JobStatus.IN_PROGRESS
            job = msgspec.structs.replace(job, status=entry.status)
            return _lease(job, work, worker, now, lease_for)
        return None

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease, counted from now (J4, J7)."""
        _, work = self._held(lease)
        work.free_at, work.wait = self._clock() + lease_for, lease_for
        work.touched_at = self._clock()
        work.advance(resources_done)

    async def is_held(self, lease: Lease) -> bool:
        """Return whether the lease is still the newest one (J14)."""
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
        work.touched_at = self._clock()
        first = sum(len(shard.parts or ()) for shard in entry.work)
        work.parts = [
            msgspec.structs.replace(part, published=number)
            for number, part in enumerate(parts, first)
        ]
        work.notes, work.noted = notes, len(notes)
        work.published, work.exported = len(parts), count_exported(parts)
        if all(shard.parts is not None for shard in entry.work):
            self._end_with_last_shard(entry)
        self._notify()  # the next phase may begin
        return entry.status

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Free the shard for a later attempt, or end the job after the last one (J4, J9)."""
        entry, work = self._held(lease)
        work.failure, work.touched_at = reason, self._clock()
        if work.attempts >= max_attempts:
            entry.end(JobStatus.ERROR, self._clock(), failure=reason)
        else:
            work.hand_back(self._clock(), retry_after)
            self._notify()
        return entry.status

    async def postpone(
        self, lease: Lease, reason: str, *, retry_after: timedelta, patience: timedelta
    ) -> bool:
        """Free the shard after a delay and forget the attempt, unless it waited too long (J19)."""
        _, work = self._held(lease)
        now = self._clock()
        since = min(work.waiting_since or now, now)
        if now - since >= patience:
            return False
        work.attempts -= 1
        work.postponed += 1
        work.hand_back(now, retry_after)
        work.touched_at, work.waiting_since, work.waiting_for = now, since, reason
        self._notify()
        return True

    async def release(self, lease: Lease) -> None:
        """Free the shard at once and forget the attempt (J4)."""
        _, work = self._held(lease)
        work.attempts -= 1
        work.hand_back()
        work.touched_at = self._clock()
        self._notify()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job for good; `removable` lists it from now on (J6)."""
        self._visible(tenant, job_id).end(JobStatus.CANCELLED, self._clock())

    async def removable(self, *, completed_before: timedelta, limit: int) -> list[JobKey]:
        """Return cancelled jobs, and those that ended long enough ago (J7, J15)."""
        latest = self._clock() - completed_before
        entries = [entry for entry in self._entries.values() if _removable(entry, latest)]
        return [entry.key for entry in entries][:limit]

    async def jobs(
        self, query: JobQuery, *, limit: int, after: JobPlace | None = None
    ) -> list[JobSummary]:
        """Return a page of jobs, the newest first (J15, J16)."""
        now = self._clock()
        listed = [entry for entry in self._entries.values() if _matches(entry, query, now)]
        listed.sort(key=lambda entry: (entry.key.tenant, entry.key.id))
        listed.sort(key=lambda entry: entry.created_at, reverse=True)
        summaries = [(entry, entry.summary()) for entry in listed]
        return [
            self._set_aside.summary(entry.position, summary, entry.accepted, entry.open_shards)
            for entry, summary in summaries
            if after is None or _follows(summary.place, after)
        ][:limit]

    async def end_untouched(
        self, untouched_for: timedelta, *, reason: str, limit: int
    ) -> list[JobKey]:
        """End active jobs that are untouched for some time or lack shards (J18, J20)."""
        now = self._clock()
        useless = [
            entry
            for entry in self._entries.values()
            if entry.status.active
            and (
                entry.lost_shards
                or max(entry.created_at, entry.touched_at or entry.created_at)
                <= now - untouched_for
            )
        ][:limit]
        for entry in useless:
            lost = entry.lost_shards
            failure = lost_shards_reason(lost) if lost else reason
            entry.end(JobStatus.ERROR, now, failure=failure)
        return [entry.key for entry in useless]

    async def beat(self, worker: str, *, lasts: timedelta) -> None:
        """Count a worker as alive for `lasts` (J17)."""
        self._alive[worker] = (self._clock() + lasts, lasts)

    async def retire(self, worker: str) -> None:
        """Forget a worker (J17)."""
        self._alive.pop(worker, None)

    async def workforce(self) -> Workforce:
        """Count live workers and waiting jobs, and forget workers whose time is over (J17)."""
        now = self._clock()
        self._alive = {
            worker: (until, lasts)
            for worker, (until, lasts) in self._alive.items()
            if goes_on(until, lasts, now)
        }
        active = [entry for entry in self._entries.values() if entry.status.active]
        idle = [entry for entry in active if not any(work.held_at(now) for work in entry.work)]
        stalled = [reason for entry in active if (reason := entry.waiting_for) is not None]
        return Workforce(
            alive=len(self._alive),
            waiting=len(idle),
            stalled=len(stalled),
            stalled_for=max(stalled, default=None),
        )

    @property
    def unreadable(self) -> Sequence[JobKey]:
        """The jobs that were found unreadable (J15)."""
        return self._set_aside.keys

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """Return the tenant's complete jobs, the latest first."""
        complete = list[Job]()
        for entry in self._entries.values():
            if entry.key.tenant == tenant and entry.status is JobStatus.COMPLETE:
                with suppress(UnreadableJob):
                    complete.append(entry.job)
        return sorted(
            complete, key=lambda job: job.completed_at or job.transaction_time, reverse=True
        )[:limit]

    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget a job; the leases of its shards are lost (J6)."""
        self._entries.pop((tenant, job_id), None)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Return whether the job is still stored, cancelled or not."""
        return (tenant, job_id) in self._entries

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return as soon as a shard is added or handed back, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._changed.wait()

    def _end_with_last_shard(self, entry: JobEntry) -> None:
        lost = entry.lost_shards
        status = JobStatus.ERROR if lost else JobStatus.COMPLETE
        failure = lost_shards_reason(lost) if lost else None
        entry.end(status, self._clock(), failure=failure)

    def _notify(self) -> None:
        """Wake the workers that wait now; later ones wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _visible(self, tenant: str, job_id: str) -> JobEntry:
        entry = self._entries.get((tenant, job_id))
        if entry is None or not entry.visible:
            raise job_not_found(job_id)
        return entry

    def _next_in_turn(self, now: datetime) -> tuple[JobEntry, ShardEntry] | None:
        set_aside = self._set_aside.numbers
        active = [
            entry
            for entry in self._entries.values()
            if entry.status.active and entry.position not in set_aside
        ]
        active.sort(key=lambda entry: (self._served[entry.key.tenant], entry.position))
        free = ((entry, work) for entry in active for work in entry.due if work.free(now))
        return next(free, None)

    def _held(self, lease: Lease) -> tuple[JobEntry, ShardEntry]:
        """Return the shard of a lease that is still the newest one (J4)."""
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is None or not entry.status.active:
            raise lease_lost(lease)
        work = next(work for work in entry.work if work.shard.number == lease.shard.number)
        if not work.held or work.token != lease.token:
            raise lease_lost(lease)
        return entry, work


def _lease(job: Job, work: ShardEntry, worker: str, now: datetime, lease_for: timedelta) -> Lease:
    """Assign the shard to a worker under a new token (J3)."""
    waiting_for = work.waiting_for
    work.hand_back(now, lease_for)
    work.held, work.waiting_for = True, waiting_for
    work.touched_at = now
    work.token += 1
    work.attempts += 1
    return Lease(
        job=job,
        shard=work.shard,
        token=work.token,
        worker=worker,
        attempt=work.attempts,
        postponed=work.postponed,
    )


def _removable(entry: JobEntry, latest: datetime) -> bool:
    if entry.status is JobStatus.CANCELLED:
        return True
    return entry.completed_at is not None and entry.completed_at < latest


def _matches(entry: JobEntry, query: JobQuery, now: datetime) -> bool:
    age = now - entry.created_at
    return (
        query.tenant in (None, entry.key.tenant)
        and query.owner in (None, entry.owner)
        and (query.statuses is None or entry.status in query.statuses)
        and entry.key.id.startswith(query.id_prefix)
        and (query.older_than is None or age >= query.older_than)
        and (query.younger_than is None or age < query.younger_than)
    )


def _follows(place: JobPlace, after: JobPlace) -> bool:
    if place.created_at != after.created_at:
        return place.created_at < after.created_at
    return (place.tenant, place.id) > (after.tenant, after.id)
