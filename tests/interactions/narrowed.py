"""Providers that show another one's data, and hide some of its powers."""

from helios_core.storage.data_provider import DataProvider


class ReadOnly(DataProvider):
    """Nothing but the contract that every provider fulfils."""

    def __init__(self, inner):
        self._inner = inner

    async def transaction_time(self):
        return await self._inner.transaction_time()

    async def plan(self, view, *, shard_bytes):
        return await self._inner.plan(view, shard_bytes=shard_bytes)

    def read(self, view, shard, *, batch_bytes):
        return self._inner.read(view, shard, batch_bytes=batch_bytes)

    async def get(self, key, *, at=None):
        return await self._inner.get(key, at=at)


class OnlyWritable(ReadOnly):
    """A provider that can be written to, but not searched."""

    async def write(self, tenant, fhir_version, changes):
        return await self._inner.write(tenant, fhir_version, changes)
