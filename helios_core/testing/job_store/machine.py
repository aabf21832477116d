"""Random lives of jobs, compared with a model: J1 to J6, J8, J9, J11 and J19 in any mixture."""

from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, multiple, rule

from helios_core import (
    JobNotFound,
    JobStatus,
    JobStore,
    Lease,
    LeaseLost,
    Part,
    Shard,
    TooManyExports,
)
from helios_core.testing import corpus
from helios_core.testing.job_store.contract import JobStoreContract
from helios_core.testing.machines import BackendMachine

MAX_ATTEMPTS = 2
MINUTE = timedelta(minutes=1)
LEASES = (10.5 * MINUTE, 60.5 * MINUTE)
PASSING = (3 * MINUTE, 20 * MINUTE, 100 * MINUTE)
"""Whole minutes, while leases end at half ones, so that real time does not matter."""
WAITS = (timedelta(0), 5.5 * MINUTE)


@dataclass
class _Shard:
    shard: Shard
    token: int = 0
    attempts: int = 0
    free_at: timedelta = timedelta(0)
    holder: Lease | None = None
    reported: int = 0
    furthest: int = 0
    waiting_since: timedelta | None = None
    parts: list[Part] | None = None

    @property
    def resources_done(self) -> int:
        return self.reported if self.parts is None else sum(part.count for part in self.parts)

    def hand_back(self, free_at: timedelta = timedelta(0)) -> None:
        self.holder, self.reported, self.free_at = None, 0, free_at


@dataclass
class _Job:
    id: str
    tenant: str
    position: int
    status: JobStatus = JobStatus.ACCEPTED
    shards: list[_Shard] = field(default_factory=list)

    def end(self, status: JobStatus) -> None:
        self.status = status
        for shard in self.shards:
            shard.hand_back()

    def exhausted(self, now: timedelta) -> bool:
        """Return whether a claim that comes to the job has to give it up."""
        return self.status.active and any(
            shard.parts is None and shard.free_at <= now and shard.attempts >= MAX_ATTEMPTS
            for shard in self.shards
        )

    def lapsed(self, now: timedelta) -> bool:
        """Return whether a lease has lapsed, so that its reported progress may count or not."""
        return any(shard.holder and shard.free_at <= now for shard in self.shards)

    def free(self, now: timedelta) -> list[_Shard]:
        if not self.status.active:
            return []
        undone = [shard for shard in self.shards if shard.parts is None]
        phase = min((shard.shard.phase for shard in undone), default=0)
        return [
            shard
            for shard in undone
            if shard.shard.phase == phase
            and shard.free_at <= now
            and shard.attempts < MAX_ATTEMPTS
        ]


