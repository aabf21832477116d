"""Job state in SQLite."""

import asyncio
import builtins
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import msgspec

from helios_core.errors import JobNotFound, TooManyExports
from helios_core.exports import Shard
from helios_core.job_stores import JobStore
from helios_core.jobs import Job, JobStatus, Progress
from helios_core.leases import Lease
from helios_core.manifests import Part
from helios_sqlite import leasing
from helios_sqlite.databases import Database

_VISIBLE = "SELECT job FROM jobs WHERE tenant = ? AND id = ? AND status <> 'cancelled'"
_COLUMNS = "SELECT accepted, status, created_at, completed_at, failure FROM jobs "
_GET = _COLUMNS + "WHERE tenant = ? AND id = ? AND status <> 'cancelled'"
_LIST = _COLUMNS + "WHERE tenant = ? AND status <> 'cancelled' ORDER BY job DESC"
_REMOVABLE = _COLUMNS + (
    "WHERE completed_at IS NOT NULL AND (completed_at <= ? OR status = 'cancelled')"
    " ORDER BY completed_at LIMIT ?"
)
_ACTIVE = "SELECT count(*) FROM jobs WHERE tenant = ? AND status IN ('accepted', 'in-progress')"
_ADD_JOB = (
    "INSERT INTO jobs (tenant, id, accepted, status, created_at) VALUES (?, ?, ?, ?, ?)"
    " RETURNING job"
)
_ADD_SHARD = (
    "INSERT INTO shards (job, number, shard, resources, available_at) VALUES (?, ?, ?, ?, 0)"
)
_PROGRESS = """
SELECT total(resources_done), total(resources), total(done), count(*) FROM shards WHERE job = ?
"""
_PARTS = "SELECT part FROM parts WHERE job = ? ORDER BY kind, shard, number"
_DELETE = "DELETE FROM jobs WHERE tenant = ? AND id = ?"
_EXISTS = "SELECT EXISTS (SELECT 1 FROM jobs WHERE tenant = ? AND id = ?)"


