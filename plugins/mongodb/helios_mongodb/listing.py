"""Lists of jobs, with sums over the shards of each."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from helios_core import JobPlace, JobProgress, JobQuery, JobSummary, unreadable_job
from helios_mongodb.databases import Database, Document

_AFTER_ALL_IDS = "\U0010ffff"


class Sums(msgspec.Struct, kw_only=True):
    """Sums over the shards of a job."""

    resources_done: float = 0
    resources_total: float = 0
    shards_done: int = 0
    shards_total: int = 0
    bytes: float = 0
    attempts: int = 0
    touched_at: datetime | None = None
    last_error: str | None = None
    waiting_for: str | None = None

    @property
    def progress(self) -> JobProgress:
        """The progress of the job."""
        return JobProgress(
            resources_done=int(self.resources_done),
            resources_total=int(self.resources_total),
            shards_done=self.shards_done,
            shards_total=self.shards_total,
            waiting_for=self.waiting_for,
        )


async def sums_of(database: Database, numbers: Sequence[int]) -> dict[int, Document]:
    """Return the sums over the shards of jobs, by job number; see `to_sums`."""
    pipeline: list[Document] = [
        {"$match": {"job": {"$in": list(numbers)}}},
        {"$sort": {"failed": 1}},
        {
            "$group": {
                "_id": "$job",
                "resources_done": {"$sum": _double("$reported")},
                "resources_total": {"$sum": _double("$resources")},
                "shards_done": {"$sum": {"$cond": ["$done", 1, 0]}},
                "shards_total": {"$sum": 1},
                "bytes": {"$sum": _double("$bytes")},
                "attempts": {"$max": "$attempts"},
                "touched_at": {"$max": "$touched"},
                "last_error": {"$last": "$error"},
                "waiting_for": {"$max": "$waiting_for"},
            }
        },
    ]
    rows = await (await database["shards"].aggregate(pipeline)).to_list()
    return {row.pop("_id"): row for row in rows}


def to_sums(row: Document) -> Sums:
    """
    Return the sums of a row of `sums_of`.

    Raises:
        UnreadableJob: A field of a shard holds a value that was never stored (J15).
    """
    try:
        return msgspec.convert(row, Sums)
    except ValueError as error:
        raise unreadable_job(error) from error


def _double(field: str) -> Document:
    """
    Return the expression of a field as a number, 0 if it holds none.

    It is a double, since a damaged number could make a sum of integers overflow.
    """
    return {"$convert": {"input": field, "to": "double", "onError": 0.0, "onNull": 0.0}}


def condition_of(query: JobQuery, after: JobPlace | None, now: datetime) -> Document:
    """Return the condition of the jobs that a query lists after a position (J15, J16)."""
    parts: list[Document] = []
    if query.tenant is not None:
        parts.append({"tenant": query.tenant})
    if query.owner is not None:
        parts.append({"owner": query.owner})
    if query.statuses is not None:
        parts.append({"status": {"$in": [status.value for status in query.statuses]}})
    if query.id_prefix:
        end = query.id_prefix + _AFTER_ALL_IDS
        parts.append({"id": {"$gte": query.id_prefix, "$lt": end}})
    if query.older_than is not None:
        parts.append({"created": {"$lte": now - query.older_than}})
    if query.younger_than is not None:
        parts.append({"created": {"$gt": now - query.younger_than}})
    if after is not None:
        same = {"created": after.created_at}
        parts.append(
            {
                "$or": [
                    {"created": {"$lt": after.created_at}},
                    same | {"tenant": {"$gt": after.tenant}},
                    same | {"tenant": after.tenant, "id": {"$gt": after.id}},
                ]
            }
        )
    return {"$and": parts} if parts else {}


def to_summary(row: Document, sums: Sums) -> JobSummary:
    """Return the summary of a job's document and its sums."""
    return JobSummary(
        tenant=row["tenant"],
        id=row["id"],
        owner=row["owner"],
        status=row["status"],
        created_at=row["created"],
        completed_at=row["completed"],
        failure=row["failure"],
        touched_at=sums.touched_at,
        progress=sums.progress,
        bytes=int(sums.bytes),
        attempts=sums.attempts,
        last_error=sums.last_error,
    )
