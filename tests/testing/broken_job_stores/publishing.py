"""J5, J12: parts that are published with their shard, each in a place it keeps."""

import msgspec

from helios_core.errors import LeaseLost, PartNotFound
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


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


class ListsPartsAsTheyCame(MemoryJobStore):
    async def parts(self, tenant, job_id):
        work = self._visible(tenant, job_id).work
        return [part for each in work for part in each.parts or ()]


class TestListsPartsAsTheyCame(OnMemoryJobs):
    subject_class = ListsPartsAsTheyCame
    caught_by = ("test_parts_come_by_kind_then_shard_then_number",)


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


class FindsPartsOfEveryJob(MemoryJobStore):
    async def part(self, tenant, job_id, name):
        for entry in self._entries.values():
            for part in [part for work in entry.work for part in work.parts or ()]:
                if part.key.name == name:
                    return part
        raise PartNotFound


class TestFindsPartsOfEveryJob(OnMemoryJobs):
    subject_class = FindsPartsOfEveryJob
    caught_by = ("test_a_part_is_found_by_its_file_name",)


class FindsPartsByTheNameAtRest(MemoryJobStore):
    async def part(self, tenant, job_id, name):
        for part in await self.parts(tenant, job_id):
            if name in (part.key.name, part.key.stored_name):
                return part
        raise PartNotFound


class TestFindsPartsByTheNameAtRest(OnMemoryJobs):
    subject_class = FindsPartsByTheNameAtRest
    caught_by = ("test_a_part_is_found_by_its_file_name",)
