"""J20: losses that nobody notices."""

from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


class CompletesWithWhatIsLeft(MemoryJobStore):
    def _end_with_last_shard(self, entry):
        entry.end(JobStatus.COMPLETE, self._clock())


class TestCompletesWithWhatIsLeft(OnMemoryJobs):
    subject_class = CompletesWithWhatIsLeft
    caught_by = ("test_a_job_that_lost_a_shard_never_becomes_complete",)


class WaitsForShardsThatAreGone(MemoryJobStore):
    async def end_untouched(self, untouched_for, *, reason, limit):
        for entry in self._entries.values():
            entry.shards = len(entry.work)
        return await super().end_untouched(untouched_for, reason=reason, limit=limit)


class TestWaitsForShardsThatAreGone(OnMemoryJobs):
    subject_class = WaitsForShardsThatAreGone
    caught_by = ("test_a_job_without_any_shard_left_is_given_up",)


class CountsTheShardsThatAreLeft(MemoryJobStore):
    async def parts(self, tenant, job_id):
        entry = self._visible(tenant, job_id)
        entry.shards = len(entry.work)
        return await super().parts(tenant, job_id)


class TestCountsTheShardsThatAreLeft(OnMemoryJobs):
    subject_class = CountsTheShardsThatAreLeft
    caught_by = ("test_a_complete_job_that_lost_a_shard_shows_no_parts",)


class CountsResourcesOnly(MemoryJobStore):
    """Parts of deletions and errors have none."""

    async def parts(self, tenant, job_id):
        for work in self._visible(tenant, job_id).work:
            work.published = len(work.parts or ())
        return await super().parts(tenant, job_id)


class TestCountsResourcesOnly(OnMemoryJobs):
    subject_class = CountsResourcesOnly
    caught_by = ("test_a_job_that_lost_a_part_shows_none",)


class TakesNotesAsTheyAre(MemoryJobStore):
    async def notes(self, tenant, job_id):
        for work in self._visible(tenant, job_id).work:
            if work.notes:
                yield work.notes


class TestTakesNotesAsTheyAre(OnMemoryJobs):
    subject_class = TakesNotesAsTheyAre
    caught_by = ("test_a_job_that_lost_notes_shows_none",)
