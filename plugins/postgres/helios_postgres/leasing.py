"""
Claim, renew and close shards: what one transaction of the job store does to one of them.

Whoever takes several rows takes that of the job first, then those of its shards. A claim has the
shard first, and therefore never waits for any other row: what is taken, it passes over.
"""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from asyncpg import Record

from helios_core import (
    PART_KINDS,
    Job,
    JobStatus,
    Lease,
    Part,
    SetAside,
    UnreadableJob,
    count_exported,
    give_up_reason,
    lease_lost,
    stored_job,
    stored_shard,
)
from helios_postgres.connections import Connection

_CLAIM = """
WITH picked AS (
  SELECT free.job, free.number
  FROM (
    SELECT j.job FROM jobs AS j JOIN turns AS t ON t.tenant = j.tenant
    WHERE j.status IN ('accepted', 'in-progress') AND j.job <> ALL($4::bigint[])
    ORDER BY t.served, j.job
  ) AS waiting
  CROSS JOIN LATERAL (
    SELECT s.job, s.number FROM shards AS s
    WHERE s.job = waiting.job AND NOT s.done
      AND (s.available_at <= now() OR s.available_at > now() + 1.5 * s.wait) AND s.phase = (
      SELECT min(undone.phase) FROM shards AS undone
      WHERE undone.job = waiting.job AND NOT undone.done
    )
    ORDER BY s.number LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
  ) AS free
  LIMIT 1
), held AS (
  UPDATE shards AS s SET available_at = now() + $2::interval, wait = $2::interval, worker = $1,
    resources_done = 0,
    token = s.token + 1, attempts = s.attempts + 1
  FROM picked AS p WHERE s.job = p.job AND s.number = p.number AND s.attempts < $3
  RETURNING s.job, s.shard, s.token, s.attempts
), begun AS (
  UPDATE jobs SET status = 'in-progress' WHERE job = (
    SELECT j.job FROM jobs AS j JOIN held AS h ON h.job = j.job WHERE j.status = 'accepted'
    FOR NO KEY UPDATE OF j SKIP LOCKED
  )
), served AS (
  UPDATE turns SET served = nextval('servings') WHERE tenant = (
    SELECT t.tenant FROM turns AS t
    JOIN jobs AS j ON j.tenant = t.tenant JOIN held AS h ON h.job = j.job
    FOR NO KEY UPDATE OF t SKIP LOCKED
  )
)
SELECT p.job, j.id, p.number, h.shard, h.token, h.attempts, j.accepted, 'in-progress' AS status,
  j.created_at, j.completed_at, j.failure
FROM picked AS p JOIN jobs AS j ON j.job = p.job LEFT JOIN held AS h ON h.job = p.job
"""
_EXHAUSTED = """
SELECT attempts, last_error FROM shards
WHERE job = $1 AND number = $2 AND NOT done AND attempts >= $3
  AND (available_at <= clock_timestamp() OR available_at > clock_timestamp() + 1.5 * wait)
"""
_LOCK = "SELECT status FROM jobs WHERE job = $1 FOR NO KEY UPDATE"
_FIND = "SELECT job, status FROM jobs WHERE tenant = $1 AND id = $2 FOR NO KEY UPDATE"
_RENEW = """
UPDATE shards AS s SET available_at = clock_timestamp() + $5::interval, wait = $5::interval,
  resources_done = $6
FROM jobs AS j
WHERE j.tenant = $1 AND j.id = $2 AND s.job = j.job AND s.number = $3 AND s.token = $4
  AND s.worker IS NOT NULL
RETURNING s.job
"""
_HELD = """
SELECT EXISTS (
  SELECT 1 FROM jobs AS j JOIN shards AS s ON s.job = j.job
  WHERE j.tenant = $1 AND j.id = $2 AND s.number = $3 AND s.token = $4 AND s.worker IS NOT NULL
)
"""
_RELEASE = """
WITH freed AS (
  UPDATE shards AS s SET worker = NULL, resources_done = 0, available_at = '-infinity',
    attempts = s.attempts - 1
  FROM jobs AS j
  WHERE j.tenant = $1 AND j.id = $2 AND s.job = j.job AND s.number = $3 AND s.token = $4
    AND s.worker IS NOT NULL
  RETURNING s.job
)
SELECT job, pg_notify($5, '') FROM freed
"""
_UNCLAIM = """
UPDATE shards SET worker = NULL, available_at = '-infinity', attempts = attempts - 1
WHERE job = $1 AND number = $2 AND token = $3
"""
_FAIL = """
UPDATE shards SET worker = NULL, resources_done = 0, last_error = $5,
  available_at = clock_timestamp() + $4::interval, wait = $4::interval
WHERE job = $1 AND number = $2 AND token = $3 AND worker IS NOT NULL
RETURNING attempts
"""
_COMPLETE = """
WITH closed AS (
  UPDATE shards SET done = true, worker = NULL, available_at = NULL, resources_done = $4,
    completed_under = token
  WHERE job = $1 AND number = $2 AND token = $3 AND worker IS NOT NULL
  RETURNING job, number, phase
), published AS (
  INSERT INTO parts (job, kind, shard, number, part, name, position)
  SELECT c.job, p.kind, c.number, p.number, p.part, p.name, p.place - 1 + (
    SELECT coalesce(max(position) + 1, 0) FROM parts WHERE job = $1
  )
  FROM closed AS c
  CROSS JOIN unnest($5::int[], $6::int[], $7::bytea[], $9::text[])
    WITH ORDINALITY AS p (kind, number, part, name, place)
), noted AS (
  INSERT INTO notes (job, shard, notes)
  SELECT job, number, $8::bytea FROM closed WHERE length($8::bytea) > 0
)
SELECT phase, (
  SELECT min(s.phase) FROM shards AS s WHERE s.job = $1 AND NOT s.done AND s.number <> $2
) AS next_phase
FROM closed
"""
_COMPLETED_UNDER = """
SELECT EXISTS (SELECT 1 FROM shards WHERE job = $1 AND number = $2 AND completed_under = $3)
"""
_END_JOB = """
UPDATE jobs SET status = $2, completed_at = clock_timestamp(), failure = $3 WHERE job = $1
"""
_END_SHARDS = """
UPDATE shards SET token = token + 1, worker = NULL, available_at = NULL
WHERE job = $1 AND NOT done
"""


