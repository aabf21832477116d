"""Job state in SQLite."""

import asyncio
import builtins
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import timedelta

import msgspec
from aiosqlite import Connection

from helios_core.errors import JobNotFound, TooManyExports
from helios_core.exports import Shard
from helios_core.job_stores import JobStore
from helios_core.jobs import Job, JobStatus, Progress
from helios_core.leases import Lease
from helios_core.manifests import Part
from helios_sqlite import leasing
from helios_sqlite.job_databases import READ, JobDatabase, rows_of

_VISIBLE = "SELECT job FROM jobs WHERE tenant = ? AND id = ? AND status <> 'cancelled'"
_COLUMNS = "SELECT accepted, status, created_at, completed_at, failure FROM jobs "
_GET = _COLUMNS + "WHERE tenant = ? AND id = ? AND status <> 'cancelled'"
_LIST = _COLUMNS + "WHERE tenant = ? AND status <> 'cancelled' ORDER BY job DESC"
_REMOVABLE = _COLUMNS + (
    "WHERE completed_at IS NOT NULL AND (completed_at <= ? OR status = 'cancelled')"
    " ORDER BY completed_at LIMIT ?"
)
_RECENT = _COLUMNS + (
    "WHERE tenant = ? AND status = 'complete' ORDER BY completed_at DESC, job DESC LIMIT ?"
)
_ACTIVE = "SELECT count(*) FROM jobs WHERE tenant = ? AND status IN ('accepted', 'in-progress')"
_ADD_JOB = (
    "INSERT INTO jobs (tenant, id, accepted, status, created_at) VALUES (?, ?, ?, ?, ?)"
    " RETURNING job"
)
_ADD_SHARD = (
    "INSERT INTO shards (job, number, phase, shard, resources, available_at)"
    " VALUES (?, ?, ?, ?, ?, 0)"
)
_PROGRESS = """
SELECT total(resources_done), total(resources), total(done), count(*) FROM shards WHERE job = ?
"""
_PARTS = "SELECT part FROM parts WHERE job = ? ORDER BY kind, shard, number"
_NOTES = "SELECT shard, notes FROM notes WHERE job = ? AND shard > ? ORDER BY shard LIMIT 1"
_DELETE = "DELETE FROM jobs WHERE tenant = ? AND id = ?"
_EXISTS = "SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = ? AND id = ?)"


class SQLiteJobStore(JobStore):
    """
    Keeps jobs in one SQLite file, alone in it or beside the resources.

    Every method is one transaction; that of a caller who is cancelled is rolled back before the
    caller goes. Workers that find nothing to do only read.
    """

    def __init__(self, database: JobDatabase, identity: str) -> None:
        self._database = database
        self._identity = identity
        self._news = asyncio.Event()

    @classmethod
    async def of(cls, database: JobDatabase) -> "SQLiteJobStore":
        """Give the store in an opened file."""
        async with database.transaction(READ) as connection:
            [(identity,)] = await rows_of(connection, "SELECT identity FROM stores")
        return cls(database, identity)

    @property
    def identity(self) -> str:
        """A UUID made with the file; it stays when the file is moved."""
        return self._identity

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant is at its cap (J1)."""
        async with self._database.transaction() as connection:
            added = await _add(connection, job, shards, max_active)
        self._news.set()
        return added

    async def get(self, tenant: str, job_id: str) -> Job:
        """Give a job that was not cancelled."""
        async with self._database.transaction(READ) as connection:
            return await _get(connection, tenant, job_id)

    async def list(self, tenant: str) -> builtins.list[Job]:
        """Give the tenant's jobs, newest first."""
        async with self._database.transaction(READ) as connection:
            return await _jobs(connection, _LIST, tenant)

    async def progress(self, tenant: str, job_id: str) -> Progress:
        """Count published resources and those that holders reported."""
        async with self._database.transaction(READ) as connection:
            return await _progress(connection, tenant, job_id)

    async def parts(self, tenant: str, job_id: str) -> builtins.list[Part]:
        """Give the published parts in order."""
        async with self._database.transaction(READ) as connection:
            return await _parts(connection, tenant, job_id)

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Give what completed shards noted, each in a transaction of its own (J13)."""
        shard = -1
        while True:
            async with self._database.transaction(READ) as connection:
                found = await _notes_after(connection, tenant, job_id, shard)
            if found is None:
                return
            shard, notes = found
            yield notes

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the shard whose turn it is; look without a lock first (J2, J3, J8, J11)."""
        self._news.clear()
        async with self._database.transaction(READ) as connection:
            if not await leasing.work_waits(connection):
                return None
        self._news.set()  # where one shard waits there may be another
        async with self._database.transaction() as connection:
            return await leasing.claim(
                connection, worker, lease_for=lease_for, max_attempts=max_attempts
            )

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease (J4, J7)."""
        async with self._database.transaction() as connection:
            await leasing.renew(
                connection, lease, lease_for=lease_for, resources_done=resources_done
            )

    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """Publish a shard's parts and close it (J4, J5, J13); the next phase may begin (J11)."""
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

    async def release(self, lease: Lease) -> None:
        """Hand a shard back (J4)."""
        async with self._database.transaction() as connection:
            await leasing.release(connection, lease)
        self._news.set()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job for good (J6)."""
        async with self._database.transaction() as connection:
            await _cancel(connection, tenant, job_id)

    async def removable(self, *, completed_before: timedelta, limit: int) -> builtins.list[Job]:
        """Give cancelled jobs and those finished long enough ago (J7)."""
        async with self._database.transaction(READ) as connection:
            return await _removable(connection, completed_before, limit)

    async def recent(self, tenant: str, *, limit: int) -> builtins.list[Job]:
        """Give the tenant's complete jobs, the latest first."""
        async with self._database.transaction(READ) as connection:
            return await _jobs(connection, _RECENT, tenant, limit)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget a job with everything of it (J6)."""
        async with self._database.transaction() as connection:
            await _delete(connection, tenant, job_id)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Whether the job is remembered, cancelled or not."""
        async with self._database.transaction(READ) as connection:
            return await _exists(connection, tenant, job_id)

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return as soon as this process adds a shard or hands one back, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._news.wait()


