"""Leasing: claiming, renewing and closing shards, each in one transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from aiosqlite import Connection

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
from helios_core.fhir import from_stamp
from helios_sqlite.databases import Row, rows_of

_SQL = read_statements("helios_sqlite", "leasing")


FIND_TURN = _SQL["find_turn"]
HELD = _SQL["held"]


class Held(msgspec.Struct, frozen=True):
    """The shard of a lease that is still the newest one."""

    job: int
    attempts: int
    now: int
    """The store's time (J7) in milliseconds since 1970."""
    published: int
    """How many parts its job has published."""
    waiting_since: int
    """Since when it has waited for a backend (J19); `now` if it does not wait."""


def in_milliseconds(duration: timedelta) -> int:
    """Return a duration in whole milliseconds."""
    return duration // timedelta(milliseconds=1)


def excluded(set_aside: SetAside) -> tuple[bytes]:
    """Return the parameter of queries that exclude jobs set aside (J15)."""
    return (msgspec.json.encode(set_aside.numbers),)


def to_job(row: Row) -> Job:
    """Return the job of a row."""
    accepted, status, created_at, completed_at, failure = row
    return stored_job(
        accepted,
        status=status,
        created_at=to_instant(created_at),
        completed_at=None if completed_at is None else to_instant(completed_at),
        failure=failure,
    )


async def claim(  # noqa: PLR0913
    connection: Connection,
    worker: str,
    *,
    lease_for: timedelta,
    max_attempts: int,
    set_aside: SetAside,
    find_turn: str = FIND_TURN,
) -> Lease | None:
    """Claim the next shard in turn; return None if there is none (J2, J3, J8, J9, J11)."""
    while found := await rows_of(connection, find_turn, excluded(set_aside)):
        [row] = await rows_of(connection, _SQL["shard_of_turn"], found[0])
        now, tenant, job_id, job, number, shard, token, attempts, *more = row
        postponed, last_error, *accepted = more
        try:
            claimed, planned = to_job(accepted), stored_shard(shard, token)
        except UnreadableJob as error:
            set_aside.add(job, JobKey(tenant=tenant, id=job_id), error)
            continue
        if attempts >= max_attempts:
            await end(
                connection,
                job,
                JobStatus.ERROR,
                failure=give_up_reason(number, attempts, last_error),
            )
            continue
        wait = in_milliseconds(lease_for)
        holding = {"now": now, "wait": wait, "worker": worker, "job": job, "number": number}
        await rows_of(connection, _SQL["hold"], holding)
        if claimed.status is not JobStatus.IN_PROGRESS:
            await rows_of(connection, _SQL["begin_job"], (job,))
        await rows_of(connection, _SQL["serve"], (job,))
        return Lease(
            job=msgspec.structs.replace(claimed, status=JobStatus.IN_PROGRESS),
            shard=planned,
            token=token + 1,
            worker=worker,
            attempt=attempts + 1,
            postponed=postponed,
        )
    return None


async def renew(
    connection: Connection, lease: Lease, *, lease_for: timedelta, resources_done: int
) -> None:
    """Extend a lease, counted from now (J4)."""
    held = await _require_held(connection, lease)
    values = (held.now, in_milliseconds(lease_for), resources_done, held.job, lease.shard.number)
    await rows_of(connection, _SQL["renew"], values)


async def complete(
    connection: Connection, lease: Lease, parts: Sequence[Part], *, notes: bytes
) -> JobStatus:
    """Publish parts, close their shard; with the last one, end the job (J5, J12, J13, J20)."""
    held = await _require_held(connection, lease)
    job, number = held.job, lease.shard.number
    rows = [
        (
            job,
            PART_KINDS.index(part.key.kind),
            number,
            part.key.number,
            _encoded(part, position),
            part.key.name,
        )
        for position, part in enumerate(parts, held.published)
    ]
    if rows:
        await connection.executemany(_SQL["publish"], rows)
    if notes:
        await rows_of(connection, _SQL["note"], (job, number, notes))
    size = sum(part.size for part in parts)
    closing = (count_exported(parts), job, number, size, held.now, len(parts), len(notes))
    [(any_left,)] = await rows_of(connection, _SQL["close"], closing)
    if any_left:
        return JobStatus.IN_PROGRESS
    [(lost,)] = await rows_of(connection, _SQL["lost"], (job,))
    if lost:
        return await end(connection, job, JobStatus.ERROR, failure=lost_shards_reason(lost))
    return await end(connection, job, JobStatus.COMPLETE)


async def fail(
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    max_attempts: int,
    retry_after: timedelta,
) -> JobStatus:
    """Free the shard for later, or end the job if the shard's attempts are used up (J9)."""
    held = await _require_held(connection, lease)
    wait = in_milliseconds(retry_after)
    await _free(connection, held, lease, wait=wait, error=reason)
    if held.attempts >= max_attempts:
        return await end(connection, held.job, JobStatus.ERROR, failure=reason)
    return JobStatus.IN_PROGRESS


async def postpone(
    connection: Connection,
    lease: Lease,
    reason: str,
    *,
    retry_after: timedelta,
    patience: timedelta,
) -> bool:
    """Free the shard for later without counting the attempt, within `patience` (J19)."""
    held = await _require_held(connection, lease)
    since = min(held.waiting_since, held.now)
    if held.now - since >= in_milliseconds(patience):
        return False
    values = {
        "job": held.job,
        "number": lease.shard.number,
        "now": held.now,
        "wait": in_milliseconds(retry_after),
        "since": since,
        "reason": reason,
    }
    await rows_of(connection, _SQL["postpone"], values)
    return True


async def release(connection: Connection, lease: Lease) -> None:
    """Free the shard at once, without counting the attempt."""
    held = await _require_held(connection, lease)
    await _free(connection, held, lease)


async def end(
    connection: Connection, job: int, status: JobStatus, *, failure: str | None = None
) -> JobStatus:
    """Set the final status of a job, and revoke the leases of its shards (J6)."""
    await rows_of(connection, _SQL["end_job"], (status, failure, job))
    await rows_of(connection, _SQL["end_shards"], (job,))
    return status


def held_key(lease: Lease) -> tuple[str, str, int, int]:
    """Return the parameters of `HELD`."""
    return lease.job.tenant, lease.job.id, lease.shard.number, lease.token


async def _require_held(connection: Connection, lease: Lease) -> Held:
    """
    Return the shard of a lease.

    Raises:
        LeaseLost: The lease is not the newest one, or its job has ended (J4).
    """
    found = await rows_of(connection, HELD, held_key(lease))
    if not found:
        raise lease_lost(lease)
    return Held(*found[0])


async def _free(
    connection: Connection,
    held: Held,
    lease: Lease,
    *,
    wait: int | None = None,
    error: str | None = None,
) -> None:
    """Free a shard after `wait` milliseconds; None frees it at once and undoes the attempt."""
    values = {
        "job": held.job,
        "number": lease.shard.number,
        "attempts": held.attempts - (wait is None),
        "now": held.now,
        "available_at": 0 if wait is None else held.now + wait,
        "wait": wait or 0,
        "last_error": error,
    }
    await rows_of(connection, _SQL["hand_back"], values)


def _encoded(part: Part, position: int) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(part, published=position))


def to_instant(milliseconds: int) -> datetime:
    """Return the instant of milliseconds since 1970, limited to the years 1 to 9999."""
    return from_stamp(milliseconds * 1000)


def to_milliseconds(instant: datetime) -> int:
    """Return an instant in milliseconds since 1970."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
