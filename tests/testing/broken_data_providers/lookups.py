"""P8: looking up ids."""

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import Batch
from tests.testing.on_memory import OnMemoryProvider


class MissesNothing(MemoryDataProvider):
    async def missing(self, key, ids, *, at=None):
        return set()


class TestMissesNothing(OnMemoryProvider):
    subject_class = MissesNothing
    caught_by = ("test_missing_ids_are_reported", "test_missing_ids_are_reported_as_of_an_instant")


class MissesAsOfNow(MemoryDataProvider):
    async def missing(self, key, ids, *, at=None):
        return await super().missing(key, ids)


class TestMissesAsOfNow(OnMemoryProvider):
    subject_class = MissesAsOfNow
    caught_by = ("test_missing_ids_are_reported_as_of_an_instant",)


class LooksUpWithoutTheCohort(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        everybody = msgspec.structs.replace(view, cohort=None)
        return await super().among(everybody, resource_type, ids)


class TestLooksUpWithoutTheCohort(OnMemoryProvider):
    subject_class = LooksUpWithoutTheCohort
    caught_by = ("test_ids_are_told_apart_by_who_they_are_about",)


class LooksUpWhatIsCurrent(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        now = msgspec.structs.replace(view, transaction_time=await self.transaction_time())
        return await super().among(now, resource_type, ids)


class TestLooksUpWhatIsCurrent(OnMemoryProvider):
    subject_class = LooksUpWhatIsCurrent
    caught_by = ("test_ids_are_told_apart_by_when_they_changed",)


class LooksUpSomeIdsOnly(MemoryDataProvider):
    async def among(self, view, resource_type, ids):
        return await super().among(view, resource_type, list(ids)[:500])


class TestLooksUpSomeIdsOnly(OnMemoryProvider):
    subject_class = LooksUpSomeIdsOnly
    caught_by = ("test_many_ids_are_looked_up_in_one_go",)


class FetchesWhatIsCurrent(MemoryDataProvider):
    async def fetch(self, key, ids, *, at):
        now = await self.transaction_time()
        return await super().fetch(key, ids, at=now)


class TestFetchesWhatIsCurrent(OnMemoryProvider):
    subject_class = FetchesWhatIsCurrent
    caught_by = ("test_resources_are_fetched_as_they_were",)


class FetchesFromAllTenants(MemoryDataProvider):
    async def fetch(self, key, ids, *, at):
        found = Batch()
        for each in {other.tenant for other in self._collections}:
            other = msgspec.structs.replace(key, tenant=each)
            batch = await super().fetch(other, ids, at=at)
            found = batch if batch.lines else found
        return found


class TestFetchesFromAllTenants(OnMemoryProvider):
    subject_class = FetchesFromAllTenants
    caught_by = ("test_ids_of_another_tenant_are_not_known",)
