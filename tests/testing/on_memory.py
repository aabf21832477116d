"""The suites on the reference backends, sound or broken, looked at behind their backs."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from helios_core import MAX_TOKEN
from helios_core.errors import BackendUnavailable
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemorySearchIndex
from helios_core.testing import DataProviderSuite, JobStoreSuite, SearchIndexSuite, corpus


class OnMemoryProvider(DataProviderSuite):
    subject_class = MemoryDataProvider
    powers = DataProviderSuite.known_powers
    persistent = False

    @asynccontextmanager
    async def opened(self, folder):
        self.behind = timedelta(0)
        yield self.subject_class(clock=lambda: datetime.now(UTC) - self.behind)

    async def damage(self, provider, resource_type, resource_id):
        versions = provider._collections[corpus.type_key(resource_type)][resource_id]
        spoilt = msgspec.structs.replace(versions[-1].stored, content=b'{"spoilt')
        versions[-1] = msgspec.structs.replace(versions[-1], stored=spoilt)

    async def lose(self, provider, resource_type, resource_ids):
        for each in resource_ids:
            del provider._collections[corpus.type_key(resource_type)][each]

    async def raw_current(self, provider, tenant, fhir_version):
        return {
            f"{key.resource_type}/{resource_id}": versions[-1].stored.version_id
            for key, collection in provider._collections.items()
            for resource_id, versions in collection.items()
            if (key.tenant, key.fhir_version) == (tenant, fhir_version)
            and versions[-1].stored.content
        }

    async def set_clock_back(self, provider, by):
        self.behind += by


class OnMemoryJobs(JobStoreSuite):
    subject_class = MemoryJobStore
    powers = JobStoreSuite.known_powers
    persistent = False

    @asynccontextmanager
    async def opened(self, folder):
        self.now = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
        yield self.subject_class(clock=lambda: self.now)

    async def let_pass(self, store, time):
        self.now += time

    async def spoil(self, store, job_id, what="job"):
        [entry] = [entry for (_, found), entry in store._entries.items() if found == job_id]
        if what == "job":
            entry.accepted = b'{"spoilt'
        for work in entry.work if what == "token" else ():
            work.token = MAX_TOKEN

    async def lose(self, store, job_id, what, shard):
        [entry] = [entry for (_, found), entry in store._entries.items() if found == job_id]
        [work] = [work for work in entry.work if work.shard.number == shard]
        match what:
            case "shard":
                entry.work.remove(work)
            case "part":
                work.parts.pop()
            case "notes":
                work.notes = b""

    async def raw_statuses(self, store):
        return {job_id: entry.status.value for (_, job_id), entry in store._entries.items()}

    async def raw_parts(self, store, job_id):
        entries = [entry for (_, found), entry in store._entries.items() if found == job_id]
        shards = [work for entry in entries for work in entry.work]
        return [part.key.name for work in shards for part in work.parts or ()]


class _Gate:
    """An index that can be unreachable."""

    def __init__(self, index):
        self.index = index
        self.is_down = False

    def __getattr__(self, name):
        if self.is_down:
            raise BackendUnavailable("the index is down")
        return getattr(self.index, name)


class OnMemoryIndex(SearchIndexSuite):
    subject_class = MemorySearchIndex

    @pytest.fixture
    def index(self):
        return _Gate(self.subject_class())

    @asynccontextmanager
    async def another(self, index):
        other = self.subject_class()
        self.share(index.index, other)
        yield other

    def share(self, index, other):
        other._states, other._entries = index._states, index._entries

    @asynccontextmanager
    async def down(self, index):
        index.is_down = True
        yield
        index.is_down = False
