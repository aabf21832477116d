"""J10: tenants."""

from helios_core.errors import JobNotFound
from helios_core.memory.job_store import MemoryJobStore
from helios_core.model.jobs import JobStatus
from tests.testing.on_memory import OnMemoryJobs


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


class TellsForeignExports(MemoryJobStore):
    """What another tenant exported leaks into the estimates of this one."""

    async def recent(self, tenant, *, limit):
        jobs = [entry.job for entry in self._entries.values()]
        complete = [job for job in jobs if job.status is JobStatus.COMPLETE]
        return sorted(complete, key=lambda job: job.completed_at, reverse=True)[:limit]


class TestTellsForeignExports(OnMemoryJobs):
    subject_class = TellsForeignExports
    caught_by = ("test_the_exports_completed_last_are_reported",)


class AnswersForUnknownJobs(MemoryJobStore):
    async def exists(self, tenant, job_id):
        return True


class TestAnswersForUnknownJobs(OnMemoryJobs):
    subject_class = AnswersForUnknownJobs
    caught_by = (
        "test_an_unknown_job_is_not_found",
        "test_a_job_of_another_tenant_cannot_be_seen",
    )
