"""Claim, renew and close shards: what one transaction of the job store does to one of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from aiosqlite import Connection

from helios_core.errors import LeaseLost
from helios_core.exports import Shard
from helios_core.jobs import Job, JobStatus
from helios_core.leases import Lease
from helios_core.manifests import Part, PartKind
from helios_sqlite.job_databases import Row, rows_of

_NOW = "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
_FAIREST = """
SELECT j.job, (
  SELECT number FROM shards AS s
  WHERE s.job = j.job AND s.done = 0 AND s.available_at <= :now
    AND s.phase = (SELECT min(phase) FROM shards WHERE job = j.job AND done = 0)
  ORDER BY number LIMIT 1
) AS free
FROM jobs AS j LEFT JOIN turns AS t ON t.tenant = j.tenant
WHERE j.status IN ('accepted', 'in-progress') AND free IS NOT NULL
ORDER BY coalesce(t.served, 0), j.job LIMIT 1
"""
_SHARD = "SELECT shard, token, attempts, last_error FROM shards WHERE job = ? AND number = ?"
_HOLD = """
UPDATE shards SET available_at = :until, worker = :worker, resources_done = 0,
  token = token + 1, attempts = attempts + 1
WHERE job = :job AND number = :number
"""
_SERVE = """
INSERT INTO turns SELECT tenant, (SELECT coalesce(max(served), 0) + 1 FROM turns)
FROM jobs WHERE job = ?
ON CONFLICT (tenant) DO UPDATE SET served = excluded.served
"""
_HELD = """
SELECT s.job, s.attempts FROM jobs AS j JOIN shards AS s ON s.job = j.job
WHERE j.tenant = ? AND j.id = ? AND s.number = ? AND s.token = ? AND s.worker IS NOT NULL
  AND j.status IN ('accepted', 'in-progress')
"""
_RENEW = "UPDATE shards SET available_at = ?, resources_done = ? WHERE job = ? AND number = ?"
_HAND_BACK = """
UPDATE shards SET worker = NULL, resources_done = 0, available_at = :available_at,
  attempts = :attempts, last_error = coalesce(:last_error, last_error)
WHERE job = :job AND number = :number
"""
_CLOSE = """
UPDATE shards SET worker = NULL, available_at = NULL, done = 1, resources_done = ?
WHERE job = ? AND number = ?
"""
_PUBLISH = "INSERT INTO parts VALUES (?, ?, ?, ?, ?)"
_NOTE = "INSERT INTO notes VALUES (?, ?, ?)"
_PUBLISHED = "SELECT count(*) FROM parts WHERE job = ?"
_ANY_LEFT = "SELECT EXISTS (SELECT 1 FROM shards WHERE job = ? AND done = 0)"
_END_JOB = "UPDATE jobs SET status = ?, completed_at = ?, failure = ? WHERE job = ?"
_END_SHARDS = """
UPDATE shards SET token = token + 1, worker = NULL, available_at = NULL WHERE job = ?
"""
_JOB = """
SELECT accepted, status, created_at, completed_at, failure FROM jobs WHERE job = ?
"""

KINDS = [*PartKind]
"""The order of kinds among the parts of a job."""


async def now_of(connection: Connection) -> int:
    """Give the milliseconds since 1970 by the store's clock (J7)."""
    [(now,)] = await rows_of(connection, _NOW)
    return int(now)


def in_milliseconds(duration: timedelta) -> int:
    """Give a duration as the store counts it."""
    return duration // timedelta(milliseconds=1)


def to_job(row: Row) -> Job:
    """Give a stored job."""
    accepted, status, created_at, completed_at, failure = row
    return msgspec.structs.replace(
        msgspec.json.decode(accepted, type=Job),
        status=JobStatus(status),
        created_at=_instant(created_at),
        completed_at=None if completed_at is None else _instant(completed_at),
        failure=failure,
    )


async def work_waits(connection: Connection) -> bool:
    """Whether there is a shard to claim, without a lock."""
    return bool(await rows_of(connection, _FAIREST, {"now": await now_of(connection)}))


