"""Jobs, their status and their progress."""

from datetime import datetime
from enum import StrEnum

import msgspec

from helios_core.model.exports import ExportRequest, Shard


class JobStatus(StrEnum):
    """Where a job is in its life; the last three are final."""

    ACCEPTED = "accepted"
    IN_PROGRESS = "in-progress"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def active(self) -> bool:
        """Whether the job still counts against its tenant's cap."""
        return self in (JobStatus.ACCEPTED, JobStatus.IN_PROGRESS)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted export request and what became of it."""

    id: str
    request: ExportRequest
    transaction_time: datetime
    """The instant whose state the export shows; no write committed later is at or before it."""
    owner: str | None = None
    """Issuer and subject of the principal who asked, None on an open server."""
    status: JobStatus = JobStatus.ACCEPTED
    created_at: datetime | None = None
    """Set by the job store, by its own clock."""
    completed_at: datetime | None = None
    """When the job reached a final status, by the job store's clock."""
    failure: str | None = None
    """Why the job is in status error, in words a client may read."""

    @property
    def tenant(self) -> str:
        """The isolation boundary the job lives in."""
        return self.request.tenant


class JobProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is, counted in resources."""

    resources_done: int
    resources_total: int
    """An estimate made when the job was planned."""
    shards_done: int
    shards_total: int

    @property
    def percent(self) -> int:
        """A whole number from 0 to 99: a job that still runs is never at 100 %."""
        if self.resources_total <= 0:
            return 0
        return min(99, self.resources_done * 100 // self.resources_total)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's claim on one shard, valid only while its token is the newest."""

    job: Job
    shard: Shard
    token: int
    """The fencing token: it grows at every claim, and at cancel and delete."""
    worker: str
    attempt: int
    """From 1; claims that were handed back do not count."""
