"""J19: shards that wait for a backend too long, too short, or unseen."""

from datetime import timedelta

import msgspec

from helios_core.memory.job_store import MemoryJobStore
from tests.testing.on_memory import OnMemoryJobs


class CountsOutages(MemoryJobStore):
    async def postpone(self, lease, reason, **options):
        _, work = self._held(lease)
        postponed = await super().postpone(lease, reason, **options)
        work.attempts += postponed
        return postponed


class TestCountsOutages(OnMemoryJobs):
    subject_class = CountsOutages
    caught_by = ("test_a_postponed_shard_waits_and_the_attempt_does_not_count",)


class PostponesForEver(MemoryJobStore):
    async def postpone(self, lease, reason, *, retry_after, patience):
        return await super().postpone(
            lease, reason, retry_after=retry_after, patience=timedelta(days=1000)
        )


class TestPostponesForEver(OnMemoryJobs):
    subject_class = PostponesForEver
    caught_by = (
        "test_a_shard_is_postponed_until_it_waited_too_long",
        "test_without_patience_a_failure_counts_at_once",
    )


class CountsFromTheLastTime(MemoryJobStore):
    async def postpone(self, lease, reason, **options):
        _, work = self._held(lease)
        work.waiting_since = None
        return await super().postpone(lease, reason, **options) if options["patience"] else False


class TestCountsFromTheLastTime(OnMemoryJobs):
    subject_class = CountsFromTheLastTime
    caught_by = (
        "test_a_shard_is_postponed_until_it_waited_too_long",
        "test_a_shard_that_gets_further_may_wait_again",
    )


class ForgetsTheWaitWithAFailure(MemoryJobStore):
    async def fail(self, lease, reason, **options):
        _, work = self._held(lease)
        work.waiting_since = None
        return await super().fail(lease, reason, **options)


class TestForgetsTheWaitWithAFailure(OnMemoryJobs):
    subject_class = ForgetsTheWaitWithAFailure
    caught_by = ("test_without_patience_a_failure_counts_at_once",)


class NeverGetsFurther(MemoryJobStore):
    async def renew(self, lease, *, lease_for, resources_done):
        _, work = self._held(lease)
        work.furthest = max(work.furthest, resources_done)
        await super().renew(lease, lease_for=lease_for, resources_done=resources_done)


class TestNeverGetsFurther(OnMemoryJobs):
    subject_class = NeverGetsFurther
    caught_by = ("test_a_shard_that_gets_further_may_wait_again",)


class TakesEveryRenewalForProgress(MemoryJobStore):
    async def renew(self, lease, *, lease_for, resources_done):
        _, work = self._held(lease)
        work.furthest = -1
        await super().renew(lease, lease_for=lease_for, resources_done=resources_done)


class TestTakesEveryRenewalForProgress(OnMemoryJobs):
    subject_class = TakesEveryRenewalForProgress
    caught_by = ("test_a_shard_that_gets_further_may_wait_again",)


class BelievesTheClock(MemoryJobStore):
    async def postpone(self, lease, reason, **options):
        _, work = self._held(lease)
        since = work.waiting_since
        postponed = await super().postpone(lease, reason, **options)
        work.waiting_since = since or work.waiting_since
        return postponed


class TestBelievesTheClock(OnMemoryJobs):
    subject_class = BelievesTheClock
    caught_by = ("test_a_clock_that_is_set_back_makes_no_shard_wait_for_ever",)


class PausesNoRetry(MemoryJobStore):
    async def postpone(self, lease, reason, *, retry_after, patience):
        return await super().postpone(lease, reason, retry_after=timedelta(0), patience=patience)


class TestPausesNoRetry(OnMemoryJobs):
    subject_class = PausesNoRetry
    caught_by = ("test_a_postponed_shard_waits_and_the_attempt_does_not_count",)


class HidesWhatItWaitsFor(MemoryJobStore):
    async def workforce(self):
        return msgspec.structs.replace(await super().workforce(), stalled=0, stalled_for=None)


class TestHidesWhatItWaitsFor(OnMemoryJobs):
    subject_class = HidesWhatItWaitsFor
    caught_by = ("test_what_a_shard_waits_for_is_shown_until_it_is_there",)


class PostponesForAnybody(MemoryJobStore):
    async def postpone(self, lease, reason, **options):
        entry = self._entries[lease.job.tenant, lease.job.id]
        work = entry.work[lease.shard.number]
        lease = msgspec.structs.replace(lease, token=work.token)
        return await super().postpone(lease, reason, **options)


class TestPostponesForAnybody(OnMemoryJobs):
    subject_class = PostponesForAnybody
    caught_by = ("test_a_lease_that_was_lost_postpones_nothing",)


class PostponesUntouched(MemoryJobStore):
    async def postpone(self, lease, reason, **options):
        _, work = self._held(lease)
        postponed = await super().postpone(lease, reason, **options)
        work.touched_at = None
        return postponed


class TestPostponesUntouched(OnMemoryJobs):
    subject_class = PostponesUntouched
    caught_by = ("test_a_postponed_shard_touches_its_job",)
