"""The records of the job store in memory: jobs, their shards, and the leases of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from helios_core.model.exports import Shard
from helios_core.model.jobs import Job, JobKey, JobProgress, JobStatus, JobSummary
from helios_core.model.parts import Part
from helios_core.storage.job_records import count_exported, stored_job


@dataclass
class ShardEntry:
    """The state of one shard."""

    shard: Shard
    token: int = 0
    attempts: int = 0
    held: bool = False
    free_at: datetime | None = None
    """When it may be claimed: the end of the lease or of the wait for a retry; None is now."""
    wait: timedelta = timedelta()
    """The length of that lease or wait."""
    touched_at: datetime | None = None
    reported: int = 0
    furthest: int = 0
    """The most resources that any attempt reported."""
    postponed: int = 0
    waiting_since: datetime | None = None
    waiting_for: str | None = None
    failure: str | None = None
    parts: list[Part] | None = None
    """None until the shard is complete."""
    notes: bytes = b""
    published: int = 0
    """How many parts the shard has published."""
    exported: int = 0
    """How many resources these parts have."""
    noted: int = 0
    """How many bytes of notes the shard has stored; fewer are left if some were lost."""

    def free(self, now: datetime) -> bool:
        """Return whether the shard may be claimed now."""
        if self.parts is not None:
            return False
        return self.free_at is None or not goes_on(self.free_at, self.wait, now)

    def held_at(self, now: datetime) -> bool:
        """Return whether a worker holds the shard now."""
        return self.held and not self.free(now)

    def hand_back(self, now: datetime | None = None, wait: timedelta = timedelta()) -> None:
        """End the lease; the shard may be claimed again at once, or `wait` after `now`."""
        self.held, self.reported, self.wait, self.waiting_for = False, 0, wait, None
        self.free_at = None if now is None else now + wait

    def advance(self, resources_done: int) -> None:
        """Report progress; if it is more than any before, the shard no longer waits (J19)."""
        self.reported = resources_done
        if resources_done > self.furthest:
            self.furthest, self.postponed = resources_done, 0
            self.waiting_since = self.waiting_for = None

    @property
    def stored(self) -> tuple[bytes, int]:
        """The JSON and the token of the shard, as every other store keeps them."""
        return msgspec.json.encode(self.shard), self.token

    @property
    def resources_done(self) -> int:
        """How many resources are published, or reported by the holder of the lease."""
        if self.parts is None:
            return self.reported
        return count_exported(self.parts)


class JobEntry:
    """A job with its shards, lowest number first."""

    def __init__(self, job: Job, position: int, work: Sequence[ShardEntry] = ()) -> None:
        self.position = position
        """The position of the job in the order of arrival."""
        self.work = list(work)
        self.shards = len(self.work)
        """How many shards the job was added with; fewer are left if some were lost."""
        self.key = JobKey(tenant=job.tenant, id=job.id)
        self.owner = job.owner or ""
        self.job = job

    @property
    def job(self) -> Job:
        """
        The job, read from its JSON as in every other store.

        Raises:
            UnreadableJob: It cannot be read (J15).
        """
        return stored_job(
            self.accepted,
            status=self.status,
            created_at=self.created_at,
            completed_at=self.completed_at,
            failure=self.failure,
        )

    @job.setter
    def job(self, job: Job) -> None:
        self.accepted = msgspec.json.encode(job)
        self.status = job.status
        self.created_at = job.created_at or job.transaction_time
        self.completed_at, self.failure = job.completed_at, job.failure

    @property
    def due(self) -> list[ShardEntry]:
        """The shards of the earliest phase that is not complete (J11)."""
        phases = [work.shard.phase for work in self.work if work.parts is None]
        return [work for work in self.work if work.shard.phase == min(phases, default=0)]

    @property
    def lost_shards(self) -> int:
        """How many of the shards that the job was added with are lost."""
        return self.shards - len(self.work)

    @property
    def visible(self) -> bool:
        """Whether clients can see the job: it was not cancelled."""
        return self.status is not JobStatus.CANCELLED

    @property
    def touched_at(self) -> datetime | None:
        """When a worker last reported on one of its shards; None if none did."""
        return max(filter(None, (work.touched_at for work in self.work)), default=None)

    @property
    def progress(self) -> JobProgress:
        """The progress of the job."""
        return JobProgress(
            resources_done=sum(work.resources_done for work in self.work),
            resources_total=sum(work.shard.resources for work in self.work),
            shards_done=sum(work.parts is not None for work in self.work),
            shards_total=len(self.work),
            waiting_for=self.waiting_for,
        )

    @property
    def waiting_for(self) -> str | None:
        """What one of its shards waits for; None if none waits."""
        return max(filter(None, (work.waiting_for for work in self.work)), default=None)

    def summary(self) -> JobSummary:
        """Return the job as an entry of lists of jobs."""
        failed = [work for work in self.work if work.failure is not None]
        failed.sort(key=lambda work: work.touched_at or self.created_at)
        return JobSummary(
            tenant=self.key.tenant,
            id=self.key.id,
            owner=self.owner,
            status=self.status,
            created_at=self.created_at,
            completed_at=self.completed_at,
            failure=self.failure,
            touched_at=self.touched_at,
            progress=self.progress,
            bytes=sum(part.size for work in self.work for part in work.parts or ()),
            attempts=max((work.attempts for work in self.work), default=0),
            last_error=failed[-1].failure if failed else None,
        )

    @property
    def open_shards(self) -> list[tuple[bytes, int]]:
        """The shards that are still to be exported."""
        work = self.work if self.status.active else ()
        return [shard.stored for shard in work if shard.parts is None]

    def end(self, status: JobStatus, now: datetime, *, failure: str | None = None) -> None:
        """Put the job in a final status and revoke every lease (J6, J9)."""
        self.status, self.completed_at, self.failure = status, now, failure
        for work in self.work:
            work.token += 1
            work.hand_back()


def goes_on(until: datetime, wait: timedelta, now: datetime) -> bool:
    """
    Return whether a wait goes on.

    It also ends if far more of it lies ahead than its length: then the clock was set back (J7).
    """
    return now < until <= now + 1.5 * wait
