"""Jobs with their status and progress, and the leases of workers."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from helios_core.model.exports import ExportRequest, Shard


class JobStatus(StrEnum):
    """
    The status of a job; the last three are final, but a client may delete a job that has ended.

    It is then cancelled, whatever it was before. Observers are called when a job is accepted, and
    when it reaches one of the last three.
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
    """Those of complete shards, and those that workers have reported of others."""
    resources_total: int
    """An estimate made when the job was planned."""
    shards_done: int
    """Those that are complete."""
    shards_total: int
    """Of all phases."""
    waiting_for: str | None = None
    """The backend that one of its shards waits for, without internal details (J19)."""

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
    """The number of the attempt, from 1; claims that were released or postponed do not count."""
    postponed: int = 0
    """How often the shard was postponed since it last made progress (J19)."""


class JobKey(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a job."""

    tenant: str
    id: str


class JobPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a job in the list of jobs."""

    created_at: datetime
    """As `Job.created_at`."""
    tenant: str
    id: str


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Restrictions on a list of jobs; a job is listed if it meets all of them."""

    tenant: str | None = None
    """None is every tenant."""
    owner: str | None = None
    """As `Job.owner`, empty for jobs without one; None is every owner."""
    statuses: frozenset[JobStatus] | None = None
    """None is every status, those of newer versions included."""
    id_prefix: str = ""
    """What the id begins with."""
    older_than: timedelta | None = None
    """Only jobs created at least this long ago, by the store's clock."""
    younger_than: timedelta | None = None
    """Only jobs created less than this long ago, by the store's clock."""


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the list of jobs; `job` is missing if its stored form cannot be read."""

    tenant: str
    id: str
    owner: str = ""
    """As `Job.owner`, empty if there is none."""
    status: str
    """A `JobStatus`, or what a newer version stored in its place."""
    created_at: datetime
    """By the job store's clock."""
    completed_at: datetime | None = None
    """As `Job.completed_at`; None while the job is active."""
    failure: str | None = None
    """As `Job.failure`."""
    touched_at: datetime | None = None
    """When a worker last claimed, renewed or ended a lease of it; None is never."""
    progress: JobProgress
    bytes: int = 0
    """Size at rest of the published parts."""
    attempts: int = 0
    """The number of attempts at the shard that was attempted most often."""
    last_error: str | None = None
    """The reason of the most recent failed attempt."""
    job: Job | None = None
    """None if the stored form cannot be read."""

    @property
    def key(self) -> JobKey:
        """The identity of the job."""
        return JobKey(tenant=self.tenant, id=self.id)

    @property
    def place(self) -> JobPlace:
        """The position of the job in the list; a page that follows the job begins after it."""
        return JobPlace(created_at=self.created_at, tenant=self.tenant, id=self.id)


class Workforce(msgspec.Struct, frozen=True, kw_only=True):
    """The number of workers, and of jobs that wait."""

    alive: int
    """The number of workers that are alive."""
    waiting: int
    """The number of active jobs of which no worker holds a shard."""
    stalled: int = 0
    """The number of active jobs with a shard that waits for a backend (J19)."""
    stalled_for: str | None = None
    """The backend that one of these shards waits for, without internal details."""

    @property
    def missing(self) -> bool:
        """Whether jobs wait while no worker is alive."""
        return self.waiting > 0 and self.alive == 0
