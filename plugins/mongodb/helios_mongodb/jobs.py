"""The job store in MongoDB."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from bson.int64 import Int64

from helios_core import (
    BackendError,
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
    lease_lost,
    lost_shards_reason,
    notes_lost,
    part_not_found,
    too_many_exports,
)
from helios_mongodb import leasing, schema
from helios_mongodb.databases import Database, Document, Session
from helios_mongodb.documents import ACTIVE, job_document, shard_document, to_job, to_part
from helios_mongodb.errors import translated
from helios_mongodb.listing import Sums, condition_of, sums_of, to_summary, to_sums
from helios_mongodb.records import MongoRecords
from helios_mongodb.waits import IN_THE_PAST, from_now, is_over, lasts

_JOBS = "jobs"


class MongoJobStore(MongoRecords, JobStore):
    """
    Keeps jobs in MongoDB, shared by any number of processes on any machines.

    A change of one document is one command; a change of several is one transaction.
    """

    def __init__(self, database: Database, identity: str) -> None:
        super().__init__(database)
        self._identity = identity
        self._set_aside = SetAside()
        self._news = asyncio.Event()

    @classmethod
    async def of(cls, database: Database) -> "MongoJobStore":
        """Return the store of an opened database."""
        return cls(database, await schema.identity(database.database))

    @property
    def unreadable(self) -> Sequence[JobKey]:
        """The jobs that this process tried to read and could not (J15)."""
        return self._set_aside.keys

    @property
    def identity(self) -> str:
        """A UUID created with the schema; a copy of the database has the same one."""
        return self._identity

    def wake(self) -> None:
        """Wake the tasks of this process that wait for work."""
        self._news.set()

    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """Store a job with its shards, unless the tenant has `max_active` active jobs (J1)."""
        with translated():
            number = await leasing.next_number(self._database, _JOBS)
            first = {"$setOnInsert": {"served": 0}}
            turns = self._database["turns"]
            await turns.update_one({"_id": job.tenant}, first, upsert=True)

        async def work(session: Session) -> Job:
            # Concurrent additions of a tenant conflict on this document, so that its limit holds.
            addition = {"$inc": {"added": 1}}
            await turns.update_one({"_id": job.tenant}, addition, session=session)
            active = await self._database["jobs"].count_documents(
                {"tenant": job.tenant, "status": ACTIVE}, session=session
            )
            if active >= max_active:
                raise too_many_exports(active, max_active)
            return await self._add(session, number, job, shards)

        added = await self._database.write(work)
        await self._notify()
        return added

    async def get(self, tenant: str, job_id: str) -> Job:
        """Return a job, unless it was cancelled."""
        return to_job(await self._require_job(tenant, job_id))

    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """Count resources that are published or were reported by the workers on them."""
        job = await self._require_job(tenant, job_id)
        with translated():
            sums = await sums_of(self._database, [job["_id"]])
        return to_sums(sums.get(job["_id"], {})).progress

    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """Return the published parts by kind, shard and number."""
        job = await self._require_job(tenant, job_id)
        # Parts that are published after the job was read are left to the next call.
        seen = {"job": job["_id"], "position": {"$lt": job["published"]}}
        order = [("kind", 1), ("shard", 1), ("number", 1)]
        with translated():
            found = await self._database["parts"].find(seen, {"part": 1}).sort(order).to_list()
            lost = await leasing.lost_shards(self._database, job)
        parts = [to_part(row) for row in found]
        return checked_parts(
            job_id,
            parts,
            published=job["published"],
            exported=job["exported"],
            lost_shards=lost,
        )

    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """Return the published part with a file name."""
        job = await self._require_job(tenant, job_id)
        with translated():
            row = await self._database["parts"].find_one({"job": job["_id"], "name": name})
        if row is None:
            raise part_not_found()
        return to_part(row)

    async def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """Yield the notes of completed shards, with one query per shard (J13)."""
        job = await self._require_job(tenant, job_id)
        notes, shard = self._database["notes"], -1
        with translated():
            sizes = {"$group": {"_id": None, "bytes": {"$sum": "$bytes"}}}
            sums = await notes.aggregate([{"$match": {"job": job["_id"]}}, sizes])
            stored = sum([row["bytes"] async for row in sums])
            if stored < job["noted"] or await leasing.lost_shards(self._database, job):
                raise notes_lost(job_id)
        while True:
            with translated():
                following = {"job": job["_id"], "shard": {"$gt": shard}}
                first = await notes.find_one(following, {"shard": 1}, sort=[("shard", 1)])
                if first is None:
                    return
                shard = first["shard"]
                pieces = notes.find({"job": job["_id"], "shard": shard}).sort("number", 1)
                noted = b"".join([piece["notes"] async for piece in pieces])
            yield noted

    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """Claim the next shard in turn (J2, J3, J8, J9, J11)."""
        self._news.clear()
        with translated():
            claimed = await leasing.claim(
                self._database,
                worker,
                lease_for=lease_for,
                max_attempts=max_attempts,
                set_aside=self._set_aside,
            )
        if claimed is not None:
            self.wake()  # there may be more shards to claim
        return claimed

    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """Extend a lease (J4, J7)."""
        wait = from_now(lease_for)
        renewed: Document = {
            "at": wait,
            "wait": wait["$add"][1],
            "reported": Int64(resources_done),
            "touched": "$$NOW",
            "furthest": {"$max": ["$furthest", Int64(resources_done)]},
        }
        further = {"$gt": [Int64(resources_done), "$furthest"]}
        for field, none in (("postponed", 0), ("waiting_since", None), ("waiting_for", None)):
            renewed[field] = {"$cond": [further, none, f"${field}"]}
        await self._change(lease, renewed)

    async def is_held(self, lease: Lease) -> bool:
        """Return whether the lease is still the newest one (J14)."""
        with translated():
            shards = self._database["shards"]
            return await shards.find_one(leasing.held(lease), {"_id": 1}) is not None

    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """Publish a shard's parts and notes, and close the shard (J4, J5, J12, J13)."""

        async def work(session: Session) -> JobStatus:
            return await leasing.complete(self._database, session, lease, parts, notes=notes)

        status = await self._database.write(work)
        await self._notify()  # the next phase may begin
        return status

    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """Record a failed attempt (J4, J9); workers find the shard by polling after its pause."""

        async def work(session: Session) -> JobStatus:
            return await leasing.fail(
                self._database,
                session,
                lease,
                reason,
                max_attempts=max_attempts,
                retry_after=retry_after,
            )

        status = await self._database.write(work)
        await self._notify()
        return status

    async def postpone(
        self, lease: Lease, reason: str, *, retry_after: timedelta, patience: timedelta
    ) -> bool:
        """Free the shard for later without counting the attempt, within `patience` (J19)."""
        with translated():
            now = await self._database.now()
            shard = await self._database["shards"].find_one(leasing.held(lease))
        if shard is None:
            raise lease_lost(lease)
        since = min(shard["waiting_since"] or now, now)
        if now - since >= patience:
            return False
        wait = from_now(retry_after)
        postponed: Document = {
            "worker": None,
            "at": wait,
            "wait": wait["$add"][1],
            "reported": Int64(0),
            "attempts": {"$subtract": ["$attempts", 1]},
            "postponed": {"$add": ["$postponed", 1]},
            "waiting_since": since,
            "waiting_for": {"$literal": reason},
            "touched": "$$NOW",
        }
        await self._change(lease, postponed)
        return True

    async def release(self, lease: Lease) -> None:
        """Free a shard at once, without counting the attempt (J4)."""
        attempts = {"$subtract": ["$attempts", 1]}
        free: Document = {"worker": None, "at": IN_THE_PAST, "reported": 0, "attempts": attempts}
        await self._change(lease, free | {"touched": "$$NOW", "waiting_for": None})
        await self._notify()

    async def cancel(self, tenant: str, job_id: str) -> None:
        """Cancel a job (J6)."""

        async def work(session: Session) -> None:
            visible = _visible(tenant, job_id)
            job = await self._database["jobs"].find_one(visible, {"_id": 1}, session=session)
            if job is None:
                raise job_not_found(job_id)
            await leasing.end(self._database, session, job["_id"], JobStatus.CANCELLED)

        await self._database.write(work)

    async def removable(self, *, completed_before: timedelta, limit: int) -> list[JobKey]:
        """Return cancelled jobs and those that ended `completed_before` ago (J7, J15)."""
        cancelled = {"status": JobStatus.CANCELLED.value}
        with translated():
            old = {"completed": {"$lte": await self._database.now() - completed_before}}
            ended = {"completed": {"$ne": None}, "$or": [cancelled, old]}
            found = self._database["jobs"].find(ended, {"tenant": 1, "id": 1})
            rows = await found.sort("completed", 1).limit(limit).to_list()
        return [JobKey(tenant=row["tenant"], id=row["id"]) for row in rows]

    async def jobs(
        self, query: JobQuery, *, limit: int, after: JobPlace | None = None
    ) -> list[JobSummary]:
        """Return a page of the list of jobs (J15, J16)."""
        order = [("created", -1), ("tenant", 1), ("id", 1)]
        with translated():
            condition = condition_of(query, after, await self._database.now())
            found = self._database["jobs"].find(condition).sort(order).limit(limit)
            rows = await found.to_list()
            sums = await sums_of(self._database, [row["_id"] for row in rows])
        return [await self._summary(row, sums.get(row["_id"], {})) for row in rows]

    async def end_untouched(
        self, untouched_for: timedelta, *, reason: str, limit: int
    ) -> list[JobKey]:
        """End active jobs that were untouched for this long, or lack shards (J18, J20)."""
        ended = list[JobKey]()
        with translated():
            last = await self._database.now() - untouched_for
            old = {"status": ACTIVE}
            found = await self._database["jobs"].find(old, {"tenant": 1, "id": 1}).to_list()
        for job in found:
            if len(ended) == limit:
                break
            if await self._end_untouched(job["_id"], last, reason):
                ended.append(JobKey(tenant=job["tenant"], id=job["id"]))
        return ended

    async def beat(self, worker: str, *, lasts: timedelta) -> None:
        """Record that a worker is alive for `lasts`, and forget silent workers (J17)."""
        until = from_now(lasts)
        alive = [{"$set": {"until": until, "wait": until["$add"][1]}}]
        with translated():
            workers = self._database["workers"]
            await workers.delete_many(is_over("until", await self._database.now()))
            await workers.update_one({"_id": worker}, alive, upsert=True)

    async def retire(self, worker: str) -> None:
        """Forget a worker (J17)."""
        with translated():
            await self._database["workers"].delete_one({"_id": worker})

    async def workforce(self) -> Workforce:
        """Count the workers that are alive, and the jobs that wait for a worker (J17)."""
        with translated():
            now = await self._database.now()
            alive = await self._database["workers"].count_documents(lasts("until", now))
            held = {"done": False, "worker": {"$ne": None}} | lasts("at", now)
            numbers = await self._database["shards"].distinct("job", held)
            idle = {"status": ACTIVE, "_id": {"$nin": numbers}}
            waiting = await self._database["jobs"].count_documents(idle)
            stalled: Document = {"done": False, "waiting_for": {"$ne": None}, "at": {"$ne": None}}
            shards = self._database["shards"].find(stalled, {"job": 1, "waiting_for": 1})
            reasons = {shard["job"]: str(shard["waiting_for"]) async for shard in shards}
        return Workforce(
            alive=alive,
            waiting=waiting,
            stalled=len(reasons),
            stalled_for=max(reasons.values(), default=None),
        )

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """Return at most `limit` complete jobs of the tenant, latest first."""
        jobs = list[Job]()
        complete = {"tenant": tenant, "status": JobStatus.COMPLETE.value}
        with translated():
            found = self._database["jobs"].find(complete)
            async with found.sort([("completed", -1), ("_id", -1)]) as rows:
                async for row in rows:
                    if len(jobs) == limit:
                        break
                    try:
                        jobs.append(to_job(row))
                    except UnreadableJob as error:
                        key = JobKey(tenant=tenant, id=row["id"])
                        self._set_aside.add(row["_id"], key, error)
        return jobs

    async def delete(self, tenant: str, job_id: str) -> None:
        """Delete a job with its shards, parts and notes (J6)."""

        async def work(session: Session) -> None:
            key = {"tenant": tenant, "id": job_id}
            job = await self._database["jobs"].find_one_and_delete(key, session=session)
            if job is not None:
                for name in ("shards", "parts", "notes"):
                    await self._database[name].delete_many({"job": job["_id"]}, session=session)

        await self._database.write(work)

    async def exists(self, tenant: str, job_id: str) -> bool:
        """Return whether the job is stored, cancelled or not."""
        key = {"tenant": tenant, "id": job_id}
        with translated():
            return await self._database["jobs"].find_one(key, {"_id": 1}) is not None

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return when any process has added or freed a shard, or after `at_most`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most.total_seconds()):
                await self._news.wait()

    async def _add(self, session: Session, number: int, job: Job, shards: Sequence[Shard]) -> Job:
        jobs = self._database["jobs"]
        await jobs.insert_one(job_document(number, job, shards), session=session)
        created = [{"$set": {"created": "$$NOW"}}]
        await jobs.update_one({"_id": Int64(number)}, created, session=session)
        if shards:
            rows = [shard_document(number, job, shard) for shard in shards]
            await self._database["shards"].insert_many(rows, session=session)
        else:
            await leasing.end(self._database, session, number, JobStatus.COMPLETE)
        added = await jobs.find_one({"_id": Int64(number)}, session=session)
        assert added is not None  # noqa: S101 - inserted above
        return to_job(added)

    async def _change(self, lease: Lease, fields: Document) -> None:
        """
        Change the shard of a lease.

        Raises:
            LeaseLost: The lease is not the newest one, or its job has ended.
        """
        with translated():
            changed = await self._database["shards"].update_one(
                leasing.held(lease), [{"$set": fields}]
            )
        if not changed.matched_count:
            raise lease_lost(lease)

    async def _end_untouched(self, number: int, last: datetime, reason: str) -> bool:
        """End a job if it is active, and untouched or lacking shards; return whether it was."""

        async def work(session: Session) -> bool:
            active = {"_id": number, "status": ACTIVE}
            job = await self._database["jobs"].find_one(active, session=session)
            if job is None:
                return False
            failure = reason
            if lost := await leasing.lost_shards(self._database, job, session):
                failure = lost_shards_reason(lost)
            else:
                touched = {"job": number, "touched": {"$gt": last}}
                used = await self._database["shards"].find_one(touched, session=session)
                if used is not None or job["created"] > last:
                    return False
            await leasing.end(self._database, session, number, JobStatus.ERROR, failure=failure)
            return True

        return await self._database.write(work)

    async def _require_job(self, tenant: str, job_id: str) -> Document:
        with translated():
            job = await self._database["jobs"].find_one(_visible(tenant, job_id))
        if job is None:
            raise job_not_found(job_id)
        return job

    async def _summary(self, row: Document, sums: Document) -> JobSummary:
        try:
            summary = to_summary(row, to_sums(sums))
        except UnreadableJob as error:
            summary = to_summary(row, Sums())
            self._set_aside.add(row["_id"], summary.key, error)
            return summary
        shards = list[Document]()
        if summary.status in (JobStatus.ACCEPTED, JobStatus.IN_PROGRESS):
            left = {"job": row["_id"], "done": False}
            with translated():
                found = self._database["shards"].find(left, {"shard": 1, "token": 1})
                shards = await found.to_list()
        stored = [(shard.get("shard"), shard.get("token")) for shard in shards]
        return self._set_aside.summary(row["_id"], summary, row["accepted"], stored)

    async def _notify(self) -> None:
        """Wake idle workers of all processes; if that fails, they find the work by polling."""
        self.wake()
        with suppress(BackendError), translated():
            await self._database["news"].update_one(
                {"_id": "work"}, {"$inc": {"count": Int64(1)}}, upsert=True
            )


def _visible(tenant: str, job_id: str) -> Document:
    return {"tenant": tenant, "id": job_id, "status": {"$ne": JobStatus.CANCELLED.value}}
