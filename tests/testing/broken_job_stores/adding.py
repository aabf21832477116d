"""J1: jobs that are stored whole, as many as the cap allows."""

import asyncio

import msgspec

from helios_core.errors import TooManyExports
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


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


class KeepsEmptyJobsOpen(MemoryJobStore):
    async def add(self, job, shards, *, max_active):
        added = await super().add(job, shards, max_active=max_active)
        entry = self._entries[job.tenant, job.id]
        entry.job = msgspec.structs.replace(added, status=JobStatus.ACCEPTED, completed_at=None)
        return entry.job


class TestKeepsEmptyJobsOpen(OnMemoryJobs):
    subject_class = KeepsEmptyJobsOpen
    caught_by = ("test_a_job_without_shards_is_complete_at_once",)


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
