"""Jobs with their status and progress, and the leases of workers."""

from datetime import datetime
from enum import StrEnum

import msgspec

from helios_core.model.exports import ExportRequest, Shard


class JobStatus(StrEnum):
    """
    The status of a job; the last three are final.

    Observers are called when a job is accepted, complete or in error, not when it is cancelled.
    """

    ACCEPTED = "accepted"
    IN_PROGRESS = "in-progress"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def active(self) -> bool:
        """Whether the job counts towards the limit of its tenant's active exports."""
        return self in (JobStatus.ACCEPTED, JobStatus.IN_PROGRESS)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted export request and its status."""

    id: str
    request: ExportRequest
    transaction_time: datetime
    """The instant as of which data is exported; every write committed later is after it."""
    owner: str | None = None
    """The `owner` of the principal who requested it, None on an open server."""
    status: JobStatus = JobStatus.ACCEPTED
    created_at: datetime | None = None
    """Set by the job store, by its own clock."""
    completed_at: datetime | None = None
    """When the job reached a final status, by the job store's clock."""
    failure: str | None = None
    """Why the job is in status error, without internal details."""

    @property
    def tenant(self) -> str:
        """The tenant of the request."""
        return self.request.tenant


class JobProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a job, counted in resources and shards."""

    resources_done: int
    resources_total: int
    """An estimate made when the job was planned."""
    shards_done: int
    shards_total: int

    @property
    def percent(self) -> int:
        """A whole number from 0 to 99: a running job is never at 100 %."""
        if self.resources_total <= 0:
            return 0
        return min(99, self.resources_done * 100 // self.resources_total)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's claim to a shard, valid only while its token is the newest."""

    job: Job
    shard: Shard
    token: int
    """The fencing token: it grows with every claim, and on cancel and delete."""
    worker: str
    attempt: int
    """The number of the attempt, from 1; released claims do not count."""
