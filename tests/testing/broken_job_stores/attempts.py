"""J9: attempts that are counted, and the error of the last one."""

from datetime import timedelta

from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


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


class WaitsForNoRetry(MemoryJobStore):
    async def fail(self, lease, reason, *, max_attempts, retry_after):
        return await super().fail(
            lease, reason, max_attempts=max_attempts, retry_after=timedelta(0)
        )


class TestWaitsForNoRetry(OnMemoryJobs):
    subject_class = WaitsForNoRetry
    caught_by = ("test_a_failed_shard_waits_before_it_is_free_again",)


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
