"""J6: jobs that end, and what is left of them."""

from datetime import timedelta

import msgspec

from helios_core.errors import JobNotFound
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


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
