"""Leasing: claiming and closing shards, and ending their jobs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from bson.int64 import Int64
from pymongo import ReturnDocument

from helios_core import (
    MAX_TOKEN,
    JobKey,
    JobStatus,
    Lease,
    Part,
    SetAside,
    StoreBusy,
    UnreadableJob,
    count_exported,
    give_up_reason,
    lease_lost,
    lost_shards_reason,
    stored_shard,
)
from helios_mongodb.databases import Database, Document, Session
from helios_mongodb.documents import ACTIVE, part_document, to_job
from helios_mongodb.waits import IN_THE_PAST, from_now, is_over

NOTE_BYTES = 8 * 1024 * 1024
"""The most bytes of a shard's notes in one document."""

_SERVINGS = "servings"


def held(lease: Lease) -> Document:
    """Return the condition of a lease's shard, if that lease is still the newest one (J4)."""
    return {
        "tenant": lease.job.tenant,
        "id": lease.job.id,
        "number": lease.shard.number,
        "token": lease.token,
        "worker": {"$ne": None},
    }


async def claim(
    database: Database,
    worker: str,
    *,
    lease_for: timedelta,
    max_attempts: int,
    set_aside: SetAside,
) -> Lease | None:
    """Claim the next shard in turn; return None if there is none (J2, J3, J8, J9, J11)."""
    busy = list[Any]()
    while (shard := await _due(database, set_aside, busy)) is not None:
        try:
            if shard["attempts"] >= max_attempts:
                await _give_up(database, shard)
                continue
            claimed = await _hold(database, shard, worker, lease_for)
            if claimed is None:
                continue  # another worker was quicker
            lease = await _begin(database, claimed, worker, set_aside)
        except StoreBusy:
            # Maybe a worker was killed during a transaction; continue with other shards.
            busy.append(shard["_id"])
            continue
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            # A field is missing, or holds a value that was never stored (J15).
            job = await database["jobs"].find_one({"_id": shard["job"]}, {"tenant": 1, "id": 1})
            key = JobKey(tenant=(job or {}).get("tenant", ""), id=(job or {}).get("id", ""))
            set_aside.add(shard["job"], key, error)
            continue
        if lease is not None:
            return lease
    return None


async def _hold(
    database: Database, shard: Document, worker: str, lease_for: timedelta
) -> Document | None:
    """
    Claim a shard under a new token and return it, or None if another worker was quicker (J3).

    This runs in a transaction, which fails at once on a conflict; a plain update would wait for
    the open transaction of a killed worker.

    Raises:
        StoreBusy: Another transaction is changing the shard.
    """
    held = {
        "worker": {"$literal": worker},
        "at": from_now(lease_for),
        "wait": from_now(lease_for)["$add"][1],
        "token": {"$add": ["$token", 1]},
        "attempts": {"$add": ["$attempts", 1]},
        "reported": 0,
        "touched": "$$NOW",
    }

    async def work(session: Session) -> Document | None:
        return await database["shards"].find_one_and_update(
            _same(shard), [{"$set": held}], session=session, return_document=ReturnDocument.AFTER
        )

    return await database.write(work, persistent=False)


async def _due(database: Database, set_aside: SetAside, busy: Sequence[Any]) -> Document | None:
    """Return the next free shard in turn, without those that are busy."""
    free = {"done": False} | is_over("at", await database.now())
    numbers = await database["shards"].distinct("job", free)
    aside = set(set_aside.numbers)
    readable = [number for number in numbers if number not in aside]
    condition = {"_id": {"$in": readable}, "status": ACTIVE}
    jobs = await database["jobs"].find(condition, {"tenant": 1, "phase": 1}).to_list()
    if not jobs:
        return None
    tenants = {"_id": {"$in": list({job["tenant"] for job in jobs})}}
    turns = {turn["_id"]: turn.get("served") async for turn in database["turns"].find(tenants)}
    # A damaged turn counts as none, since it must not keep jobs from running.
    served = {tenant: turn for tenant, turn in turns.items() if isinstance(turn, int)}
    for job in sorted(jobs, key=lambda job: (served.get(job["tenant"], 0), job["_id"])):
        due = {"_id": {"$nin": busy}, "job": job["_id"], "phase": job["phase"]} | free
        shard = await database["shards"].find_one(due, sort=[("number", 1)])
        if shard is not None:
            return shard
    return None