async def _add(connection: Connection, job: Job, shards: Sequence[Shard], max_active: int) -> Job:
    [(active,)] = await rows_of(connection, _ACTIVE, (job.tenant,))
    if active >= max_active:
        raise TooManyExports(
            f"{active} exports are active and {max_active} are allowed;"
            " wait for one to finish, or delete one"
        )
    now = await leasing.now_of(connection)
    row = (job.tenant, job.id, msgspec.json.encode(job), JobStatus.ACCEPTED, now)
    [(number,)] = await rows_of(connection, _ADD_JOB, row)
    rows = [
        (number, shard.number, shard.phase, msgspec.json.encode(shard), shard.resources)
        for shard in shards
    ]
    await connection.executemany(_ADD_SHARD, rows)
    if not shards:
        await leasing.end(connection, number, JobStatus.COMPLETE)
    return await _get(connection, job.tenant, job.id)


async def _get(connection: Connection, tenant: str, job_id: str) -> Job:
    found = await _jobs(connection, _GET, tenant, job_id)
    if not found:
        raise _not_found(job_id)
    return found[0]


async def _jobs(connection: Connection, query: str, *parameters: object) -> list[Job]:
    return [leasing.to_job(row) for row in await rows_of(connection, query, parameters)]


async def _removable(connection: Connection, completed_before: timedelta, limit: int) -> list[Job]:
    latest = await leasing.now_of(connection) - leasing.in_milliseconds(completed_before)
    return await _jobs(connection, _REMOVABLE, latest, limit)


async def _number(connection: Connection, tenant: str, job_id: str) -> int:
    found = await rows_of(connection, _VISIBLE, (tenant, job_id))
    if not found:
        raise _not_found(job_id)
    [(number,)] = found
    return int(number)


async def _progress(connection: Connection, tenant: str, job_id: str) -> Progress:
    number = await _number(connection, tenant, job_id)
    [counts] = await rows_of(connection, _PROGRESS, (number,))
    done, total, shards_done, shards_total = map(int, counts)
    return Progress(
        resources_done=done,
        resources_total=total,
        shards_done=shards_done,
        shards_total=shards_total,
    )


async def _parts(connection: Connection, tenant: str, job_id: str) -> list[Part]:
    number = await _number(connection, tenant, job_id)
    rows = await rows_of(connection, _PARTS, (number,))
    return [msgspec.json.decode(part, type=Part) for (part,) in rows]


async def _notes_after(
    connection: Connection, tenant: str, job_id: str, shard: int
) -> tuple[int, bytes] | None:
    number = await _number(connection, tenant, job_id)
    found = await rows_of(connection, _NOTES, (number, shard))
    return (int(found[0][0]), bytes(found[0][1])) if found else None


async def _cancel(connection: Connection, tenant: str, job_id: str) -> None:
    await leasing.end(connection, await _number(connection, tenant, job_id), JobStatus.CANCELLED)


async def _delete(connection: Connection, tenant: str, job_id: str) -> None:
    await connection.execute(_DELETE, (tenant, job_id))


async def _exists(connection: Connection, tenant: str, job_id: str) -> bool:
    [(found,)] = await rows_of(connection, _EXISTS, (tenant, job_id))
    return bool(found)


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no export {job_id}; list the exports to see which exist")
