"""The job store in SQLite."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate, takewhile
from typing import TypeVar

import msgspec
from aiosqlite import Connection

from helios_core import (
    Job,
    JobKey,
    JobPlace,
    JobProgress,
    JobQuery,
    JobStatus,
    JobStore,
    JobSummary,
    Lease,
    Part,
    SetAside,
    Shard,
    UnreadableJob,
    Workforce,
    checked_parts,
    job_not_found,
    lost_shards_reason,
    notes_lost,
    part_not_found,
    read_statements,
    stored_part,
    too_many_exports,
)
from helios_sqlite import leasing
from helios_sqlite.damaged_jobs import DamagedJobs, is_job_damage
from helios_sqlite.databases import JobDatabase, Parameters, Row, rows_of
from helios_sqlite.errors import only_value
from helios_sqlite.records import SQLiteRecords

_SQL = read_statements("helios_sqlite", "jobs")

T = TypeVar("T")


NOTES_AT_ONCE = 1024 * 1024
"""How many bytes of notes one query reads at most, unless a single shard has more."""

POLL_SECONDS = 0.02
"""How often the file is checked for writes of other processes, which takes microseconds."""


class SQLiteJobStore(SQLiteRecords, JobStore):
    """
    Keeps jobs in one SQLite file, of their own or shared with resources.

    Every method is one transaction, which is rolled back before a cancelled caller returns.
    Workers that find nothing to do only read.
    """

    def __init__(self, database: JobDatabase, identity: str) -> None:
        super().__init__(database)
        self._identity = identity
        self._set_aside = SetAside()
        self._damaged = DamagedJobs(database, self._set_aside)
        self._news = asyncio.Event()
        self._claimed_at = database.write_marker()

    @classmethod
    async def of(cls, database: JobDatabase) -> "SQLiteJobStore":
        """
        Return the store of an opened file.

        Raises:
            BackendError: The store's identity is missing from the file.
        """
        return cls(database, only_value(await database.rows(_SQL["identity"]), "stores"))

    @property
    def unreadable(self) -> Sequence[JobKey]:
        """The jobs that this process tried to read and could not (J15)."""
        return self._set_aside.keys

    @property
    def identity(self) -> str:
        """A UUID created with the file, which it keeps when it is moved."""
        return self._identity

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant has `max_active` active jobs (J1)."""
        async with self._database.transaction() as connection:
            added = await _add(connection, job, shards, max_active)
        self._news.set()
        return added

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job, unless it was cancelled."""
        return leasing.to_job(await self._row(_SQL["get"], tenant, job_id))

    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """Count resources that are published or were reported by the workers on them."""
        return _to_progress(await self._row(_SQL["progress"], tenant, job_id))

    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """Return the published parts by kind, shard and number."""
        rows = await self._database.rows(_SQL["parts"], (tenant, job_id))
        if not rows:
            raise job_not_found(job_id)
        parts = [stored_part(part) for part, *_ in rows if part is not None]
        _, published, exported, lost = rows[0]
        return checked_parts(
            job_id, parts, published=published, exported=exported, lost_shards=lost
        )

    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """Return the published part with a file name."""
        rows = await self._database.rows(_SQL["part"], (name, tenant, job_id))
        if not rows:
            raise job_not_found(job_id)
        if rows[0][0] is None:
            raise part_not_found()
        return stored_part(rows[0][0])

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Yield the notes of completed shards, by several queries (J13)."""
        sizes = await self._database.rows(_SQL["noted"], (tenant, job_id))
        if not sizes:
            raise job_not_found(job_id)
        noted = [(shard, size) for shard, size, _, _ in sizes if shard is not None]
        found = [(shard, size) for shard, _, size, _ in sizes if shard is not None]
        if noted != found or sizes[0][3]:
            raise notes_lost(job_id)
        for first, last in _runs(noted):
            rows = await self._database.rows(_SQL["notes"], (first, last, tenant, job_id))
            if not rows:
                raise job_not_found(job_id)
            for (notes,) in rows:
                if notes is None:
                    raise notes_lost(job_id)
                yield notes

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the next shard in turn, after a look without a lock (J2, J3, J8, J11)."""
        self._news.clear()
        self._claimed_at = self._database.write_marker()

        async def work(connection: Connection, find_turn: str) -> Lease | None:
            return await leasing.claim(
                connection,
                worker,
                lease_for=lease_for,
                max_attempts=max_attempts,
                set_aside=self._set_aside,
                find_turn=find_turn,
            )

        if not await self._rows(leasing.FIND_TURN, leasing.excluded(self._set_aside)):
            return None
        self._news.set()  # there may be more shards to claim
        return await self._change(leasing.FIND_TURN, work)

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease (J4, J7)."""
        async with self._database.transaction() as connection:
            await leasing.renew(
                connection, lease, lease_for=lease_for, resources_done=resources_done
            )

    async def is_held(self, lease: Lease) -> bool:
        """Return whether the lease is still the newest one (J14)."""
        return bool(await self._database.rows(leasing.HELD, leasing.held_key(lease)))

    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """Publish a shard's parts and notes, and close the shard (J4, J5, J11, J13)."""
        async with self._database.transaction() as connection:
            status = await leasing.complete(connection, lease, parts, notes=notes)
        self._news.set()
        return status

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Record a failed attempt (J4, J9)."""
        async with self._database.transaction() as connection:
            status = await leasing.fail(
                connection, lease, reason, max_attempts=max_attempts, retry_after=retry_after
            )
        self._news.set()
        return status

    async def postpone(
        self, lease: Lease, reason: str, *, retry_after: timedelta, patience: timedelta
    ) -> bool:
        """Free the shard for later without counting the attempt, within `patience` (J19)."""
        async with self._database.transaction() as connection:
            postponed = await leasing.postpone(
                connection, lease, reason, retry_after=retry_after, patience=patience
            )
        self._news.set()
        return postponed

    async def release(self, lease: Lease) -> None:
        """Free a shard at once, without counting the attempt (J4)."""
        async with self._database.transaction() as connection:
            await leasing.release(connection, lease)
        self._news.set()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """Cancel a job (J6)."""
        async with self._database.transaction() as connection:
            await _cancel(connection, tenant, job_id)

    async def removable(self, *, completed_before: timedelta, limit: int) -> list[JobKey]:
        """Return cancelled jobs and those that ended `completed_before` ago (J7, J15)."""
        values = (leasing.in_milliseconds(completed_before), limit)
        rows = await self._rows(_SQL["removable"], values)
        return [JobKey(tenant=tenant, id=job_id) for tenant, job_id in rows]

    async def jobs(
        self, query: JobQuery, *, limit: int, after: JobPlace | None = None
    ) -> list[JobSummary]:
        """Return a page of the list of jobs (J15, J16)."""
        rows = await self._listed(query, after, limit)
        return [await self._summary(number, accepted, row) for number, accepted, *row in rows]

    async def end_untouched(
        self, untouched_for: timedelta, *, reason: str, limit: int
    ) -> list[JobKey]:
        """End active jobs that were untouched for this long, or lack shards (J18, J20)."""
        values = {"ago": leasing.in_milliseconds(untouched_for), "limit": limit}

        async def work(connection: Connection, useless: str) -> list[JobKey]:
            rows = await rows_of(connection, useless, values)
            for number, _, _, lost in rows:
                failure = lost_shards_reason(lost) if lost else reason
                await leasing.end(connection, number, JobStatus.ERROR, failure=failure)
            return [JobKey(tenant=tenant, id=job_id) for _, tenant, job_id, _ in rows]

        if not await self._rows(_SQL["useless"], values):
            return []
        return await self._change(_SQL["useless"], work)

    async def beat(self, worker: str, *, lasts: timedelta) -> None:
        """Record that a worker is alive for `lasts`, and forget silent workers (J17)."""
        async with self._database.transaction() as connection:
            await rows_of(connection, _SQL["bury"])
            values = {"worker": worker, "wait": leasing.in_milliseconds(lasts)}
            await rows_of(connection, _SQL["beat"], values)

    async def retire(self, worker: str) -> None:
        """Forget a worker (J17)."""
        async with self._database.transaction() as connection:
            await rows_of(connection, _SQL["retire"], (worker,))

    async def workforce(self) -> Workforce:
        """Count the workers that are alive, and the jobs that wait for a worker (J17)."""
        [(alive, waiting)] = await self._rows(_SQL["workforce"])
        [(stalled, reason)] = await self._rows(_SQL["stalled"])
        return Workforce(alive=alive, waiting=waiting, stalled=stalled, stalled_for=reason)

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """Return at most `limit` complete jobs of the tenant, latest first."""
        while True:
            values = (*leasing.excluded(self._set_aside), tenant, limit)
            rows = await self._rows(_SQL["recent"], values)
            jobs = list[Job]()
            for number, job_id, *row in rows:
                try:
                    jobs.append(leasing.to_job(row))
                except UnreadableJob as error:
                    self._set_aside.add(number, JobKey(tenant=tenant, id=job_id), error)
            if len(jobs) == len(rows):  # otherwise replace the unreadable ones (J15)
                return jobs

    async def delete(self, tenant: str, job_id: str) -> None:
        """Delete a job with its shards, parts and notes (J6)."""
        async with self._database.transaction() as connection:
            await rows_of(connection, _SQL["delete"], (tenant, job_id))

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Return whether the job is stored, cancelled or not."""
        [(found,)] = await self._database.rows(_SQL["exists"], (tenant, job_id))
        return bool(found)

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return when any process has written since the last claim, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                while (
                    not self._news.is_set() and self._database.write_marker() == self._claimed_at
                ):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), POLL_SECONDS)

    async def _rows(self, statement: str, values: Parameters = ()) -> list[Row]:
        """Return the rows of a query over all jobs that are not damaged (J15)."""
        try:
            return await self._database.rows(statement, values)
        except Exception as error:
            if not is_job_damage(error):
                raise
        return await self._damaged.rows(statement, values)

    async def _change(self, statement: str, work: Callable[[Connection, str], Awaitable[T]]) -> T:
        """Run `work` in a transaction, with a query over all jobs that are not damaged (J15)."""
        try:
            async with self._database.transaction() as connection:
                return await work(connection, statement)
        except Exception as error:
            if not is_job_damage(error):
                raise
        return await self._damaged.change(statement, work)

    async def _listed(self, query: JobQuery, after: JobPlace | None, limit: int) -> list[Row]:
        """Return the rows of a list of jobs; damaged ones have only the columns of an index."""
        values = _restrictions(query, after, limit)
        try:
            return await self._database.rows(_SQL["list"], values)
        except Exception as error:
            if not is_job_damage(error):
                raise
        return await self._damaged.listed(_SQL["list"], values)

    async def _summary(self, number: int, accepted: bytes, row: Row) -> JobSummary:
        summary = _to_summary(row)
        shards = list[Row]()
        if summary.status in (JobStatus.ACCEPTED, JobStatus.IN_PROGRESS):
            try:
                shards = await self._database.rows(_SQL["open_shards"], (number,))
            except Exception as error:
                if not is_job_damage(error):
                    raise
                self._set_aside.add(number, summary.key, error)
                return summary
        return self._set_aside.summary(number, summary, accepted, shards)

    async def _row(self, query: str, *parameters: object) -> Row:
        """Return the only row of a query about a job, whose last parameter is the job's id."""
        rows = await self._database.rows(query, parameters)
        if not rows:
            raise job_not_found(str(parameters[-1]))
        return rows[0]


