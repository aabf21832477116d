"""The job store in PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec
from asyncpg import Record

from helios_core import (
    BackendError,
    BackendUnavailable,
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
from helios_postgres import leasing
from helios_postgres.connections import Connection
from helios_postgres.databases import Database
from helios_postgres.errors import is_damage
from helios_postgres.records import PostgresRecords

_SQL = read_statements("helios_postgres", "jobs")

T = TypeVar("T")

RETRY_PAUSE = timedelta(milliseconds=100)
"""The pause before a change whose response was lost is sent again."""


_Claimed: TypeAlias = Lease | leasing.Exhausted | None


class _Undone(Exception):
    """Rolls a transaction back."""


class PostgresJobStore(PostgresRecords, JobStore):
    """
    Keeps jobs in PostgreSQL, shared by any number of processes on any machines.

    Most methods are one statement in one round trip. `add` and `complete` are sent again if their
    response is lost, and find out whether the first attempt was committed.
    """

    def __init__(self, database: Database, identity: str) -> None:
        super().__init__(database)
        self._identity = identity
        self._set_aside = SetAside()
        self._news = asyncio.Event()

    @classmethod
    async def of(cls, database: Database) -> "PostgresJobStore":
        """Return the store of an opened database."""
        async with database.connection() as connection:
            return cls(database, await connection.fetchval(_SQL["identity"]))

    @property
    def unreadable(self) -> Sequence[JobKey]:
        """The jobs that this process tried to read and could not (J15)."""
        return self._set_aside.keys

    @property
    def identity(self) -> str:
        """A UUID created with the schema; a copy of the database has the same one."""
        return self._identity

    @property
    def channel(self) -> str:
        """The NOTIFY channel on which idle workers of all processes wait for work."""
        return f"{self._database.settings.schema}_work"

    def wake(self) -> None:
        """Wake the tasks of this process that wait for work."""
        self._news.set()

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant has `max_active` active jobs (J1)."""

        async def work(connection: Connection, *, again: bool) -> Job:
            # The count of active jobs must include those that another addition is about to commit.
            key = self._database.lock_key(f"additions of {job.tenant}")
            await connection.execute(_SQL["lock_additions"], key)
            if again and (row := await connection.fetchrow(_SQL["added"], job.tenant, job.id)):
                return leasing.to_job(row)
            return await self._add(connection, job, shards, max_active=max_active)

        return await self._retry_lost_response(work)

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job, unless it was cancelled."""
        [row] = await self._fetch_of_job(_SQL["get"], tenant, job_id)
        return leasing.to_job(row)

    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """Count resources that are published or were reported by the workers on them."""
        [row] = await self._fetch_of_job(_SQL["progress"], tenant, job_id)
        return JobProgress(**row)

    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """Return the published parts by kind, shard and number."""
        rows = await self._fetch_of_job(_SQL["parts"], tenant, job_id)
        parts = [_to_part(row) for row in rows if row["part"] is not None]
        published, exported, lost = (rows[0][name] for name in ("published", "exported", "lost"))
        return checked_parts(
            job_id, parts, published=published, exported=exported, lost_shards=lost
        )

    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """Return the published part with a file name."""
        [row] = await self._fetch_of_job(_SQL["part"], tenant, job_id, name)
        if row["part"] is None:
            raise part_not_found()
        return _to_part(row)

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Yield the notes of completed shards, with one statement per shard (J13)."""
        for job, shard, size, lost in await self._fetch_of_job(_SQL["noted"], tenant, job_id):
            if lost:
                raise notes_lost(job_id)
            if shard is None:
                return
            # A damaged index may lead to another row, stored where the lost one was.
            [row] = await self._fetch_of_job(_SQL["notes"], tenant, job_id, shard)
            if row[:2] != (job, shard) or len(row[2]) != size:
                raise notes_lost(job_id)
            yield row["notes"]

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the next shard in turn (J2, J3, J8, J9, J11)."""
        self._news.clear()
        claim = partial(
            leasing.claim,
            worker=worker,
            lease_for=lease_for,
            max_attempts=max_attempts,
            set_aside=self._set_aside,
        )
        try:
            claimed = await self._claim(claim, max_attempts)
        except Exception as error:
            if not is_damage(error):
                raise
            await self._require_turns()
            await self._set_damaged_aside(claim)
            claimed = await self._claim(claim, max_attempts)
        if claimed is not None:
            self.wake()  # there may be more shards to claim
        return claimed

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease (J4, J7)."""
        async with self._database.connection() as connection:
            await leasing.renew(
                connection, lease, lease_for=lease_for, resources_done=resources_done
            )

    async def is_held(self, lease: Lease) -> bool:
        """Return whether the lease is still the newest one (J14)."""
        async with self._database.connection() as connection:
            return await leasing.is_held(connection, lease)

    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """Publish a shard's parts and notes, and close the shard (J4, J5, J12, J13)."""

        async def work(connection: Connection, *, again: bool) -> JobStatus:
            return await leasing.complete(
                connection, lease, parts, notes=notes, channel=self.channel, again=again
            )

        return await self._retry_lost_response(work)

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Record a failed attempt (J4, J9); workers find the shard by polling after its pause."""
        return await self._database.write(
            leasing.fail,
            lease,
            reason,
            max_attempts=max_attempts,
            retry_after=retry_after,
            channel=self.channel,
        )

    async def postpone(
        self, lease: Lease, reason: str, *, retry_after: timedelta, patience: timedelta
    ) -> bool:
        """Free the shard for later without counting the attempt, within `patience` (J19)."""
        async with self._database.connection() as connection:
            return await leasing.postpone(
                connection, lease, reason, retry_after=retry_after, patience=patience
            )

    async def release(self, lease: Lease) -> None:
        """Free a shard at once, without counting the attempt (J4)."""
        async with self._database.connection() as connection:
            await leasing.release(connection, lease, channel=self.channel)

    async def cancel(self, tenant: str, job_id: str) -> None:
        """Cancel a job (J6)."""
        await self._database.write(_cancel, tenant, job_id)

    async def removable(self, *, completed_before: timedelta, limit: int) -> list[JobKey]:
        """Return cancelled jobs and those that ended `completed_before` ago (J7, J15)."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["removable"], completed_before, limit)
        return [JobKey(**row) for row in rows]

    async def jobs(
        self, query: JobQuery, *, limit: int, after: JobPlace | None = None
    ) -> list[JobSummary]:
        """Return a page of the list of jobs (J15, J16)."""
        restrictions = (
            query.tenant,
            query.owner,
            None if query.statuses is None else list(query.statuses),
            query.id_prefix,
            query.older_than,
            query.younger_than,
            after and after.created_at,
            after and after.tenant,
            after and after.id,
        )
        try:
            rows = await self._fetch(_SQL["list"], *restrictions, limit, None)
        except BackendError as error:
            if not is_damage(error):
                raise
            rows = await self._list_singly(restrictions, limit)
        return [await self._summary(row) for row in rows]

    async def end_untouched(
        self, untouched_for: timedelta, *, reason: str, limit: int
    ) -> list[JobKey]:
        """End active jobs that were untouched for this long, or lack shards (J18, J20)."""
        return await self._database.write(_end_useless, untouched_for, reason=reason, limit=limit)

    async def beat(self, worker: str, *, lasts: timedelta) -> None:
        """Record that a worker is alive for `lasts`, and forget silent workers (J17)."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL["bury"])
            await connection.execute(_SQL["beat"], worker, lasts)

    async def retire(self, worker: str) -> None:
        """Forget a worker (J17)."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL["retire"], worker)

    async def workforce(self) -> Workforce:
        """Count the workers that are alive, and the jobs that wait for a worker (J17)."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_SQL["workforce"])
            stalled = await connection.fetchrow(_SQL["stalled"])
        assert row is not None  # noqa: S101 - an aggregate has a row
        assert stalled is not None  # noqa: S101 - as above
        return Workforce(**row, **stalled)

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """Return at most `limit` complete jobs of the tenant, latest first."""
        while True:
            async with self._database.connection() as connection:
                rows = await connection.fetch(
                    _SQL["recent"], self._set_aside.numbers, tenant, limit
                )
            jobs = list[Job]()
            for row in rows:
                try:
                    jobs.append(leasing.to_job(row))
                except UnreadableJob as error:
                    self._set_aside.add(row["job"], JobKey(tenant=tenant, id=row["id"]), error)
            if len(jobs) == len(rows):  # otherwise replace the unreadable ones (J15)
                return jobs

    async def delete(self, tenant: str, job_id: str) -> None:
        """Delete a job with its shards, parts and notes (J6)."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL["delete"], tenant, job_id)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Return whether the job is stored, cancelled or not."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(_SQL["exists"], tenant, job_id))

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return when any process has added or freed a shard, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._news.wait()

    async def _claim(
        self, claim: Callable[..., Awaitable[_Claimed]], max_attempts: int
    ) -> Lease | None:
        while True:
            async with self._database.connection() as connection:
                claimed = await claim(connection)
            if not isinstance(claimed, leasing.Exhausted):
                return claimed
            await self._database.write(leasing.give_up, claimed, max_attempts=max_attempts)

    async def _require_turns(self) -> None:
        """
        Check that the table of turns can be read: damage there is not the fault of a job.

        Raises:
            BackendError: The table is damaged; the message says how to repair it.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_SQL["by_index"])
                await connection.fetch(_SQL["turns"])
        except BackendError as error:
            if not is_damage(error):
                raise
            raise BackendError(
                "the table turns, which only holds the order of the tenants, is damaged; empty it"
                " with TRUNCATE turns"
            ) from error

    async def _set_damaged_aside(self, claim: Callable[..., Awaitable[_Claimed]]) -> None:
        """Set aside the jobs that make a claim fail, by claiming from each and rolling back."""
        for row in await self._fetch(_SQL["claimable"], self._set_aside.numbers):
            try:
                await self._try(claim, row["job"])
            except BackendError as error:
                self._add_damaged(row, error)

    async def _try(self, claim: Callable[..., Awaitable[_Claimed]], job: int) -> None:
        """Claim a shard of one job, and roll back."""
        with suppress(_Undone):
            async with self._database.transaction() as connection:
                await claim(connection, only=job)
                raise _Undone

    async def _list_singly(self, restrictions: Sequence[object], limit: int) -> list[Record]:
        """Return a page of the list of jobs, with reduced rows for damaged ones."""
        rows = list[Record]()
        for job in await self._fetch(_SQL["keys"]):
            try:
                rows += await self._fetch(_SQL["list"], *restrictions, limit, [job["job"]])
            except BackendError as error:
                self._add_damaged(job, error)
                rows += await self._fetch(_SQL["damaged"], *restrictions, job["job"])
        rows.sort(key=lambda row: (row["tenant"], row["id"]))
        rows.sort(key=lambda row: leasing.to_instant(row["created_at"]), reverse=True)
        return rows[:limit]

    async def _summary(self, row: Record) -> JobSummary:
        summary = _to_summary(row)
        shards = list[Record]()
        if summary.status in (JobStatus.ACCEPTED, JobStatus.IN_PROGRESS):
            try:
                shards = await self._fetch(_SQL["open_shards"], row["job"])
            except BackendError as error:
                self._add_damaged(row, error)
                return summary
        stored = ((shard["shard"], shard["token"]) for shard in shards)
        return self._set_aside.summary(row["job"], summary, row["accepted"], stored)

    def _add_damaged(self, row: Record, error: BackendError) -> None:
        """
        Set a damaged job aside.

        Raises:
            BackendError: The given error is not due to damaged data.
        """
        if not is_damage(error):
            raise error
        self._set_aside.add(row["job"], JobKey(tenant=row["tenant"], id=row["id"]), error)

    async def _fetch(self, statement: str, *values: object) -> list[Record]:
        async with self._database.connection() as connection:
            return await connection.fetch(statement, *values)

    async def _add(
        self, connection: Connection, job: Job, shards: Sequence[Shard], *, max_active: int
    ) -> Job:
        active = await connection.fetchval(_SQL["active"], job.tenant)
        if active >= max_active:
            raise too_many_exports(active, max_active)
        await connection.execute(_SQL["turn"], job.tenant)
        accepted = (msgspec.json.encode(job), job.owner or "", len(shards))
        number = await connection.fetchval(_SQL["add_job"], job.tenant, job.id, *accepted)
        await _add_shards(connection, number, shards)
        if shards:
            await leasing.notify(connection, self.channel)
        else:
            await leasing.end(connection, number, JobStatus.COMPLETE)
        row = await connection.fetchrow(_SQL["added"], job.tenant, job.id)
        assert row is not None  # noqa: S101 - inserted above
        return leasing.to_job(row)

    async def _retry_lost_response(self, work: Callable[..., Awaitable[T]]) -> T:
        """
        Run `work` in a transaction; repeat it if the response is lost.

        With `again=True` the work must find out whether an earlier attempt was committed. An
        attempt that is still running on the server holds the locks that the next one waits for.
        """
        deadline = time.monotonic() + self._database.settings.connect_timeout.total_seconds()
        again = False
        while True:
            try:
                return await self._database.write(work, again=again)
            except BackendUnavailable:
                if time.monotonic() >= deadline:
                    raise
            again = True
            await asyncio.sleep(RETRY_PAUSE.total_seconds())

    async def _fetch_of_job(
        self, query: str, tenant: str, job_id: str, *more: object
    ) -> list[Record]:
        """Return the rows of a query; no rows mean that there is no such job."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(query, tenant, job_id, *more)
        if not rows:
            raise job_not_found(job_id)
        return rows


