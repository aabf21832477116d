"""What the reference job store remembers: jobs, their shards, and who holds them."""

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
    """What is known of one shard beside its range."""

    shard: Shard
    token: int = 0
    attempts: int = 0
    held: bool = False
    free_at: datetime | None = None
    """When it may be claimed: the end of the lease or of the wait for a retry; None is now."""
    wait: timedelta = timedelta()
    """How long that lease or wait is."""
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
    """How many resources are in them."""
    noted: int = 0
    """How many bytes it has noted."""

    def free(self, now: datetime) -> bool:
        """Return whether it may be claimed now."""
        if self.parts is not None:
            return False
        return self.free_at is None or not goes_on(self.free_at, self.wait, now)

    def held_at(self, now: datetime) -> bool:
        """Return whether a worker holds it now."""
        return self.held and not self.free(now)

    def hand_back(self, now: datetime | None = None, wait: timedelta = timedelta()) -> None:
        """Take it from its holder; it may be claimed once the wait from now is over."""
        self.held, self.reported, self.wait, self.waiting_for = False, 0, wait, None
        self.free_at = None if now is None else now + wait

    def get_on(self, resources_done: int) -> None:
        """Report what is done, and wait no longer if it is more than before (J19)."""
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
        """How many resources are published, or reported by its holder."""
        if self.parts is None:
            return self.reported
        return count_exported(self.parts)


class JobEntry:
    """A job with its shards, lowest number first."""

    def __init__(self, job: Job, place: int, work: Sequence[ShardEntry] = ()) -> None:
        self.place = place
        """Where the job stands in the order of arrival."""
        self.work = list(work)
        self.shards = len(self.work)
        """With how many shards the job was added."""
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
        """How many of its shards are not there any more."""
        return self.shards - len(self.work)

    @property
    def visible(self) -> bool:
        """Whether it was not cancelled."""
        return self.status is not JobStatus.CANCELLED

    @property
    def touched_at(self) -> datetime | None:
        """When a worker last did something for it."""
        return max(filter(None, (work.touched_at for work in self.work)), default=None)

    @property
    def progress(self) -> JobProgress:
        """What is done of it."""
        return JobProgress(
            resources_done=sum(work.resources_done for work in self.work),
            resources_total=sum(work.shard.resources for work in self.work),
            shards_done=sum(work.parts is not None for work in self.work),
            shards_total=len(self.work),
            waiting_for=self.waiting_for,
        )

    @property
    def waiting_for(self) -> str | None:
        """What one of its shards waits for."""
        return max(filter(None, (work.waiting_for for work in self.work)), default=None)

    def summary(self) -> JobSummary:
        """Return it as lists of jobs have it."""
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
        return [each.stored for each in work if each.parts is None]

    def end(self, status: JobStatus, now: datetime, *, failure: str | None = None) -> None:
        """Put the job in a final status and take every lease away (J6, J9)."""
        self.status, self.completed_at, self.failure = status, now, failure
        for work in self.work:
            work.token += 1
            work.hand_back()


def goes_on(until: datetime, wait: timedelta, now: datetime) -> bool:
    """Return whether a wait goes on: with more of it ahead than there is, it ends (J7)."""
    return now < until <= now + 1.5 * wait