async def claim(
    connection: Connection, worker: str, *, lease_for: timedelta, max_attempts: int
) -> Lease | None:
    """Claim the shard whose turn it is, or give None (J2, J3, J8, J9, J11)."""
    now = await now_of(connection)
    while found := await rows_of(connection, _FAIREST, {"now": now}):
        [(job, number)] = found
        [(shard, token, attempts, last_error)] = await rows_of(connection, _SHARD, (job, number))
        if attempts >= max_attempts:
            await end(
                connection, job, JobStatus.ERROR, failure=_exhausted(number, attempts, last_error)
            )
            continue
        until = now + in_milliseconds(lease_for)
        holding = {"until": until, "worker": worker, "job": job, "number": number}
        await connection.execute(_HOLD, holding)
        await connection.execute("UPDATE jobs SET status = 'in-progress' WHERE job = ?", (job,))
        await connection.execute(_SERVE, (job,))
        [accepted] = await rows_of(connection, _JOB, (job,))
        return Lease(
            job=to_job(accepted),
            shard=msgspec.json.decode(shard, type=Shard),
            token=token + 1,
            worker=worker,
            attempt=attempts + 1,
        )
    return None


async def renew(
    connection: Connection, lease: Lease, *, lease_for: timedelta, resources_done: int
) -> None:
    """Extend a lease from now on (J4)."""
    job, _ = await _held(connection, lease)
    until = await now_of(connection) + in_milliseconds(lease_for)
    await connection.execute(_RENEW, (until, resources_done, job, lease.shard.number))


async def complete(
    connection: Connection, lease: Lease, parts: Sequence[Part], *, notes: bytes
) -> JobStatus:
    """Publish parts, close their shard and, for the last one, the job (J5, J12, J13)."""
    job, _ = await _held(connection, lease)
    number = lease.shard.number
    [(first,)] = await rows_of(connection, _PUBLISHED, (job,))
    rows = [
        (job, KINDS.index(part.key.kind), number, part.key.number, _numbered(part, place))
        for place, part in enumerate(parts, first)
    ]
    await connection.executemany(_PUBLISH, rows)
    if notes:
        await connection.execute(_NOTE, (job, number, notes))
    exported = sum(part.count for part in parts if part.key.kind is PartKind.OUTPUT)
    await connection.execute(_CLOSE, (exported, job, number))
    [(any_left,)] = await rows_of(connection, _ANY_LEFT, (job,))
    if any_left:
        return JobStatus.IN_PROGRESS
    return await end(connection, job, JobStatus.COMPLETE)


async def fail(
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    max_attempts: int,
    retry_after: timedelta,
) -> JobStatus:
    """Free the shard for later, or end the job when its attempts are used up (J9)."""
    job, attempts = await _held(connection, lease)
    free_at = await now_of(connection) + in_milliseconds(retry_after)
    await _hand_back(
        connection, (job, lease.shard.number), attempts, available_at=free_at, error=reason
    )
    if attempts >= max_attempts:
        return await end(connection, job, JobStatus.ERROR, failure=reason)
    return JobStatus.IN_PROGRESS


async def release(connection: Connection, lease: Lease) -> None:
    """Free the shard at once, as if it had not been claimed."""
    job, attempts = await _held(connection, lease)
    await _hand_back(connection, (job, lease.shard.number), attempts - 1, available_at=0)


async def end(
    connection: Connection, job: int, status: JobStatus, *, failure: str | None = None
) -> JobStatus:
    """Put a job into a final status and take its shards from whoever holds them (J6)."""
    await connection.execute(_END_JOB, (status, await now_of(connection), failure, job))
    await connection.execute(_END_SHARDS, (job,))
    return status


async def _held(connection: Connection, lease: Lease) -> tuple[int, int]:
    """Give job and attempts of a shard that the lease is still good for (J4)."""
    key = (lease.job.tenant, lease.job.id, lease.shard.number, lease.token)
    found = await rows_of(connection, _HELD, key)
    if not found:
        raise LeaseLost(
            f"lease {lease.token} on shard {lease.shard.number} of export {lease.job.id} is lost:"
            " the shard was claimed again or handed back, or the job was ended; write nothing"
            " more under it"
        )
    [(job, attempts)] = found
    return job, attempts


async def _hand_back(
    connection: Connection,
    shard: tuple[int, int],
    attempts: int,
    *,
    available_at: int,
    error: str | None = None,
) -> None:
    job, number = shard
    values = {"job": job, "number": number, "attempts": attempts}
    await connection.execute(
        _HAND_BACK, values | {"available_at": available_at, "last_error": error}
    )


def _numbered(part: Part, place: int) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(part, published=place))


def _exhausted(number: int, attempts: int, last_error: str | None) -> str:
    error = last_error or "none of its workers reported back"
    return f"shard {number} was given up after {attempts} attempts: {error}"


def _instant(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
