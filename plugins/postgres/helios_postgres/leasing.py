"""
Leasing: claiming, renewing and closing shards, each in one transaction.

To avoid deadlocks, a transaction locks the row of the job before those of its shards. A claim
locks the shard first, and therefore never waits for another row: it skips locked rows.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from asyncpg import Record

from helios_core import (
    PART_KINDS,
    Job,
    JobKey,
    JobStatus,
    Lease,
    Part,
    SetAside,
    UnreadableJob,
    count_exported,
    give_up_reason,
    lease_lost,
    lost_shards_reason,
    read_statements,
    stored_job,
    stored_shard,
)
from helios_postgres.connections import Connection

_SQL = read_statements("helios_postgres", "leasing")


def to_job(row: Record) -> Job:
    """Return the job of a row."""
    return stored_job(
        row["accepted"],
        status=row["status"],
        created_at=to_instant(row["created_at"]),
        completed_at=row["completed_at"] and to_instant(row["completed_at"]),
        failure=row["failure"],
    )


def to_instant(stored: datetime) -> datetime:
    """Return an instant with a time zone; the driver returns infinity without one."""
    return stored if stored.tzinfo else stored.replace(tzinfo=UTC)


async def notify(connection: Connection, channel: str) -> None:
    """Wake idle workers of all processes once the transaction is committed."""
    await connection.execute(_SQL["notify"], channel)


class Exhausted(msgspec.Struct, frozen=True, kw_only=True):
    """A free shard that has used up its attempts."""

    job: int
    number: int


async def claim(  # noqa: PLR0913
    connection: Connection,
    worker: str,
    *,
    lease_for: timedelta,
    max_attempts: int,
    set_aside: SetAside,
    only: int | None = None,
) -> Lease | Exhausted | None:
    """
    Claim the next shard in turn, or return None if none is free.

    `Exhausted` is returned for a shard that must be given up first.
    """
    statement = _SQL["claim_shard"]
    while True:
        values = (worker, lease_for, max_attempts, set_aside.numbers, only)
        row = await connection.fetchrow(statement, *values)
        if row is None:
            return None
        if row["token"] is None:
            return Exhausted(job=row["job"], number=row["number"])
        try:
            return _to_lease(row, worker)
        except UnreadableJob as error:
            set_aside.add(row["job"], JobKey(tenant=row["tenant"], id=row["id"]), error)
            # Another process may be able to read it, for example one of a newer version.
            await connection.execute(_SQL["unclaim"], row["job"], row["number"], row["token"])


def _to_lease(row: Record, worker: str) -> Lease:
    return Lease(
        job=to_job(row),
        shard=stored_shard(row["shard"], row["token"]),
        token=row["token"],
        worker=worker,
        attempt=row["attempts"],
        postponed=row["postponed"],
    )


async def give_up(connection: Connection, shard: Exhausted, *, max_attempts: int) -> None:
    """End a job whose shard has used up its attempts, unless the shard has changed (J9)."""
    status = await connection.fetchval(_SQL["lock"], shard.job)
    if status is None or not JobStatus(status).active:
        return
    row = await connection.fetchrow(_SQL["exhausted"], shard.job, shard.number, max_attempts)
    if row is not None:
        reason = give_up_reason(shard.number, row["attempts"], row["last_error"])
        await end(connection, shard.job, JobStatus.ERROR, failure=reason)


async def renew(
    connection: Connection, lease: Lease, *, lease_for: timedelta, resources_done: int
) -> None:
    """Extend a lease, counted from now (J4)."""
    row = await connection.fetchrow(_SQL["renew"], *_key(lease), lease_for, resources_done)
    if row is None:
        raise lease_lost(lease)


async def is_held(connection: Connection, lease: Lease) -> bool:
    """Return whether a lease is still the newest one (J14)."""
    return bool(await connection.fetchval(_SQL["held"], *_key(lease)))


async def postpone(
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    retry_after: timedelta,
    patience: timedelta,
) -> bool:
    """Free the shard for later without counting the attempt, within `patience` (J19)."""
    values = (*_key(lease), retry_after, patience, reason)
    if await connection.fetchrow(_SQL["postpone"], *values) is not None:
        return True
    if not await is_held(connection, lease):
        raise lease_lost(lease)
    return False


async def release(connection: Connection, lease: Lease, *, channel: str) -> None:
    """Free the shard at once, without counting the attempt."""
    row = await connection.fetchrow(_SQL["release"], *_key(lease), channel)
    if row is None:
        raise lease_lost(lease)


async def complete(  # noqa: PLR0913
    connection: Connection,
    lease: Lease,
    parts: Sequence[Part],
    *,
    notes: bytes,
    channel: str,
    again: bool,
) -> JobStatus:
    """
    Publish parts and notes, and close their shard, or with the last one the job.

    The lock on the job's row serializes its completions, so that positions of parts have no gaps.
    With `again`, the response to the same call was lost, and it may have been committed.
    (J5, J12, J13, J20)
    """
    job, status = await _locked(connection, lease)
    kinds = [PART_KINDS.index(part.key.kind) for part in parts]
    numbers = [part.key.number for part in parts]
    names = [part.key.name for part in parts]
    encoded = [msgspec.json.encode(part) for part in parts]
    size = sum(part.size for part in parts)
    shard = (job, lease.shard.number, lease.token)
    published = (count_exported(parts), kinds, numbers, encoded, notes, names, size)
    row = status.active and await connection.fetchrow(_SQL["complete"], *shard, *published)
    if not row:
        if again and await connection.fetchval(_SQL["completed_under"], *shard):
            return status
        raise lease_lost(lease)
    if row["next_phase"] is None:
        if lost := await connection.fetchval(_SQL["lost"], job):
            return await end(connection, job, JobStatus.ERROR, failure=lost_shards_reason(lost))
        return await end(connection, job, JobStatus.COMPLETE)
    if row["next_phase"] > row["phase"]:
        await notify(connection, channel)
    return JobStatus.IN_PROGRESS


async def fail(  # noqa: PLR0913 - as JobStore.fail
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    max_attempts: int,
    retry_after: timedelta,
    channel: str,
) -> JobStatus:
    """Free the shard for later, or end the job if the shard's attempts are used up (J9)."""
    job, status = await _locked(connection, lease)
    attempts = status.active and await connection.fetchval(
        _SQL["fail"], job, lease.shard.number, lease.token, retry_after, reason
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
    """Set the final status of a job, and revoke the leases of its shards (J6)."""
    await connection.execute(_SQL["end_job"], job, status.value, failure)
    await connection.execute(_SQL["end_shards"], job)
    return status


async def _locked(connection: Connection, lease: Lease) -> tuple[int, JobStatus]:
    """Lock the row of a lease's job; return its number and status."""
    row = await connection.fetchrow(_SQL["find"], lease.job.tenant, lease.job.id)
    if row is None:
        raise lease_lost(lease)
    return row["job"], JobStatus(row["status"])


def _key(lease: Lease) -> tuple[str, str, int, int]:
    return lease.job.tenant, lease.job.id, lease.shard.number, lease.token