async def _add_shards(connection: Connection, job: int, shards: Sequence[Shard]) -> None:
    await connection.execute(
        _SQL["add_shards"],
        job,
        [shard.number for shard in shards],
        [shard.phase for shard in shards],
        [msgspec.json.encode(shard) for shard in shards],
        [shard.resources for shard in shards],
    )


async def _cancel(connection: Connection, tenant: str, job_id: str) -> None:
    job = await connection.fetchval(_SQL["cancel"], tenant, job_id)
    if job is None:
        raise job_not_found(job_id)
    await leasing.end(connection, job, JobStatus.CANCELLED)


async def _end_useless(
    connection: Connection, untouched_for: timedelta, *, reason: str, limit: int
) -> list[JobKey]:
    rows = await connection.fetch(_SQL["useless"], untouched_for, limit)
    for row in rows:
        failure = lost_shards_reason(row["lost"]) if row["lost"] else reason
        await leasing.end(connection, row["job"], JobStatus.ERROR, failure=failure)
    return [JobKey(tenant=row["tenant"], id=row["id"]) for row in rows]


def _to_summary(row: Record) -> JobSummary:
    counts = ("resources_done", "resources_total", "shards_done", "shards_total", "waiting_for")
    others = ("tenant", "id", "owner", "status", "failure", "bytes", "attempts", "last_error")
    fields: dict[str, Any] = {name: row[name] for name in others}
    for name in ("created_at", "completed_at", "touched_at"):
        fields[name] = row[name] and leasing.to_instant(row[name])
    return JobSummary(progress=JobProgress(**{name: row[name] for name in counts}), **fields)


def _to_part(row: Record) -> Part:
    part = stored_part(row["part"])
    return msgspec.structs.replace(part, published=row["position"])
