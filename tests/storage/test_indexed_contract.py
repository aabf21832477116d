"""A data provider with a search index keeps the contract, however far the index is behind."""

from contextlib import asynccontextmanager

from tests.storage.indexed import Following, followed, following_each_write
from tests.testing.on_memory import OnMemoryProvider


class _Indexed(OnMemoryProvider):
    """Memory with an index; behind its back is the memory."""

    chance = 1.0

    @asynccontextmanager
    async def opened(self, folder):
        async with super().opened(folder) as primary:
            self.following = Following(primary)
            yield following_each_write(self.following, self.chance)

    async def damage(self, provider, resource_type, resource_id):
        await super().damage(self.following.primary, resource_type, resource_id)

    async def lose(self, provider, resource_type, resource_ids):
        await super().lose(self.following.primary, resource_type, resource_ids)

    async def raw_current(self, provider, tenant, fhir_version):
        return await super().raw_current(self.following.primary, tenant, fhir_version)


class TestFollowedAtOnce(_Indexed):
    pass


class TestFollowedNowAndThen(_Indexed):
    chance = 0.4


class TestNeverBuilt(_Indexed):
    chance = 0.0


class TestFollowedInTheBackground(_Indexed):
    @asynccontextmanager
    async def opened(self, folder):
        async with OnMemoryProvider.opened(self, folder) as primary:
            self.following = Following(primary)
            async with followed(self.following) as provider:
                yield provider