def to_job(row: Record) -> Job:
    """Give a stored job."""
    return stored_job(
        row["accepted"],
        status=row["status"],
        created_at=row["created_at"],
        completed_at=row["completed_at"],
        failure=row["failure"],
    )


async def notify(connection: Connection, channel: str) -> None:
    """Wake idle workers everywhere once the transaction is committed."""
    await connection.execute("SELECT pg_notify($1, '')", channel)


class Exhausted(msgspec.Struct, frozen=True, kw_only=True):
    """A shard that is free again after its last attempt."""

    job: int
    number: int


async def claim(
    connection: Connection,
    worker: str,
    *,
    lease_for: timedelta,
    max_attempts: int,
    set_aside: SetAside,
) -> Lease | Exhausted | None:
    """Claim the shard whose turn it is, say that it has to be given up, or give None."""
    while True:
        aside = set_aside.numbers
        row = await connection.fetchrow(_CLAIM, worker, lease_for, max_attempts, aside)
        if row is None:
            return None
        if row["token"] is None:
            return Exhausted(job=row["job"], number=row["number"])
        try:
            return _to_lease(row, worker)
        except UnreadableJob as error:
            set_aside.add(row["job"], row["id"], error)
            # Another process, of a newer version perhaps, may be able to.
            await connection.execute(_UNCLAIM, row["job"], row["number"], row["token"])


def _to_lease(row: Record, worker: str) -> Lease:
    return Lease(
        job=to_job(row),
        shard=stored_shard(row["shard"]),
        token=row["token"],
        worker=worker,
        attempt=row["attempts"],
    )


