"""Where job state lives: the contract of a job store."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

from helios_core.model.exports import Shard
from helios_core.model.jobs import (
    Job,
    JobKey,
    JobPlace,
    JobProgress,
    JobQuery,
    JobStatus,
    JobSummary,
    Lease,
    Workforce,
)
from helios_core.model.parts import Part


class JobStore(ABC):
    """
    Keeps jobs, shards, leases and published parts.

    J1  A job and its shards appear together; the per-tenant cap is enforced in the same
        transaction. A job without shards is complete at once.
    J2  A shard has one holder at a time.
    J3  Each claim raises the shard's fencing token.
    J4  A write under an old token raises LeaseLost and changes nothing.
    J5  `complete` publishes the parts, closes the shard and, for the last one, the job: all or
        nothing.
    J6  `cancel` and `delete` raise every token, so a cancelled job can never become complete, and
        free the tenant's slot at once.
    J7  Time is the store's clock. However far it is set back, a lease and the wait before a retry
        end within twice their length.
    J8  Claiming is fair between tenants: the tenant served longest ago comes first, then its
        oldest job, then that job's lowest shard.
    J9  Attempts are counted per shard and capped, with the last error kept; a shard that has used
        up its attempts puts the job in error.
    J10 Every read and write is inside one tenant; only `claim`, `removable`, `end_untouched`,
        `workforce`, and `jobs` for every tenant look across them.
    J11 A shard can be claimed only when every shard of the job's earlier phases is complete.
    J12 Published parts are numbered in the order in which they appeared, from 0 without gaps; a
        part keeps its number, and whoever sees a number sees all the lower ones.
    J13 The notes of a shard for later phases appear together with its parts, all or nothing, and
        are deleted with the job.
    J14 `is_held` reports at once, in every process, that a lease was lost.
    J15 A job whose stored form this version cannot read keeps no other job from being claimed,
        listed or removed, and stays as it is; `unreadable` names it. It can be listed, cancelled
        and deleted, and ends and expires as others do.
    J16 `jobs` lists every job that is remembered, the newest first. Pages repeat no job, and
        omit none that is there from the first page to the last.
    J17 A worker counts as alive from `beat` until the time it named is over, or until it retires;
        J7 holds for this time, too.
    J18 `end_untouched` ends active jobs that no worker touched for some time, in error and with
        the reason; a job is touched when it is added, and by every claim, renewal and end of a
        lease.
    J19 `postpone` hands a shard back that waits for a backend, and the attempt does not count,
        until the shard has waited for `patience`; J7 holds for this time, too. The wait begins
        with the first `postpone` since the shard advanced, that is, since a renewal reported more
        resources than any before. Until it advances, the job's progress says what it waits for.
    J20 Lost records of a job are noticed. A job that lacks shards never becomes complete: it ends
        in error with its last shard, or by `end_untouched` however recently it was touched.
        `parts` and `notes` raise BackendError if anything is missing that completed shards
        published.
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """A name that is this store's alone and survives restarts; it marks output folders."""

    @abstractmethod
    async def add(self, job: Job, shards: Sequence[Shard], *, max_active: int) -> Job:
        """
        Store a new job with its shards, and return it with `created_at` and status set (J1).

        Raises:
            TooManyExports: The tenant already has `max_active` active jobs.
        """

    @abstractmethod
    async def get(self, tenant: str, job_id: str) -> Job:
        """
        Return a job.

        Raises:
            JobNotFound: The tenant has no such job, or it was cancelled.
        """

    @abstractmethod
    async def progress(self, tenant: str, job_id: str) -> JobProgress:
        """
        Return the progress of a job: completed shards, and what the holders of others reported.

        Raises:
            JobNotFound: As in `get`.
        """

    @abstractmethod
    async def parts(self, tenant: str, job_id: str) -> list[Part]:
        """
        Return the published parts, by kind, shard number and part number.

        Raises:
            JobNotFound: As in `get`.
            BackendError: Shards of the job, or some of the parts, are missing (J20).
        """

    @abstractmethod
    async def part(self, tenant: str, job_id: str, name: str) -> Part:
        """
        Return the published part of a file name, in one lookup however many parts there are.

        Raises:
            JobNotFound: As in `get`.
            PartNotFound: The job has no published part of that name.
        """

    @abstractmethod
    async def claim(self, worker: str, *, lease_for: timedelta, max_attempts: int) -> Lease | None:
        """
        Claim a shard that is free or whose lease has lapsed, or return None (J2, J3, J8).

        A lapsed shard that already had `max_attempts` attempts is not claimed again: its job ends
        in error, and the next shard is tried (J9).
        """

    @abstractmethod
    async def renew(self, lease: Lease, *, lease_for: timedelta, resources_done: int) -> None:
        """
        Extend a lease, counted from now by the store's clock, and report progress within it.

        Raises:
            LeaseLost: A newer lease exists, or the job was ended (J4).
        """

    @abstractmethod
    async def is_held(self, lease: Lease) -> bool:
        """
        Return whether a lease is still held, without changing anything (J14).

        Workers ask twice a second, to notice that their export was cancelled.
        """

    @abstractmethod
    async def complete(
        self, lease: Lease, parts: Sequence[Part], *, notes: bytes = b""
    ) -> JobStatus:
        """
        Publish the shard's parts, store its notes, close it and return the job's status (J5).

        Notes are what the shards of later phases have to know (J13). They are opaque to the store
        and may be several megabytes.

        Raises:
            LeaseLost: As in `renew`; nothing is published or stored.
        """

    @abstractmethod
    def notes(self, tenant: str, job_id: str) -> AsyncGenerator[bytes]:
        """
        Yield the notes of completed shards that noted something, by shard number (J13).

        At most a megabyte of them is in memory at a time, or a single larger one. Closing the
        iterator early frees what it holds.

        Raises:
            JobNotFound: As in `get`.
            BackendError: Some of them are missing (J20).
        """

    @abstractmethod
    async def fail(
        self, lease: Lease, reason: str, *, max_attempts: int, retry_after: timedelta
    ) -> JobStatus:
        """
        Record a failed attempt; the shard is free again after `retry_after` (J9).

        After `max_attempts` the job ends in status error with `reason`, and every other lease of
        it is lost.

        Raises:
            LeaseLost: As in `renew`.
        """

    @abstractmethod
    async def postpone(
        self, lease: Lease, reason: str, *, retry_after: timedelta, patience: timedelta
    ) -> bool:
        """
        Hand a shard back until a backend is available, and return whether it may wait (J19).

        The shard is free again after `retry_after`. `reason` says what it waits for. If it has
        waited for `patience`, nothing changes, and its lease is still held.

        Raises:
            LeaseLost: As in `renew`.
        """

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """
        Hand a shard back untouched; the attempt does not count.

        Raises:
            LeaseLost: As in `renew`.
        """

    @abstractmethod
    async def cancel(self, tenant: str, job_id: str) -> None:
        """
        End a job in any status: `get` no longer finds it, and `removable` lists it (J6).

        Raises:
            JobNotFound: As in `get`.
        """

    @abstractmethod
    async def removable(self, *, completed_before: timedelta, limit: int) -> list[JobKey]:
        """
        Return at most `limit` jobs that are cancelled or have ended (J7, J15).

        Those not cancelled ended more than `completed_before` ago.
        """

    @abstractmethod
    async def jobs(
        self, query: JobQuery, *, limit: int, after: JobPlace | None = None
    ) -> list[JobSummary]:
        """
        Return the first `limit` jobs of a query, or those that follow `after` (J16).

        The newest comes first; jobs of one instant are ordered by tenant and id.
        """

    @abstractmethod
    async def end_untouched(
        self, untouched_for: timedelta, *, reason: str, limit: int
    ) -> list[JobKey]:
        """End up to `limit` jobs that nobody works on or that lack shards (J18, J20)."""

    @abstractmethod
    async def beat(self, worker: str, *, lasts: timedelta) -> None:
        """Report that a worker is alive, and will count as alive for `lasts` (J17)."""

    @abstractmethod
    async def retire(self, worker: str) -> None:
        """Report that a worker has ended; an unknown one is ignored (J17)."""

    @abstractmethod
    async def workforce(self) -> Workforce:
        """Count the workers that are alive, and the jobs that wait for one (J17)."""

    async def recent(self, tenant: str, *, limit: int) -> list[Job]:
        """
        Return jobs of the tenant in status complete, the one that completed last first.

        Their durations are used to estimate those of other exports. This default returns none.
        """
        del tenant, limit
        return []

    @abstractmethod
    async def delete(self, tenant: str, job_id: str) -> None:
        """Forget a job, its shards and its parts; deleting it again does nothing (J6)."""

    @abstractmethod
    async def exists(self, tenant: str, job_id: str) -> bool:
        """Return whether the store still has the job, in any status, cancelled included."""

    @property
    def unreadable(self) -> Sequence[JobKey]:
        """The jobs that this process has found unreadable, those deleted since included (J15)."""
        return ()

    async def wait_for_work(self, at_most: timedelta) -> None:
        """Return when there may be something to claim, at the latest after `at_most`."""
        await asyncio.sleep(at_most.total_seconds())