class JobStoreMachine(BackendMachine[JobStore]):
    """Adds, claims, loses, ends and removes jobs in any order."""

    suite: JobStoreContract
    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, _Job] = {}
        self.now = timedelta(0)
        self.served = defaultdict[str, int](int)
        """The number of the claim that served a tenant last; 0 is never."""
        self.added = 0
        self.claimed = 0

    def opened(self, folder: Path) -> AbstractAsyncContextManager[JobStore]:
        """Open a new store."""
        return self.suite.opened(folder)

    @rule(
        target=jobs,
        tenant=st.sampled_from(["a", "b", "c"]),
        phases=st.lists(st.sampled_from([0, 0, 1, 2]), max_size=3),
        max_active=st.integers(1, 4),
    )
    def add(self, tenant: str, phases: list[int], max_active: int) -> object:
        """J1: a job appears with its shards, unless the cap is reached."""
        self.added += 1
        job = _Job(id=f"job-{self.added}", tenant=tenant, position=self.added)
        planned = corpus.shards(len(phases), phases=phases)
        adding = self.backend.add(
            corpus.job(job.id, tenant=tenant), planned, max_active=max_active
        )
        active = sum(each.status.active for each in self.model.values() if each.tenant == tenant)
        if active >= max_active:
            with pytest.raises(TooManyExports):
                self.run(adding)
            return multiple()
        self.run(adding)
        job.shards = [_Shard(shard) for shard in planned]
        if not planned:
            job.end(JobStatus.COMPLETE)
        self.model[job.id] = job
        return job

    @rule(
        target=leases,
        lease_for=st.sampled_from(LEASES),
        after=st.sampled_from([timedelta(0), *PASSING]),
    )
    def claim(self, lease_for: timedelta, after: timedelta) -> object:
        """J2, J3, J7, J8, J9, J11: the free shard that is next in turn is claimed, if any."""
        self.run(self.suite.let_pass(self.backend, after))
        self.now += after
        lease = self.run(
            self.backend.claim("worker", lease_for=lease_for, max_attempts=MAX_ATTEMPTS)
        )
        self._give_up(all_of_them=lease is None)
        free = {job.id: job.free(self.now) for job in self.model.values()}
        if lease is None:
            assert not any(free.values()), "a shard is free, but `claim` returned None"
            return multiple()
        waiting = [self.model[job_id] for job_id, shards in free.items() if shards]
        job = self.model[lease.job.id]
        assert job in waiting, "the claimed shard is not free"
        assert self.served[job.tenant] == min(self.served[each.tenant] for each in waiting)
        assert job.position == min(e.position for e in waiting if e.tenant == job.tenant)
        shard = free[job.id][0]
        assert lease.shard == shard.shard
        assert (lease.token > shard.token, lease.attempt) == (True, shard.attempts + 1)
        self._hold(job, shard, lease, lease_for)
        return lease

    @rule(lease=leases, lease_for=st.sampled_from(LEASES), done=st.integers(0, 10))
    def renew(self, lease: Lease, lease_for: timedelta, done: int) -> None:
        """J4: only the newest holder may extend its lease."""
        renewing = self.backend.renew(lease, lease_for=lease_for, resources_done=done)
        if (held := self._holding(lease)) is None:
            with pytest.raises(LeaseLost):
                self.run(renewing)
            return
        self.run(renewing)
        shard = held[1]
        shard.free_at, shard.reported = self.now + lease_for, done
        if done > shard.furthest:
            shard.furthest, shard.waiting_since = done, None

    @rule(lease=leases, count=st.integers(0, 3))
    def complete(self, lease: Lease, count: int) -> None:
        """J4, J5, J12: all or nothing; parts are numbered after those already published."""
        parts = [corpus.part(lease, number=number + 1) for number in range(count)]
        completing = self.backend.complete(lease, parts)
        if (held := self._holding(lease)) is None:
            with pytest.raises(LeaseLost):
                self.run(completing)
            return
        job, shard = held
        status = self.run(completing)
        first = sum(len(each.parts or ()) for each in job.shards)
        shard.parts = [
            corpus.part(lease, number=number + 1, published=first + number)
            for number in range(count)
        ]
        shard.hand_back()
        if all(each.parts is not None for each in job.shards):
            job.end(JobStatus.COMPLETE)
        assert status is job.status
        self._compare(job)

    @rule(lease=leases, retry_after=st.sampled_from(WAITS))
    def fail(self, lease: Lease, retry_after: timedelta) -> None:
        """J4, J9: the last attempt that fails ends the job."""
        failing = self.backend.fail(
            lease, "a reason", max_attempts=MAX_ATTEMPTS, retry_after=retry_after
        )
        if (held := self._holding(lease)) is None:
            with pytest.raises(LeaseLost):
                self.run(failing)
            return
        job, shard = held
        status = self.run(failing)
        if shard.attempts >= MAX_ATTEMPTS:
            job.end(JobStatus.ERROR)
        else:
            shard.hand_back(self.now + retry_after)
        assert status is job.status

    @rule(
        lease=leases,
        retry_after=st.sampled_from(WAITS),
        patience=st.sampled_from([timedelta(0), 10.5 * MINUTE]),
    )
    def postpone(self, lease: Lease, retry_after: timedelta, patience: timedelta) -> None:
        """J4, J19: the attempt does not count until the shard has waited too long."""
        postponing = self.backend.postpone(
            lease, "a reason", retry_after=retry_after, patience=patience
        )
        if (held := self._holding(lease)) is None:
            with pytest.raises(LeaseLost):
                self.run(postponing)
            return
        shard = held[1]
        since = self.now if shard.waiting_since is None else shard.waiting_since
        assert self.run(postponing) is (self.now - since < patience)
        if self.now - since < patience:
            shard.waiting_since = since
            shard.attempts -= 1
            shard.hand_back(self.now + retry_after)

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        """J4: the shard is free again, and the attempt does not count."""
        releasing = self.backend.release(lease)
        if (held := self._holding(lease)) is None:
            with pytest.raises(LeaseLost):
                self.run(releasing)
            return
        self.run(releasing)
        held[1].attempts -= 1
        held[1].hand_back()

    @rule(job=jobs)
    def cancel(self, job: _Job) -> None:
        """J6: a job ends for good."""
        cancelling = self.backend.cancel(job.tenant, job.id)
        if job.status is JobStatus.CANCELLED:
            with pytest.raises(JobNotFound):
                self.run(cancelling)
            return
        self.run(cancelling)
        job.end(JobStatus.CANCELLED)

    @rule(job=jobs)
    def delete(self, job: _Job) -> None:
        """J6: nothing of a job stays."""
        self.run(self.backend.delete(job.tenant, job.id))
        job.end(JobStatus.CANCELLED)
        self.model.pop(job.id, None)

    @rule(job=jobs)
    def poll(self, job: _Job) -> None:
        """J5, J6, J10: a poll agrees with the model."""
        if job.status is JobStatus.CANCELLED:
            with pytest.raises(JobNotFound):
                self.run(self.backend.get(job.tenant, job.id))
        else:
            self._compare(job)

    def _compare(self, job: _Job) -> None:
        parts = [part for shard in job.shards for part in shard.parts or ()]
        assert self.run(self.backend.get(job.tenant, job.id)).status is job.status
        assert self.run(self.backend.parts(job.tenant, job.id)) == parts
        progress = self.run(self.backend.progress(job.tenant, job.id))
        assert progress.shards_done == sum(shard.parts is not None for shard in job.shards)
        assert progress.shards_total == len(job.shards)
        if job.status is not JobStatus.ERROR and not job.lapsed(self.now):
            assert progress.resources_done == sum(each.resources_done for each in job.shards)

    @invariant()
    def statuses_agree(self) -> None:
        """J1, J5, J6, J9: no step has an effect on another job."""
        assert self._raw() == {job.id: job.status.value for job in self.model.values()}

    def _raw(self) -> dict[str, str]:
        return dict(self.run(self.suite.raw_statuses(self.backend)))

    def _give_up(self, *, all_of_them: bool) -> None:
        """
        End the jobs that the store has given up during a claim.

        A store may stop at the first shard that can be claimed. If there was none, it has checked
        all of them.
        """
        raw = self._raw()
        for job in self.model.values():
            if job.exhausted(self.now) and (all_of_them or raw[job.id] == JobStatus.ERROR):
                job.end(JobStatus.ERROR)

    def _hold(self, job: _Job, shard: _Shard, lease: Lease, lease_for: timedelta) -> None:
        self.claimed += 1
        self.served[job.tenant] = self.claimed
        job.status = JobStatus.IN_PROGRESS
        shard.hand_back(self.now + lease_for)
        shard.holder, shard.token, shard.attempts = lease, lease.token, lease.attempt

    def _holding(self, lease: Lease) -> tuple[_Job, _Shard] | None:
        """Return the job and shard of a lease if that is still held, else None."""
        job = self.model.get(lease.job.id)
        if job is None or not job.status.active:
            return None
        shard = job.shards[lease.shard.number]
        return (job, shard) if shard.holder == lease else None
