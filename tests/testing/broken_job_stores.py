"""
Job stores that are wrong on purpose, each held to the suite by a class of its own.

Not collected with the other tests: `test_broken_backends.py` runs this file and checks that every
class fails the tests in `caught_by`, the ones that name the broken clause.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec

from helios_core.errors import JobNotFound, LeaseLost, TooManyExports
from helios_core.jobs import JobStatus
from helios_core.memory.jobs import MemoryJobStore
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


class PublishesHalf(MemoryJobStore):
    """The parts are stored before the lease is looked at."""

    async def complete(self, lease, parts, *, notes=b""):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is not None:
            work = next(w for w in entry.work if w.shard.number == lease.shard.number)
            kept, work.parts = work.parts, [*parts[:-1]]
            try:
                return await super().complete(lease, parts, notes=notes)
            except LeaseLost:
                work.parts = kept or work.parts
                raise
        return await super().complete(lease, parts, notes=notes)


class TestPublishesHalf(OnMemoryJobs):
    subject_class = PublishesHalf
    caught_by = ("test_a_publication_refused_leaves_no_part_behind",)


class LosesTheLastPart(MemoryJobStore):
    async def complete(self, lease, parts, *, notes=b""):
        return await super().complete(lease, parts[:-1], notes=notes)


class TestLosesTheLastPart(OnMemoryJobs):
    subject_class = LosesTheLastPart
    caught_by = (
        "test_completing_a_shard_publishes_its_parts",
        "test_parts_come_by_kind_then_shard_then_number",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class NumbersByShard(MemoryJobStore):
    """A part's place is counted anew whenever parts are read, in the order of the shards."""

    async def parts(self, tenant, job_id):
        parts = await super().parts(tenant, job_id)
        return [msgspec.structs.replace(part, published=place) for place, part in enumerate(parts)]


class TestNumbersByShard(OnMemoryJobs):
    subject_class = NumbersByShard
    caught_by = ("test_parts_keep_the_place_at_which_they_were_published",)


class TellsForeignExports(MemoryJobStore):
    """What another tenant exported leaks into the estimates of this one."""

    async def recent(self, tenant, *, limit):
        jobs = [entry.job for entry in self._entries.values()]
        complete = [job for job in jobs if job.status is JobStatus.COMPLETE]
        return sorted(complete, key=lambda job: job.completed_at, reverse=True)[:limit]


class TestTellsForeignExports(OnMemoryJobs):
    subject_class = TellsForeignExports
    caught_by = ("test_the_exports_completed_last_are_told",)