class SQLiteJobStore(JobStore):
    """
    Keeps jobs in one SQLite file, alone in it or beside the resources.

    Every method is one transaction in one thread, so a caller that is cancelled leaves nothing
    half done. Workers that find nothing to do only read.
    """

    def __init__(self, database: Database, identity: str) -> None:
        self._database = database
        self._identity = identity
        self._news = asyncio.Event()

    @classmethod
    async def of(cls, database: Database) -> "SQLiteJobStore":
        """Give the store in an opened file."""
        return cls(database, await database.read(_identity))

    @property
    def identity(self) -> str:
        """A UUID made with the file; it stays when the file is moved."""
        return self._identity

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant is at its cap (J1)."""
        added = await self._database.write(_add, job, shards, max_active)
        self._news.set()
        return added

    async def get(self, tenant: str, job_id: str) -> Job:
        """Give a job that was not cancelled."""
        return await self._database.read(_get, tenant, job_id)

    async def list(self, tenant: str) -> builtins.list[Job]:
        """Give the tenant's jobs, newest first."""
        return await self._database.read(_jobs, _LIST, tenant)

    async def progress(self, tenant: str, job_id: str) -> Progress:
        """Count published resources and those that holders reported."""
        return await self._database.read(_progress, tenant, job_id)

    async def parts(self, tenant: str, job_id: str) -> builtins.list[Part]:
        """Give the published parts in order."""
        return await self._database.read(_parts, tenant, job_id)

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the shard whose turn it is; look without the write lock first (J2, J3, J8)."""
        self._news.clear()
        if not await self._database.read(leasing.work_waits):
            return None
        self._news.set()  # where one shard waits there may be another
        return await self._database.write(
            leasing.claim, worker, lease_for=lease_for, max_attempts=max_attempts
        )

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease (J4, J7)."""
        await self._database.write(
            leasing.renew, lease, lease_for=lease_for, resources_done=resources_done
        )

    async def complete(self, lease: Lease, parts: Sequence[Part]) -> JobStatus:
        """Publish a shard's parts and close it (J4, J5)."""
        return await self._database.write(leasing.complete, lease, parts)

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Record a failed attempt (J4, J9)."""
        status = await self._database.write(
            leasing.fail, lease, reason, max_attempts=max_attempts, retry_after=retry_after
        )
        self._news.set()
        return status

    async def release(self, lease: Lease) -> None:
        """Hand a shard back (J4)."""
        await self._database.write(leasing.release, lease)
        self._news.set()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """End a job for good (J6)."""
        await self._database.write(_cancel, tenant, job_id)

    async def removable(self, *, completed_before: timedelta, limit: int) -> builtins.list[Job]:
        """Give cancelled jobs and those finished long enough ago (J7)."""
        return await self._database.read(_removable, completed_before, limit)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget a job with everything of it (J6)."""
        await self._database.write(_delete, tenant, job_id)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Whether the job is remembered, cancelled or not."""
        return await self._database.read(_exists, tenant, job_id)

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return as soon as this process adds a shard or hands one back, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._news.wait()


def _identity(connection: sqlite3.Connection) -> str:
    identity: str = connection.execute("SELECT identity FROM stores").fetchone()[0]
    return identity


def _add(
    connection: sqlite3.Connection, job: Job, shards: Sequence[Shard], max_active: int
) -> Job:
    active: int = connection.execute(_ACTIVE, (job.tenant,)).fetchone()[0]
    if active >= max_active:
        raise TooManyExports(
            f"{active} exports are active and {max_active} are allowed;"
            " wait for one to finish, or delete one"
        )
    now = leasing.now_of(connection)
    row = (job.tenant, job.id, msgspec.json.encode(job), JobStatus.ACCEPTED, now)
    number: int = connection.execute(_ADD_JOB, row).fetchone()[0]
    rows = [
        (number, shard.number, msgspec.json.encode(shard), shard.resources) for shard in shards
    ]
    connection.executemany(_ADD_SHARD, rows)
    if not shards:
        leasing.end(connection, number, JobStatus.COMPLETE)
    return _get(connection, job.tenant, job.id)


def _get(connection: sqlite3.Connection, tenant: str, job_id: str) -> Job:
    found = _jobs(connection, _GET, tenant, job_id)
    if not found:
        raise _not_found(job_id)
    return found[0]


def _jobs(connection: sqlite3.Connection, query: str, *parameters: object) -> list[Job]:
    return [leasing.to_job(row) for row in connection.execute(query, parameters)]


def _removable(
    connection: sqlite3.Connection, completed_before: timedelta, limit: int
) -> list[Job]:
    latest = leasing.now_of(connection) - leasing.in_milliseconds(completed_before)
    return _jobs(connection, _REMOVABLE, latest, limit)


def _number(connection: sqlite3.Connection, tenant: str, job_id: str) -> int:
    found: tuple[int] | None = connection.execute(_VISIBLE, (tenant, job_id)).fetchone()
    if found is None:
        raise _not_found(job_id)
    return found[0]


def _progress(connection: sqlite3.Connection, tenant: str, job_id: str) -> Progress:
    counts = connection.execute(_PROGRESS, (_number(connection, tenant, job_id),)).fetchone()
    done, total, shards_done, shards_total = map(int, counts)
    return Progress(
        resources_done=done,
        resources_total=total,
        shards_done=shards_done,
        shards_total=shards_total,
    )


def _parts(connection: sqlite3.Connection, tenant: str, job_id: str) -> list[Part]:
    rows = connection.execute(_PARTS, (_number(connection, tenant, job_id),))
    return [msgspec.json.decode(part, type=Part) for (part,) in rows]


def _cancel(connection: sqlite3.Connection, tenant: str, job_id: str) -> None:
    leasing.end(connection, _number(connection, tenant, job_id), JobStatus.CANCELLED)


def _delete(connection: sqlite3.Connection, tenant: str, job_id: str) -> None:
    connection.execute(_DELETE, (tenant, job_id))


def _exists(connection: sqlite3.Connection, tenant: str, job_id: str) -> bool:
    return bool(connection.execute(_EXISTS, (tenant, job_id)).fetchone()[0])


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no export {job_id}; list the exports to see which exist")
