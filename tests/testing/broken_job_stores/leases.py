"""J2, J3, J4, J7: one holder at a time, by the clock of the store."""

import asyncio
from datetime import UTC, datetime

import msgspec

from helios_core.errors import LeaseLost
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


class ForgetsTheToken(MemoryJobStore):
    """Any holder, past or present, may write."""

    def _held(self, lease):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is None or not entry.job.status.active:
            raise LeaseLost
        return entry, next(w for w in entry.work if w.shard.number == lease.shard.number)


class TestForgetsTheToken(OnMemoryJobs):
    subject_class = ForgetsTheToken
    caught_by = (
        "test_a_superseded_lease_cannot_be_renewed",
        "test_a_superseded_lease_cannot_publish",
        "test_a_superseded_lease_cannot_fail_the_shard",
        "test_a_superseded_lease_cannot_be_released",
        "test_a_new_holder_may_publish_after_the_old_one_was_refused",
        "test_a_shard_handed_back_cannot_be_published",
        "test_a_shard_cannot_be_completed_twice",
        "test_a_publication_refused_leaves_no_part_behind",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class RepeatsTokens(MemoryJobStore):
    """The second holder's token is the first one's."""

    async def claim(self, worker, **options):
        if (lease := await super().claim(worker, **options)) is None:
            return None
        entry = self._entries[lease.job.tenant, lease.job.id]
        next(w for w in entry.work if w.shard == lease.shard).token = 1
        return msgspec.structs.replace(lease, token=1)


class TestRepeatsTokens(OnMemoryJobs):
    subject_class = RepeatsTokens
    caught_by = ("test_each_claim_raises_the_token", "test_a_superseded_lease_cannot_publish")


class HandsOutHeldShards(MemoryJobStore):
    def _next_in_turn(self, now):
        for entry in self._entries.values():
            for work in entry.work:
                if entry.job.status.active and work.parts is None:
                    return entry, work
        return None


class TestHandsOutHeldShards(OnMemoryJobs):
    subject_class = HandsOutHeldShards
    caught_by = (
        "test_a_held_shard_is_not_given_out",
        "test_concurrent_claims_give_each_shard_once",
        "test_only_the_leases_whose_time_is_over_lapse",
        "test_a_failed_shard_waits_before_it_is_free_again",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class HandsOutCompletedShards(MemoryJobStore):
    def _next_in_turn(self, now):
        found = super()._next_in_turn(now)
        if found is None:
            for entry in self._entries.values():
                if entry.job.status.active:
                    return entry, entry.work[0]
        return found


class TestHandsOutCompletedShards(OnMemoryJobs):
    subject_class = HandsOutCompletedShards
    caught_by = (
        "test_a_completed_shard_is_never_given_out_again",
        "test_a_held_shard_is_not_given_out",
    )


class LooksThenClaims(MemoryJobStore):
    """The shard is found in one transaction and taken in another."""

    async def claim(self, worker, *, lease_for, max_attempts):
        found = self._next_in_turn(self._clock())
        await asyncio.sleep(0)
        if found is not None:
            found[1].free_at = None
        return await super().claim(worker, lease_for=lease_for, max_attempts=max_attempts)


class TestLooksThenClaims(OnMemoryJobs):
    subject_class = LooksThenClaims
    caught_by = ("test_concurrent_claims_give_each_shard_once",)


class StaysAccepted(MemoryJobStore):
    async def claim(self, worker, **options):
        lease = await super().claim(worker, **options)
        if lease is not None:
            entry = self._entries[lease.job.tenant, lease.job.id]
            entry.job = msgspec.structs.replace(entry.job, status=JobStatus.ACCEPTED)
        return lease


class TestStaysAccepted(OnMemoryJobs):
    subject_class = StaysAccepted
    caught_by = ("test_a_claimed_job_is_in_progress",)


class UsesItsOwnClock(MemoryJobStore):
    """Time is that of the process, not the store's."""

    def __init__(self, *, clock):
        super().__init__(clock=lambda: datetime.now(UTC))


class TestUsesItsOwnClock(OnMemoryJobs):
    subject_class = UsesItsOwnClock
    caught_by = (
        "test_a_lapsed_lease_is_given_out_again",
        "test_only_the_leases_whose_time_is_over_lapse",
        "test_a_failed_shard_waits_before_it_is_free_again",
        "test_finished_jobs_may_go_when_they_are_old_enough",
    )


class RefusesLateHolders(MemoryJobStore):
    def _held(self, lease):
        entry, work = super()._held(lease)
        if work.free_at <= self._clock():
            raise LeaseLost
        return entry, work


class TestRefusesLateHolders(OnMemoryJobs):
    subject_class = RefusesLateHolders
    caught_by = ("test_a_lapsed_lease_nobody_took_may_still_publish",)


class AddsUpRenewals(MemoryJobStore):
    async def renew(self, lease, *, lease_for, resources_done):
        _, work = self._held(lease)
        before = work.free_at
        await super().renew(lease, lease_for=lease_for, resources_done=resources_done)
        work.free_at = before + lease_for


class TestAddsUpRenewals(OnMemoryJobs):
    subject_class = AddsUpRenewals
    caught_by = ("test_a_renewed_lease_counts_from_the_renewal",)


class RenewsNothing(MemoryJobStore):
    async def renew(self, lease, *, lease_for, resources_done):
        self._held(lease)


class TestRenewsNothing(OnMemoryJobs):
    subject_class = RenewsNothing
    caught_by = (
        "test_a_renewed_lease_counts_from_the_renewal",
        "test_progress_counts_published_and_reported_resources",
    )


class RemembersLostProgress(MemoryJobStore):
    async def claim(self, worker, **options):
        reported = {id(w): w.reported for entry in self._entries.values() for w in entry.work}
        lease = await super().claim(worker, **options)
        for entry in self._entries.values():
            for work in entry.work:
                work.reported = reported[id(work)]
        return lease


class TestRemembersLostProgress(OnMemoryJobs):
    subject_class = RemembersLostProgress
    caught_by = ("test_progress_forgets_what_a_lost_attempt_reported",)


class TestForgetsOnRestart(OnMemoryJobs):
    persistent = True
    caught_by = (
        "test_everything_is_there_after_a_restart",
        "test_a_lease_lapses_across_a_restart",
        "test_notes_are_there_after_a_restart",
        "test_records_are_shared_and_survive_a_restart",
        "test_two_stores_on_one_backing_give_each_shard_once",
        "test_two_stores_on_one_backing_share_the_cap",
        "test_a_cancel_reaches_the_workers_of_another_store",
        "test_the_workers_of_every_store_on_one_backing_count",
        "test_the_wait_for_a_backend_outlives_a_restart",
    )


class TrustsTheClock(MemoryJobStore):
    """After the clock was set back by an hour, nobody gets the shard of a dead worker for one."""

    def _next_in_turn(self, now):
        for entry in self._entries.values():
            for work in entry.due if entry.job.status.active else ():
                if work.parts is None and (work.free_at is None or work.free_at <= now):
                    return entry, work
        return None


class TestTrustsTheClock(OnMemoryJobs):
    subject_class = TrustsTheClock
    caught_by = ("test_a_clock_that_is_set_back_strands_no_shard",)


class FrightenedByTheClock(MemoryJobStore):
    """A clock that was set back by a second takes every lease away."""

    def _next_in_turn(self, now):
        for entry in self._entries.values():
            for work in entry.work:
                work.wait /= 1.5
                if work.free(now) and entry.job.status.active:
                    return entry, work
        return None


class TestFrightenedByTheClock(OnMemoryJobs):
    subject_class = FrightenedByTheClock
    caught_by = ("test_a_clock_that_is_set_back_a_little_takes_nothing_away",)


class BelievesInEveryLease(MemoryJobStore):
    async def is_held(self, lease):
        return (lease.job.tenant, lease.job.id) in self._entries


class TestBelievesInEveryLease(OnMemoryJobs):
    subject_class = BelievesInEveryLease
    caught_by = (
        "test_a_lease_is_held_until_it_is_lost",
        "test_no_lease_of_an_ended_job_is_held",
    )


class HoldsByTheClock(MemoryJobStore):
    """A lease that lapsed counts as lost, though nobody has claimed its shard."""

    async def is_held(self, lease):
        if not await super().is_held(lease):
            return False
        return self._held(lease)[1].free_at > self._clock()


class TestHoldsByTheClock(OnMemoryJobs):
    subject_class = HoldsByTheClock
    caught_by = ("test_a_lease_is_held_until_it_is_lost",)