class IgnoresTheCap(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        return await super().add(job, shards, max_active=1_000_000)


class TestIgnoresTheCap(OnMemoryJobs):
    subject_class = IgnoresTheCap
    caught_by = (
        "test_the_cap_refuses_one_job_too_many",
        "test_the_cap_holds_under_concurrent_adds",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class CountsBeforeAdding(MemoryJobStore):
    """The cap is looked at in one transaction, the job stored in another."""

    async def add(self, job, shards, *, max_active):
        jobs = [entry.job for entry in self._entries.values()]
        if sum(each.status.active for each in jobs if each.tenant == job.tenant) >= max_active:
            raise TooManyExports
        await asyncio.sleep(0)
        return await super().add(job, shards, max_active=1_000_000)


class TestCountsBeforeAdding(OnMemoryJobs):
    subject_class = CountsBeforeAdding
    caught_by = ("test_the_cap_holds_under_concurrent_adds",)


class CapsAllTenantsTogether(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        if sum(entry.job.status.active for entry in self._entries.values()) >= max_active:
            raise TooManyExports
        return await super().add(job, shards, max_active=max_active)


class TestCapsAllTenantsTogether(OnMemoryJobs):
    subject_class = CapsAllTenantsTogether
    caught_by = ("test_the_cap_counts_each_tenant_alone",)


class StoresBeforeRefusing(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        try:
            return await super().add(job, shards, max_active=max_active)
        except TooManyExports:
            await super().add(job, shards, max_active=1_000_000)
            raise


class TestStoresBeforeRefusing(OnMemoryJobs):
    subject_class = StoresBeforeRefusing
    caught_by = ("test_the_cap_refuses_one_job_too_many",)


class CountsEndedJobs(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        if sum(entry.job.tenant == job.tenant for entry in self._entries.values()) >= max_active:
            raise TooManyExports
        return await super().add(job, shards, max_active=max_active)


class TestCountsEndedJobs(OnMemoryJobs):
    subject_class = CountsEndedJobs
    caught_by = ("test_a_job_that_ended_frees_its_slot",)


class LetsCancelBeOvertaken(MemoryJobStore):
    """A holder that completes after the cancel revives the job."""

    async def complete(self, lease, parts, *, notes=b""):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is not None and entry.job.status is JobStatus.CANCELLED:
            entry.job = msgspec.structs.replace(entry.job, status=JobStatus.COMPLETE)
            return JobStatus.COMPLETE
        return await super().complete(lease, parts, notes=notes)


class TestLetsCancelBeOvertaken(OnMemoryJobs):
    subject_class = LetsCancelBeOvertaken
    caught_by = ("test_a_cancelled_job_can_never_become_complete",)


class ShowsCancelledJobs(MemoryJobStore):
    def _visible(self, tenant, job_id):
        if (entry := self._entries.get((tenant, job_id))) is None:
            raise JobNotFound
        return entry


class TestShowsCancelledJobs(OnMemoryJobs):
    subject_class = ShowsCancelledJobs
    caught_by = ("test_a_cancelled_job_is_gone_but_not_forgotten",)


class ForgetsCancelledJobs(MemoryJobStore):
    """Output of a cancelled job would never be removed."""

    async def cancel(self, tenant, job_id):
        await super().cancel(tenant, job_id)
        await self.delete(tenant, job_id)


class TestForgetsCancelledJobs(OnMemoryJobs):
    subject_class = ForgetsCancelledJobs
    caught_by = (
        "test_a_cancelled_job_is_gone_but_not_forgotten",
        "test_cancelling_a_finished_job_works",
    )


class KeepsDeletedJobs(MemoryJobStore):
    async def delete(self, tenant, job_id):
        if (tenant, job_id) in self._entries:
            self._entries[tenant, job_id].end(JobStatus.CANCELLED, self._clock())


class TestKeepsDeletedJobs(OnMemoryJobs):
    subject_class = KeepsDeletedJobs
    caught_by = (
        "test_a_deleted_job_takes_every_lease_away",
        "test_a_deleted_job_leaves_nothing_and_may_be_deleted_again",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class DeletesTooMuch(MemoryJobStore):
    async def delete(self, tenant, job_id):
        self._entries = {}


class TestDeletesTooMuch(OnMemoryJobs):
    subject_class = DeletesTooMuch
    caught_by = (
        "test_a_deleted_job_leaves_nothing_and_may_be_deleted_again",
        "test_a_job_of_another_tenant_cannot_be_ended",
    )


class IgnoresTheTenant(MemoryJobStore):
    def _visible(self, tenant, job_id):
        for (_, found), entry in self._entries.items():
            if found == job_id and entry.visible:
                return entry
        raise JobNotFound


class TestIgnoresTheTenant(OnMemoryJobs):
    subject_class = IgnoresTheTenant
    caught_by = (
        "test_a_job_of_another_tenant_cannot_be_seen",
        "test_a_job_of_another_tenant_cannot_be_ended",
    )


class HandsOutHeldShards(MemoryJobStore):
    def _fairest(self, now):
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


class LooksThenClaims(MemoryJobStore):
    """The shard is found in one transaction and taken in another."""

    async def claim(self, worker, *, lease_for, max_attempts):
        found = self._fairest(self._clock())
        await asyncio.sleep(0)
        if found is not None:
            found[1].free_at = None
        return await super().claim(worker, lease_for=lease_for, max_attempts=max_attempts)


class TestLooksThenClaims(OnMemoryJobs):
    subject_class = LooksThenClaims
    caught_by = ("test_concurrent_claims_give_each_shard_once",)


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


class FirstComeFirstServed(MemoryJobStore):
    def _fairest(self, now):
        self._served.clear()
        return super()._fairest(now)


class TestFirstComeFirstServed(OnMemoryJobs):
    subject_class = FirstComeFirstServed
    caught_by = (
        "test_a_busy_tenant_does_not_starve_another",
        "test_tenants_take_turns",
        "test_a_tenant_that_waited_comes_before_one_served_since",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class NewestFirst(MemoryJobStore):
    def _fairest(self, now):
        self._entries = dict(reversed(self._entries.items()))
        for place, entry in enumerate(self._entries.values()):
            entry.place = place
        found = super()._fairest(now)
        self._entries = dict(reversed(self._entries.items()))
        return found


class TestNewestFirst(OnMemoryJobs):
    subject_class = NewestFirst
    caught_by = ("test_within_a_tenant_the_oldest_job_and_lowest_shard_come_first",)


class CountsReleases(MemoryJobStore):
    async def release(self, lease):
        _, work = self._held(lease)
        await super().release(lease)
        work.attempts += 1


class TestCountsReleases(OnMemoryJobs):
    subject_class = CountsReleases
    caught_by = ("test_a_released_shard_is_free_and_the_attempt_does_not_count",)


class CountsAttemptsByJob(MemoryJobStore):
    async def fail(self, lease, reason, *, max_attempts, retry_after):
        entry, work = self._held(lease)
        work.attempts = sum(each.attempts for each in entry.work)
        return await super().fail(
            lease, reason, max_attempts=max_attempts, retry_after=retry_after
        )


class TestCountsAttemptsByJob(OnMemoryJobs):
    subject_class = CountsAttemptsByJob
    caught_by = ("test_attempts_are_counted_for_each_shard_alone",)


class RetriesForEver(MemoryJobStore):
    async def claim(self, worker, *, lease_for, max_attempts):
        return await super().claim(worker, lease_for=lease_for, max_attempts=1_000_000)


class TestRetriesForEver(OnMemoryJobs):
    subject_class = RetriesForEver
    caught_by = (
        "test_a_shard_that_keeps_lapsing_ends_the_job",
        "test_a_shard_nobody_ever_reported_on_ends_the_job_with_words",
        "test_giving_up_a_shard_does_not_end_the_search",
    )


class KeepsTheFirstError(MemoryJobStore):
    async def fail(self, lease, reason, *, max_attempts, retry_after):
        _, work = self._held(lease)
        return await super().fail(
            lease, work.failure or reason, max_attempts=max_attempts, retry_after=retry_after
        )


class TestKeepsTheFirstError(OnMemoryJobs):
    subject_class = KeepsTheFirstError
    caught_by = ("test_a_shard_that_used_up_its_attempts_ends_the_job",)


class LeavesLeasesToAFailedJob(MemoryJobStore):
    """One shard ends the job, and the others go on as if it had not."""

    def _held(self, lease):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is not None and entry.job.status is JobStatus.ERROR:
            return entry, next(w for w in entry.work if w.shard.number == lease.shard.number)
        return super()._held(lease)


class TestLeavesLeasesToAFailedJob(OnMemoryJobs):
    subject_class = LeavesLeasesToAFailedJob
    caught_by = ("test_a_job_in_error_takes_every_lease_away",)


class WaitsForNoRetry(MemoryJobStore):
    async def fail(self, lease, reason, *, max_attempts, retry_after):
        return await super().fail(
            lease, reason, max_attempts=max_attempts, retry_after=timedelta(0)
        )


class TestWaitsForNoRetry(OnMemoryJobs):
    subject_class = WaitsForNoRetry
    caught_by = ("test_a_failed_shard_waits_before_it_is_free_again",)


class RefusesLateHolders(MemoryJobStore):
    def _held(self, lease):
        entry, work = super()._held(lease)
        if work.free_at <= self._clock():
            raise LeaseLost
        return entry, work


class TestRefusesLateHolders(OnMemoryJobs):
    subject_class = RefusesLateHolders
    caught_by = ("test_a_lapsed_lease_nobody_took_may_still_publish",)


class NeverCompletes(MemoryJobStore):
    async def complete(self, lease, parts, *, notes=b""):
        entry, work = self._held(lease)
        work.parts, work.notes = [*parts], notes
        return entry.job.status


class TestNeverCompletes(OnMemoryJobs):
    subject_class = NeverCompletes
    caught_by = (
        "test_the_last_shard_completes_the_job",
        "test_the_last_shards_completed_at_once_complete_the_job",
        "test_a_shard_without_parts_can_be_completed",
    )


class CompletesTooSoon(MemoryJobStore):
    async def complete(self, lease, parts, *, notes=b""):
        await super().complete(lease, parts, notes=notes)
        entry = self._entries[lease.job.tenant, lease.job.id]
        entry.end(JobStatus.COMPLETE, self._clock())
        return JobStatus.COMPLETE


class TestCompletesTooSoon(OnMemoryJobs):
    subject_class = CompletesTooSoon
    caught_by = (
        "test_completing_a_shard_publishes_its_parts",
        "test_the_last_shards_completed_at_once_complete_the_job",
    )


class KeepsEmptyJobsOpen(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        added = await super().add(job, shards, max_active=max_active)
        entry = self._entries[job.tenant, job.id]
        entry.job = msgspec.structs.replace(added, status=JobStatus.ACCEPTED, completed_at=None)
        return entry.job


class TestKeepsEmptyJobsOpen(OnMemoryJobs):
    subject_class = KeepsEmptyJobsOpen
    caught_by = ("test_a_job_without_shards_is_complete_at_once",)


class HandsOutCompletedShards(MemoryJobStore):
    def _fairest(self, now):
        found = super()._fairest(now)
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


class IgnoresThePhases(MemoryJobStore):
    def _fairest(self, now):
        active = [entry for entry in self._entries.values() if entry.job.status.active]
        active.sort(key=lambda entry: (self._served[entry.job.tenant], entry.place))
        return next(((e, work) for e in active for work in e.work if work.free(now)), None)


class TestIgnoresThePhases(OnMemoryJobs):
    subject_class = IgnoresThePhases
    caught_by = (
        "test_a_shard_waits_for_the_earlier_phases_of_its_job",
        "test_a_phase_waits_for_shards_that_have_to_be_tried_again",
        "test_any_life_of_jobs_agrees_with_the_model",
    )


class TakesHeldShardsForComplete(MemoryJobStore):
    """A phase begins as soon as nothing of the one before can be claimed."""

    def _fairest(self, now):
        active = [entry for entry in self._entries.values() if entry.job.status.active]
        active.sort(key=lambda entry: (self._served[entry.job.tenant], entry.place))
        free = [(e, work) for e in active for work in e.work if work.free(now)]
        return min(free, key=lambda found: found[1].shard.phase, default=None)


class TestTakesHeldShardsForComplete(OnMemoryJobs):
    subject_class = TakesHeldShardsForComplete
    caught_by = (
        "test_a_shard_waits_for_the_earlier_phases_of_its_job",
        "test_a_phase_waits_for_shards_that_have_to_be_tried_again",
    )


class MixesThePhasesOfJobs(MemoryJobStore):
    """A phase is one of the whole store."""

    def _fairest(self, now):
        active = [entry for entry in self._entries.values() if entry.job.status.active]
        undone = [w.shard.phase for entry in active for w in entry.work if w.parts is None]
        found = super()._fairest(now)
        return found if found and found[1].shard.phase == min(undone) else None


class TestMixesThePhasesOfJobs(OnMemoryJobs):
    subject_class = MixesThePhasesOfJobs
    caught_by = ("test_a_waiting_phase_keeps_no_other_job_waiting",)


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


class ForgetsTheRequest(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        request = msgspec.structs.replace(job.request, since=None)
        job = msgspec.structs.replace(job, request=request)
        return await super().add(job, shards, max_active=max_active)


class TestForgetsTheRequest(OnMemoryJobs):
    subject_class = ForgetsTheRequest
    caught_by = (
        "test_an_added_job_is_accepted_and_can_be_read",
        "test_a_claim_gives_the_job_and_the_shard_as_they_were_added",
    )


class ListsPartsAsTheyCame(MemoryJobStore):
    async def parts(self, tenant, job_id):
        work = self._visible(tenant, job_id).work
        return [part for each in work for part in each.parts or ()]


class TestListsPartsAsTheyCame(OnMemoryJobs):
    subject_class = ListsPartsAsTheyCame
    caught_by = ("test_parts_come_by_kind_then_shard_then_number",)


class RemovesAtOnce(MemoryJobStore):
    async def removable(self, *, completed_before, limit):
        return await super().removable(completed_before=timedelta(seconds=-1), limit=limit)


class TestRemovesAtOnce(OnMemoryJobs):
    subject_class = RemovesAtOnce
    caught_by = ("test_finished_jobs_may_go_when_they_are_old_enough",)


class RemovesWithoutLimit(MemoryJobStore):
    async def removable(self, *, completed_before, limit):
        return await super().removable(completed_before=completed_before, limit=1000)


class TestRemovesWithoutLimit(OnMemoryJobs):
    subject_class = RemovesWithoutLimit
    caught_by = ("test_what_may_go_is_given_in_limited_numbers_and_for_all_tenants",)


class AnswersForUnknownJobs(MemoryJobStore):
    async def exists(self, tenant, job_id):
        return True


class TestAnswersForUnknownJobs(OnMemoryJobs):
    subject_class = AnswersForUnknownJobs
    caught_by = (
        "test_an_unknown_job_is_not_found",
        "test_a_job_of_another_tenant_cannot_be_seen",
    )


class WaitsForEver(MemoryJobStore):
    async def wait_for_work(self, at_most):
        await asyncio.sleep(3600)


class TestWaitsForEver(OnMemoryJobs):
    subject_class = WaitsForEver
    caught_by = ("test_waiting_for_work_ends",)


class LosesNotes(MemoryJobStore):
    async def complete(self, lease, parts, *, notes=b""):
        return await super().complete(lease, parts, notes=b"" if parts else notes)


class TestLosesNotes(OnMemoryJobs):
    subject_class = LosesNotes
    caught_by = (
        "test_notes_come_by_shard_number_and_unchanged",
        "test_notes_are_there_when_the_next_phase_begins",
    )


class GivesEmptyNotes(MemoryJobStore):
    """A shard that noted nothing is told too."""

    async def notes(self, tenant, job_id):
        for work in self._visible(tenant, job_id).work:
            if work.parts is not None:
                yield work.notes


class TestGivesEmptyNotes(OnMemoryJobs):
    subject_class = GivesEmptyNotes
    caught_by = ("test_notes_come_by_shard_number_and_unchanged",)


class KeepsNotesFirst(MemoryJobStore):
    """The notes are stored before the lease is looked at."""

    async def complete(self, lease, parts, *, notes=b""):
        entry = self._entries.get((lease.job.tenant, lease.job.id))
        if entry is not None:
            entry.work[lease.shard.number].notes = notes
        return await super().complete(lease, parts, notes=notes)


class TestKeepsNotesFirst(OnMemoryJobs):
    subject_class = KeepsNotesFirst
    caught_by = ("test_a_superseded_lease_cannot_keep_notes",)


class KeepsNotesByJobName(MemoryJobStore):
    """Notes have a place of their own, from which nothing is ever taken."""

    def __init__(self, **options):
        super().__init__(**options)
        self._kept = {}

    async def complete(self, lease, parts, *, notes=b""):
        status = await super().complete(lease, parts)
        self._kept.setdefault(lease.job.id, {})[lease.shard.number] = notes
        return status

    async def notes(self, tenant, job_id):
        for _, notes in sorted(self._kept.get(job_id, {}).items()):
            if notes:
                yield notes


class TestKeepsNotesByJobName(OnMemoryJobs):
    subject_class = KeepsNotesByJobName
    caught_by = ("test_notes_go_with_their_job", "test_notes_stay_with_their_tenant_and_job")


class TestForgetsOnRestart(OnMemoryJobs):
    persistent = True
    caught_by = (
        "test_everything_is_there_after_a_restart",
        "test_a_lease_lapses_across_a_restart",
        "test_notes_are_there_after_a_restart",
        "test_two_stores_on_one_backing_give_each_shard_once",
        "test_two_stores_on_one_backing_share_the_cap",
        "test_a_cancel_reaches_the_workers_of_another_store",
    )
