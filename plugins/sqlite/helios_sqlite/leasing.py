"""Claim, renew and close shards: what one transaction of the job store does to one of them."""

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
    """A shard that a lease is still good for."""

    job: int
    attempts: int
    now: int
    """By the store's clock (J7)."""
    published: int
    """How many parts of its job are."""
    waiting_since: int
    """Since when it waits for a backend (J19); now if it does not."""


def in_milliseconds(duration: timedelta) -> int:
    """Return a duration as the store counts it."""
    return duration // timedelta(milliseconds=1)


def but(set_aside: SetAside) -> tuple[bytes]:
    """Return the parameter of queries that leave out jobs set aside (J15)."""
    return (msgspec.json.encode(set_aside.numbers),)


def to_job(row: Row) -> Job:
    """Return a stored job."""
    accepted, status, created_at, completed_at, failure = row
    return stored_job(
        accepted,
        status=status,
        created_at=to_instant(created_at),
        completed_at=None if completed_at is None else to_instant(completed_at),
        failure=failure,
    )


async def claim(  # noqa: PLR0913 - how to claim, by name
    connection: Connection,
    worker: str,
    *,
    lease_for: timedelta,
    max_attempts: int,
    set_aside: SetAside,
    find_turn: str = FIND_TURN,
) -> Lease | None:
    """Claim the shard whose turn it is, or give None (J2, J3, J8, J9, J11)."""
    while found := await rows_of(connection, find_turn, but(set_aside)):
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
    """Extend a lease from now on (J4)."""
    held = await _held(connection, lease)
    values = (held.now, in_milliseconds(lease_for), resources_done, held.job, lease.shard.number)
    await rows_of(connection, _SQL["renew"], values)


async def complete(
    connection: Connection, lease: Lease, parts: Sequence[Part], *, notes: bytes
) -> JobStatus:
    """Publish parts, close their shard and, for the last one, the job (J5, J12, J13, J20)."""
    held = await _held(connection, lease)
    job, number = held.job, lease.shard.number
    rows = [
        (
            job,
            PART_KINDS.index(part.key.kind),
            number,
            part.key.number,
            _numbered(part, place),
            part.key.name,
        )
        for place, part in enumerate(parts, held.published)
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
    """Free the shard for later, or end the job when its attempts are used up (J9)."""
    held = await _held(connection, lease)
    wait = in_milliseconds(retry_after)
    await _hand_back(connection, held, lease, wait=wait, error=reason)
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
    """Free the shard for later, as if it had not been claimed, unless it waited too long (J19)."""
    held = await _held(connection, lease)
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
    """Free the shard at once, as if it had not been claimed."""
    held = await _held(connection, lease)
    await _hand_back(connection, held, lease)


async def end(
    connection: Connection, job: int, status: JobStatus, *, failure: str | None = None
) -> JobStatus:
    """Put a job into a final status and take its shards from whoever holds them (J6)."""
    await rows_of(connection, _SQL["end_job"], (status, failure, job))
    await rows_of(connection, _SQL["end_shards"], (job,))
    return status


def held_key(lease: Lease) -> tuple[str, str, int, int]:
    """Return the parameters of `HELD`."""
    return lease.job.tenant, lease.job.id, lease.shard.number, lease.token


async def _held(connection: Connection, lease: Lease) -> Held:
    """Return the shard of a lease that is still the newest one (J4)."""
    found = await rows_of(connection, HELD, held_key(lease))
    if not found:
        raise lease_lost(lease)
    return Held(*found[0])


async def _hand_back(
    connection: Connection,
    held: Held,
    lease: Lease,
    *,
    wait: int | None = None,
    error: str | None = None,
) -> None:
    """Free a shard after a wait; without one at once, and the attempt does not count."""
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


def _numbered(part: Part, place: int) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(part, published=place))


def to_instant(milliseconds: int) -> datetime:
    """Return an instant as the store counts it, or the nearest one in the years 1 to 9999."""
    return from_stamp(milliseconds * 1000)


def to_milliseconds(instant: datetime) -> int:
    """Return an instant as the store counts it."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
