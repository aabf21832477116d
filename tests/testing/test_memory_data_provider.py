from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from helios_core.data_providers import (
    SupportsHistory,
    SupportsSearch,
    SupportsTombstones,
    SupportsWrites,
)
from helios_core.memory import MemoryDataProvider
from helios_core.testing import DataProviderSuite, corpus


class TestMemoryDataProvider(DataProviderSuite):
    powers = frozenset({SupportsWrites, SupportsHistory, SupportsSearch, SupportsTombstones})
    persistent = False

    @asynccontextmanager
    async def opened(self, folder):
        self.behind = timedelta(0)
        yield MemoryDataProvider(clock=lambda: datetime.now(UTC) - self.behind)

    async def damage(self, provider, resource_type, resource_id):
        scope = provider._scopes[corpus.TENANT, corpus.VERSION, resource_type]
        versions = scope[resource_id]
        spoilt = msgspec.structs.replace(versions[-1].stored, content=b'{"spoilt')
        versions[-1] = msgspec.structs.replace(versions[-1], stored=spoilt)

    async def raw_current(self, provider, tenant, fhir_version):
        return {
            f"{kind}/{resource_id}": versions[-1].stored.version_id
            for (owner, version, kind), scope in provider._scopes.items()
            for resource_id, versions in scope.items()
            if (owner, version) == (tenant, fhir_version) and versions[-1].stored.content
        }

    async def set_clock_back(self, provider, by):
        self.behind += by
