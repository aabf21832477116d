"""SupportsWrites, SupportsHistory: changes, and the versions they make."""

import asyncio

import msgspec

from helios_core.errors import VersionConflict
from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import AppliedChange, ChangeResult, Put
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from tests.testing.on_memory import OnMemoryProvider


class MakesAVersionOfEverything(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        self.puts = getattr(self, "puts", 0)
        fresh = []
        for change in changes:
            self.puts += 1
            if isinstance(change, Put):
                resource = msgspec.structs.replace(change.resource, content_hash=self.puts)
                fresh.append(msgspec.structs.replace(change, resource=resource))
            else:
                fresh.append(change)
        return await super().write(tenant, fhir_version, fresh)


class TestMakesAVersionOfEverything(OnMemoryProvider):
    subject_class = MakesAVersionOfEverything
    caught_by = (
        "test_an_unchanged_resource_makes_no_new_version",
        "test_a_write_reports_each_change",
        "test_a_resource_twice_in_one_write_is_applied_twice",
        "test_any_history_agrees_with_the_model",
    )


class MistakesRevivalForNoChange(MemoryDataProvider):
    """A deleted resource that is written again has not changed."""

    async def write(self, tenant, fhir_version, changes):
        applied = []
        for change in changes:
            if isinstance(change, Put):
                key = ResourceKey(tenant, fhir_version, change.resource_type, change.id)
                versions = self._versions(key)
                if change.resource.content_hash in [v.content_hash for v in versions]:
                    applied.append(_unchanged(versions[-1]))
                    continue
            applied += await super().write(tenant, fhir_version, [change])
        return applied


def _unchanged(version):
    stored = version.stored
    return AppliedChange(
        outcome=ChangeResult.UNCHANGED,
        version_id=stored.version_id,
        last_updated=stored.last_updated,
    )


class TestMistakesRevivalForNoChange(OnMemoryProvider):
    subject_class = MistakesRevivalForNoChange
    caught_by = ("test_a_deleted_resource_can_be_written_again",)


class WritesOneByOne(MemoryDataProvider):
    """Each change is a transaction of its own."""

    async def write(self, tenant, fhir_version, changes):
        applied = []
        for change in changes:
            applied += await super().write(tenant, fhir_version, [change])
            await asyncio.sleep(0)
        return applied


class TestWritesOneByOne(OnMemoryProvider):
    subject_class = WritesOneByOne
    caught_by = (
        "test_all_changes_of_a_write_carry_one_instant",
        "test_a_write_is_seen_whole_or_not_at_all",
        "test_a_conflict_changes_nothing",
    )


class AppliesOneOfTwo(MemoryDataProvider):
    """Of two changes of one resource, the last one wins."""

    async def write(self, tenant, fhir_version, changes):
        last = {}
        for change in changes:
            last[change.resource_type, change.id] = change
        return await super().write(tenant, fhir_version, [*last.values()])


class TestAppliesOneOfTwo(OnMemoryProvider):
    subject_class = AppliesOneOfTwo
    caught_by = ("test_a_resource_twice_in_one_write_is_applied_twice",)


class IgnoresIfMatch(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        bold = [msgspec.structs.replace(change, if_match=None) for change in changes]
        return await super().write(tenant, fhir_version, bold)


class TestIgnoresIfMatch(OnMemoryProvider):
    subject_class = IgnoresIfMatch
    caught_by = (
        "test_the_version_named_must_be_current",
        "test_a_version_of_what_is_not_there_cannot_be_named",
        "test_a_conflict_changes_nothing",
        "test_of_two_writers_with_one_version_one_wins",
        "test_of_writers_that_expect_nothing_to_be_there_one_wins",
    )


class ComparesThenWrites(MemoryDataProvider):
    """`if_match` is looked at in one transaction, the change made in another."""

    async def write(self, tenant, fhir_version, changes):
        for change in changes:
            versions = self._versions(
                ResourceKey(tenant, fhir_version, change.resource_type, change.id)
            )
            if change.if_match not in (None, len(versions)):
                raise VersionConflict
        await asyncio.sleep(0)
        bold = [msgspec.structs.replace(change, if_match=None) for change in changes]
        return await super().write(tenant, fhir_version, bold)


class TestComparesThenWrites(OnMemoryProvider):
    subject_class = ComparesThenWrites
    caught_by = (
        "test_of_two_writers_with_one_version_one_wins",
        "test_of_writers_that_expect_nothing_to_be_there_one_wins",
    )


class LosesConcurrentWrites(MemoryDataProvider):
    """Reads, gives others their turn, then writes what it has read."""

    async def write(self, tenant, fhir_version, changes):
        before = {key: dict(kept) for key, kept in self._collections.items()}
        await asyncio.sleep(0)
        self._collections.clear()
        self._collections.update(before)
        return await super().write(tenant, fhir_version, changes)


class TestLosesConcurrentWrites(OnMemoryProvider):
    subject_class = LosesConcurrentWrites
    caught_by = ("test_concurrent_writers_lose_nothing",)


class WritesOnlyAThousand(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        return await super().write(tenant, fhir_version, changes[:1000])


class TestWritesOnlyAThousand(OnMemoryProvider):
    subject_class = WritesOnlyAThousand
    caught_by = ("test_many_changes_fit_in_one_write",)


class NeedsSomethingToWrite(MemoryDataProvider):
    async def write(self, tenant, fhir_version, changes):
        _ = changes[0]
        return await super().write(tenant, fhir_version, changes)


class TestNeedsSomethingToWrite(OnMemoryProvider):
    subject_class = NeedsSomethingToWrite
    caught_by = ("test_writing_nothing_is_fine",)


class AcknowledgesOnly(MemoryDataProvider):
    """Reports a write that it has not done."""

    async def write(self, tenant, fhir_version, changes):
        kept = {key: dict(versions) for key, versions in self._collections.items()}
        applied = await super().write(tenant, fhir_version, changes)
        if any(each.outcome is ChangeResult.UPDATED for each in applied):
            self._collections.clear()
            self._collections.update(kept)
        return applied


class TestAcknowledgesOnly(OnMemoryProvider):
    subject_class = AcknowledgesOnly
    caught_by = ("test_what_is_written_is_what_is_stored",)


class DeletesTwice(MemoryDataProvider):
    """Deleting what is deleted makes another version."""

    async def write(self, tenant, fhir_version, changes):
        applied = await super().write(tenant, fhir_version, changes)
        for change, result in zip(changes, applied, strict=True):
            if result.outcome is ChangeResult.ABSENT and result.version_id:
                key = TypeKey(tenant, fhir_version, change.resource_type)
                versions = self._collections[key][change.id]
                last = versions[-1].stored
                stored = msgspec.structs.replace(last, version_id=result.version_id + 1)
                versions.append(msgspec.structs.replace(versions[-1], stored=stored))
        return applied


class TestDeletesTwice(OnMemoryProvider):
    subject_class = DeletesTwice
    caught_by = ("test_a_resource_cannot_be_deleted_twice",)


class ForgetsContents(MemoryDataProvider):
    """Earlier versions lose their content."""

    async def get_version(self, key, version_id):
        version = await super().get_version(key, version_id)
        return None if version is None else msgspec.structs.replace(version, content=None)


class TestForgetsContents(OnMemoryProvider):
    subject_class = ForgetsContents
    caught_by = ("test_versions_can_be_read", "test_the_history_is_paged_from_the_newest")


class TellsTheHistoryOfOthers(MemoryDataProvider):
    async def history(self, key, *, count, before=None):
        other = msgspec.structs.replace(key, tenant="hospital")
        return await super().history(other, count=count, before=before)


class TestTellsTheHistoryOfOthers(OnMemoryProvider):
    subject_class = TellsTheHistoryOfOthers
    caught_by = (
        "test_the_history_is_paged_from_the_newest",
        "test_what_was_never_there_has_no_history",
    )