async def give_up(connection: Connection, shard: Exhausted, *, max_attempts: int) -> None:
    """End a job of which a shard has used up its attempts, if that is still so (J9)."""
    status = await connection.fetchval(_LOCK, shard.job)
    if status is None or not JobStatus(status).active:
        return
    row = await connection.fetchrow(_EXHAUSTED, shard.job, shard.number, max_attempts)
    if row is not None:
        reason = give_up_reason(shard.number, row["attempts"], row["last_error"])
        await end(connection, shard.job, JobStatus.ERROR, failure=reason)


async def renew(
    connection: Connection, lease: Lease, *, lease_for: timedelta, resources_done: int
) -> None:
    """Extend a lease from now on (J4)."""
    row = await connection.fetchrow(_RENEW, *_key(lease), lease_for, resources_done)
    if row is None:
        raise lease_lost(lease)


async def is_held(connection: Connection, lease: Lease) -> bool:
    """Whether a lease is still the newest one (J14)."""
    return bool(await connection.fetchval(_HELD, *_key(lease)))


async def release(connection: Connection, lease: Lease, *, channel: str) -> None:
    """Free the shard at once, as if it had not been claimed."""
    row = await connection.fetchrow(_RELEASE, *_key(lease), channel)
    if row is None:
        raise lease_lost(lease)


async def complete(  # noqa: PLR0913 - what is published, and how the answer to it is asked for
    connection: Connection,
    lease: Lease,
    parts: Sequence[Part],
    *,
    notes: bytes,
    channel: str,
    again: bool,
) -> JobStatus:
    """
    Publish parts and notes, close their shard and, for the last one, the job (J5, J12, J13).

    Completions of one job follow each other by the lock of its row, which is what makes the
    positions of its parts gapless; those of different jobs do not meet. `again` says that the
    answer to the same call was lost: it may turn out to have been done.
    """
    job, status = await _locked(connection, lease)
    kinds = [PART_KINDS.index(part.key.kind) for part in parts]
    numbers = [part.key.number for part in parts]
    names = [part.key.name for part in parts]
    encoded = [msgspec.json.encode(part) for part in parts]
    shard = (job, lease.shard.number, lease.token)
    row = status.active and await connection.fetchrow(
        _COMPLETE, *shard, count_exported(parts), kinds, numbers, encoded, notes, names
    )
    if not row:
        if again and await connection.fetchval(_COMPLETED_UNDER, *shard):
            return status
        raise lease_lost(lease)
    if row["next_phase"] is None:
        return await end(connection, job, JobStatus.COMPLETE)
    if row["next_phase"] > row["phase"]:
        await notify(connection, channel)
    return JobStatus.IN_PROGRESS


async def fail(  # noqa: PLR0913 - what JobStore.fail is told
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    max_attempts: int,
    retry_after: timedelta,
    channel: str,
) -> JobStatus:
    """Free the shard for later, or end the job when its attempts are used up (J9)."""
    job, status = await _locked(connection, lease)
    attempts = status.active and await connection.fetchval(
        _FAIL, job, lease.shard.number, lease.token, retry_after, reason
    )
    if not attempts:
        raise lease_lost(lease)
    if attempts >= max_attempts:
        return await end(connection, job, JobStatus.ERROR, failure=reason)
    if not retry_after:
        await notify(connection, channel)
    return JobStatus.IN_PROGRESS


async def end(
    connection: Connection, job: int, status: JobStatus, *, failure: str | None = None
) -> JobStatus:
    """Put a job into a final status and take its shards from whoever holds them (J6)."""
    await connection.execute(_END_JOB, job, status.value, failure)
    await connection.execute(_END_SHARDS, job)
    return status


async def _locked(connection: Connection, lease: Lease) -> tuple[int, JobStatus]:
    """Take the row of a lease's job."""
    row = await connection.fetchrow(_FIND, lease.job.tenant, lease.job.id)
    if row is None:
        raise lease_lost(lease)
    return row["job"], JobStatus(row["status"])


def _key(lease: Lease) -> tuple[str, str, int, int]:
    return lease.job.tenant, lease.job.id, lease.shard.number, lease.token
