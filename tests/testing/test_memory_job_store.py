from contextlib import asynccontextmanager
from datetime import UTC, datetime

from helios_core.memory import MemoryJobStore
from helios_core.testing import JobStoreSuite


class TestMemoryJobStore(JobStoreSuite):
    persistent = False

    @asynccontextmanager
    async def opened(self, folder):
        self.now = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
        yield MemoryJobStore(clock=lambda: self.now)

    async def let_pass(self, store, time):
        self.now += time

    async def raw_statuses(self, store):
        return {job_id: entry.job.status.value for (_, job_id), entry in store._entries.items()}

    async def raw_parts(self, store, job_id):
        entries = [entry for (_, found), entry in store._entries.items() if found == job_id]
        shards = [work for entry in entries for work in entry.work]
        return [part.key.name for work in shards for part in work.parts or ()]