async def _begin(
    database: Database, claimed: Document, worker: str, set_aside: SetAside
) -> Lease | None:
    """Return the lease of a claimed shard, or None if its job is gone or unreadable."""
    number = claimed["job"]
    found = await database["jobs"].find_one({"_id": number})
    if found is None:
        return None
    try:
        job, shard = to_job(found), stored_shard(claimed["shard"], claimed["token"])
    except UnreadableJob as error:
        set_aside.add(number, JobKey(tenant=found["tenant"], id=found["id"]), error)
        # Another process may be able to read it, for example one of a newer version.
        await database["shards"].update_one(
            {"_id": claimed["_id"], "token": claimed["token"]},
            {
                "$set": {"worker": None, "at": IN_THE_PAST, "touched": None},
                "$inc": {"attempts": -1},
            },
        )
        return None
    accepted = {"_id": number, "status": JobStatus.ACCEPTED.value}
    begun = {"$set": {"status": JobStatus.IN_PROGRESS.value}}
    await database["jobs"].update_one(accepted, begun)
    served = await next_number(database, _SERVINGS)
    turn = {"$max": {"served": served}}
    await database["turns"].update_one({"_id": found["tenant"]}, turn, upsert=True)
    return Lease(
        job=msgspec.structs.replace(job, status=JobStatus.IN_PROGRESS),
        shard=shard,
        token=claimed["token"],
        worker=worker,
        attempt=claimed["attempts"],
        postponed=claimed["postponed"],
    )


async def _give_up(database: Database, shard: Document) -> None:
    """End a job whose shard has used up its attempts, unless the shard has changed (J9)."""

    async def work(session: Session) -> None:
        found = await database["shards"].find_one(_same(shard), session=session)
        if found is not None:
            reason = give_up_reason(found["number"], found["attempts"], found["error"])
            await end(database, session, found["job"], JobStatus.ERROR, failure=reason)

    await database.write(work)


async def complete(
    database: Database, session: Session, lease: Lease, parts: Sequence[Part], *, notes: bytes
) -> JobStatus:
    """Publish parts and close their shard; with the last shard, end the job (J5, J12, J13)."""
    exported = count_exported(parts)
    shard = await database["shards"].find_one_and_update(
        held(lease),
        [
            {
                "$set": {
                    "done": True,
                    "waiting_for": None,
                    "worker": None,
                    "at": None,
                    "reported": exported,
                    "bytes": Int64(sum(part.size for part in parts)),
                    "touched": "$$NOW",
                }
            }
        ],
        session=session,
    )
    if shard is None:
        raise lease_lost(lease)
    number = shard["job"]
    counts = {"published": len(parts), "exported": Int64(exported)}
    counts["noted"] = Int64(len(notes))
    job = await database["jobs"].find_one_and_update(
        {"_id": number}, {"$inc": counts}, session=session
    )
    assert job is not None  # noqa: S101 - deleted with its shards
    rows = [
        part_document(shard, part, position)
        for position, part in enumerate(parts, job["published"])
    ]
    if rows:
        await database["parts"].insert_many(rows, session=session)
    await _note(database, session, shard, notes)
    undone = {"job": number, "done": False}
    lowest = await database["shards"].find_one(undone, sort=[("phase", 1)], session=session)
    if lowest is None:
        return await _end_with_last_shard(database, session, job)
    if lowest["phase"] != job["phase"]:
        phase = {"$set": {"phase": lowest["phase"]}}
        await database["jobs"].update_one({"_id": number}, phase, session=session)
    return JobStatus.IN_PROGRESS