async def _add(connection: Connection, job: Job, shards: Sequence[Shard], max_active: int) -> Job:
    [(active,)] = await rows_of(connection, _SQL["active"], (job.tenant,))
    if active >= max_active:
        raise too_many_exports(active, max_active)
    accepted = (job.owner or "", msgspec.json.encode(job), JobStatus.ACCEPTED, len(shards))
    [(number,)] = await rows_of(connection, _SQL["add_job"], (job.tenant, job.id, *accepted))
    rows = [
        (number, shard.number, shard.phase, msgspec.json.encode(shard), shard.resources)
        for shard in shards
    ]
    await connection.executemany(_SQL["add_shard"], rows)
    if not shards:
        await leasing.end(connection, number, JobStatus.COMPLETE)
    [added] = await rows_of(connection, _SQL["get"], (job.tenant, job.id))
    return leasing.to_job(added)


def _restrictions(query: JobQuery, after: JobPlace | None, limit: int) -> dict[str, object]:
    ages = (query.older_than, query.younger_than)
    older, younger = (None if age is None else leasing.in_milliseconds(age) for age in ages)
    statuses = query.statuses
    return {
        "tenant": query.tenant,
        "owner": query.owner,
        "statuses": None if statuses is None else msgspec.json.encode(sorted(statuses)).decode(),
        "id_prefix": query.id_prefix,
        "older_than": older,
        "younger_than": younger,
        "after_at": after and leasing.to_milliseconds(after.created_at),
        "after_tenant": after and after.tenant,
        "after_id": after and after.id,
        "limit": limit,
    }


