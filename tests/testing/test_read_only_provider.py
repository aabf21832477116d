"""The suite holds for a provider that can be read and nothing more."""

from contextlib import asynccontextmanager

from helios_core.storage.data_provider import DataProvider
from helios_core.testing import corpus
from helios_core.testing.data_provider.contract import write
from tests.testing.on_memory import OnMemoryProvider


class ReadOnly(DataProvider):
    """Somebody's existing database, which others fill."""

    def __init__(self, filled):
        self.filled = filled

    async def transaction_time(self):
        return await self.filled.transaction_time()

    async def plan(self, view, *, shard_bytes):
        return await self.filled.plan(view, shard_bytes=shard_bytes)

    def read(self, view, shard, *, batch_bytes):
        return self.filled.read(view, shard, batch_bytes=batch_bytes)

    async def get(self, key, *, at=None):
        return await self.filled.get(key, at=at)


class TestReadOnlyProvider(OnMemoryProvider):
    powers = frozenset()

    @asynccontextmanager
    async def opened(self, folder):
        async with super().opened(folder) as filled:
            yield ReadOnly(filled)

    async def seed(self, provider, *resources, tenant=corpus.TENANT, fhir_version=corpus.VERSION):
        await write(provider.filled, *resources, tenant=tenant, fhir_version=fhir_version)

    async def damage(self, provider, resource_type, resource_id):
        await super().damage(provider.filled, resource_type, resource_id)