async def fail(  # noqa: PLR0913
    database: Database,
    session: Session,
    lease: Lease,
    reason: str,
    *,
    max_attempts: int,
    retry_after: timedelta,
) -> JobStatus:
    """Free the shard for later, or end the job if the shard's attempts are used up (J9)."""
    failures = await database["jobs"].find_one_and_update(
        {"tenant": lease.job.tenant, "id": lease.job.id},
        {"$inc": {"failures": 1}},
        session=session,
        return_document=ReturnDocument.AFTER,
    )
    shard = await database["shards"].find_one_and_update(
        held(lease),
        [
            {
                "$set": {
                    "worker": None,
                    "at": from_now(retry_after),
                    "wait": from_now(retry_after)["$add"][1],
                    "reported": 0,
                    "error": {"$literal": reason},
                    "waiting_for": None,
                    "failed": failures and failures["failures"],
                    "touched": "$$NOW",
                }
            }
        ],
        session=session,
    )
    if shard is None:
        raise lease_lost(lease)
    if shard["attempts"] >= max_attempts:
        return await end(database, session, shard["job"], JobStatus.ERROR, failure=reason)
    return JobStatus.IN_PROGRESS


async def end(
    database: Database,
    session: Session,
    job: int,
    status: JobStatus,
    *,
    failure: str | None = None,
) -> JobStatus:
    """Set the final status of a job, and revoke the leases of its shards (J6)."""
    ended = {
        "status": status.value,
        "completed": "$$NOW",
        "failure": None if failure is None else {"$literal": failure},
    }
    await database["jobs"].update_one({"_id": job}, [{"$set": ended}], session=session)
    # A token at its maximum is damaged; it must not prevent the job from ending (J15).
    grows = {"$lt": ["$token", Int64(MAX_TOKEN)]}
    token = {"$cond": [grows, {"$add": ["$token", 1]}, "$token"]}
    await database["shards"].update_many(
        {"job": job, "done": False},
        [{"$set": {"worker": None, "at": None, "waiting_for": None, "token": token}}],
        session=session,
    )
    return status


def _same(shard: Document) -> Document:
    """Return the condition that a shard was not claimed, renewed or closed since it was read."""
    return {"_id": shard["_id"], "token": shard["token"], "at": shard["at"], "done": False}


async def lost_shards(database: Database, job: Document, session: Session | None = None) -> int:
    """Return how many shards of a job are missing (J20)."""
    present = await database["shards"].count_documents({"job": job["_id"]}, session=session)
    return int(job["shards"]) - present


async def _end_with_last_shard(database: Database, session: Session, job: Document) -> JobStatus:
    """End a job after its last shard; it fails if shards are missing (J20)."""
    if lost := await lost_shards(database, job, session):
        reason = lost_shards_reason(lost)
        return await end(database, session, job["_id"], JobStatus.ERROR, failure=reason)
    return await end(database, session, job["_id"], JobStatus.COMPLETE)


async def next_number(database: Database, counter: str) -> int:
    """Return the next number of a counter, larger than all before."""
    counted = await database["meta"].find_one_and_update(
        {"_id": counter},
        {"$inc": {"count": Int64(1)}},
        return_document=ReturnDocument.AFTER,
    )
    assert counted is not None  # noqa: S101 - the schema has it
    return int(counted["count"])


async def _note(database: Database, session: Session, shard: Document, notes: bytes) -> None:
    pieces = [
        {
            "job": shard["job"],
            "shard": shard["number"],
            "number": number,
            "notes": (piece := notes[start : start + NOTE_BYTES]),
            "bytes": len(piece),
        }
        for number, start in enumerate(range(0, len(notes), NOTE_BYTES))
    ]
    if pieces:
        await database["notes"].insert_many(pieces, session=session)