def _to_summary(row: Row) -> JobSummary:
    tenant, job_id, owner, status, created_at, completed_at, failure, touched_at, *counts = row
    *progress, size, attempts, last_error = counts
    return JobSummary(
        tenant=tenant,
        id=job_id,
        owner=owner,
        status=status,
        created_at=leasing.to_instant(created_at),
        completed_at=None if completed_at is None else leasing.to_instant(completed_at),
        failure=failure,
        touched_at=None if touched_at is None else leasing.to_instant(touched_at),
        progress=_to_progress(progress),
        bytes=int(size),
        attempts=attempts,
        last_error=last_error,
    )


def _to_progress(row: Row) -> JobProgress:
    done, total, shards_done, shards_total, waiting_for = row
    return JobProgress(
        resources_done=int(done),
        resources_total=int(total),
        shards_done=int(shards_done),
        shards_total=shards_total,
        waiting_for=waiting_for,
    )


def _runs(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last shard of each run that one query reads."""
    start = 0
    while start < len(sizes):
        totals = accumulate(size for _, size in sizes[start:])
        count = max(1, sum(1 for _ in takewhile(lambda total: total <= NOTES_AT_ONCE, totals)))
        yield sizes[start][0], sizes[start + count - 1][0]
        start += count


async def _cancel(connection: Connection, tenant: str, job_id: str) -> None:
    found = await rows_of(connection, _SQL["number"], (tenant, job_id))
    if not found:
        raise job_not_found(job_id)
    await leasing.end(connection, found[0][0], JobStatus.CANCELLED)
