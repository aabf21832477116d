"""The documents of jobs, shards and parts, from and to the contract's types."""

from collections.abc import Sequence

import msgspec
from bson.int64 import Int64

from helios_core import PART_KINDS, Job, JobStatus, Part, Shard, stored_job, stored_part
from helios_mongodb.databases import Document
from helios_mongodb.waits import IN_THE_PAST

ACTIVE: Document = {"$in": [JobStatus.ACCEPTED.value, JobStatus.IN_PROGRESS.value]}
"""The condition on the status of active jobs."""


def to_job(found: Document) -> Job:
    """Return the job of a document."""
    return stored_job(
        found["accepted"],
        status=found["status"],
        created_at=found["created"],
        completed_at=found["completed"],
        failure=found["failure"],
    )


def job_document(number: int, job: Job, shards: Sequence[Shard]) -> Document:
    """Return the document of a new job, without `created`, which the server sets."""
    return {
        "_id": Int64(number),
        "tenant": job.tenant,
        "id": job.id,
        "owner": job.owner or "",
        "accepted": msgspec.json.encode(job),
        "status": JobStatus.ACCEPTED.value,
        "completed": None,
        "failure": None,
        "phase": min((shard.phase for shard in shards), default=0),
        "shards": len(shards),
        "noted": Int64(0),
        "published": 0,
        "exported": Int64(0),
        "failures": 0,
    }


def shard_document(number: int, job: Job, shard: Shard) -> Document:
    """Return the document of a shard that was never claimed."""
    return {
        "job": Int64(number),
        "tenant": job.tenant,
        "id": job.id,
        "number": shard.number,
        "phase": shard.phase,
        "shard": msgspec.json.encode(shard),
        "resources": Int64(shard.resources),
        "reported": Int64(0),
        "bytes": Int64(0),
        "token": 0,
        "attempts": 0,
        "worker": None,
        "at": IN_THE_PAST,
        "wait": Int64(0),
        "touched": None,
        "error": None,
        "failed": 0,
        "furthest": Int64(0),
        "postponed": 0,
        "waiting_since": None,
        "waiting_for": None,
        "done": False,
    }


def part_document(shard: Document, part: Part, position: int) -> Document:
    """Return the document of a part that is published at a position of the manifest."""
    return {
        "job": shard["job"],
        "kind": PART_KINDS.index(part.key.kind),
        "shard": shard["number"],
        "number": part.key.number,
        "name": part.key.name,
        "position": position,
        "part": msgspec.json.encode(msgspec.structs.replace(part, published=position)),
    }


def to_part(found: Document) -> Part:
    """Return the part of a document."""
    return stored_part(found["part"])
