"""SupportsRecords: what is kept for plugins."""

import asyncio
from datetime import timedelta

from helios_core import Record
from helios_core.memory.job_store import MemoryJobStore
from tests.testing.on_memory import OnMemoryJobs


class OverwritesRecords(MemoryJobStore):
    async def insert_record(self, namespace, key, value, *, keep_for=None):
        await self.delete_record(namespace, key)
        return await super().insert_record(namespace, key, value, keep_for=keep_for)


class TestOverwritesRecords(OnMemoryJobs):
    subject_class = OverwritesRecords
    caught_by = ("test_a_record_is_inserted_only_where_none_is",)


class LooksBeforeInserting(MemoryJobStore):
    """Whether there is a record is asked in one transaction, and it is stored in another."""

    async def insert_record(self, namespace, key, value, *, keep_for=None):
        if await self.record(namespace, key) is not None:
            return False
        await asyncio.sleep(0)
        await self.delete_record(namespace, key)
        return await super().insert_record(namespace, key, value, keep_for=keep_for)


class TestLooksBeforeInserting(OnMemoryJobs):
    subject_class = LooksBeforeInserting
    caught_by = ("test_of_several_inserts_at_once_one_stores",)


class ReplacesWhateverIsThere(MemoryJobStore):
    async def replace_record(self, namespace, key, expected, value):
        current = await self.record(namespace, key)
        return await super().replace_record(namespace, key, current or expected, value)


class TestReplacesWhateverIsThere(OnMemoryJobs):
    subject_class = ReplacesWhateverIsThere
    caught_by = ("test_a_record_is_replaced_only_if_it_is_as_expected",)


class LooksBeforeReplacing(MemoryJobStore):
    async def replace_record(self, namespace, key, expected, value):
        if await self.record(namespace, key) != expected:
            return False
        await asyncio.sleep(0)
        current = await self.record(namespace, key)
        return await super().replace_record(namespace, key, current, value)


class TestLooksBeforeReplacing(OnMemoryJobs):
    subject_class = LooksBeforeReplacing
    caught_by = ("test_of_several_replacements_at_once_one_is_made",)


class KeepsExpiredRecords(MemoryJobStore):
    async def insert_record(self, namespace, key, value, *, keep_for=None):
        return await super().insert_record(namespace, key, value)


class TestKeepsExpiredRecords(OnMemoryJobs):
    subject_class = KeepsExpiredRecords
    caught_by = ("test_a_record_is_there_for_its_time_and_no_longer",)


class KeepsEverythingForADay(MemoryJobStore):
    async def insert_record(self, namespace, key, value, *, keep_for=None):
        return await super().insert_record(
            namespace, key, value, keep_for=keep_for or timedelta(days=1)
        )


class TestKeepsEverythingForADay(OnMemoryJobs):
    subject_class = KeepsEverythingForADay
    caught_by = ("test_a_record_without_a_time_stays",)


class ForgetsTheTimeOfWhatIsReplaced(MemoryJobStore):
    async def replace_record(self, namespace, key, expected, value):
        replaced = await super().replace_record(namespace, key, expected, value)
        if replaced:
            self._records[namespace, key].until = None
        return replaced


class TestForgetsTheTimeOfWhatIsReplaced(OnMemoryJobs):
    subject_class = ForgetsTheTimeOfWhatIsReplaced
    caught_by = ("test_a_change_does_not_prolong_a_record",)


class FoldsCase(MemoryJobStore):
    async def insert_record(self, namespace, key, value, *, keep_for=None):
        return await super().insert_record(
            namespace.lower(), key.lower(), value, keep_for=keep_for
        )

    async def record(self, namespace, key):
        return await super().record(namespace.lower(), key.lower())


class TestFoldsCase(OnMemoryJobs):
    subject_class = FoldsCase
    caught_by = (
        "test_namespaces_do_not_see_each_other",
        "test_records_are_listed_by_the_characters_of_their_keys",
    )


class ListsByPrefix(MemoryJobStore):
    """What a plugin finds is in namespaces that begin like its own, too."""

    async def records(self, namespace, *, after="", limit=100):
        found = [
            Record(key=key, value=kept.value)
            for (space, key), kept in sorted(self._records.items())
            if space.startswith(namespace) and key > after
        ]
        return found[:limit]


class TestListsByPrefix(OnMemoryJobs):
    subject_class = ListsByPrefix
    caught_by = ("test_records_are_listed_by_the_characters_of_their_keys",)


class BeginsPagesWithTheLastKey(MemoryJobStore):
    async def records(self, namespace, *, after="", limit=100):
        found = await super().records(namespace, limit=1_000_000)
        return [record for record in found if record.key >= after][:limit]


class TestBeginsPagesWithTheLastKey(OnMemoryJobs):
    subject_class = BeginsPagesWithTheLastKey
    caught_by = ("test_records_are_listed_by_the_characters_of_their_keys",)


class StoresText(MemoryJobStore):
    """Values go through a text, which ends at the first zero."""

    async def replace_record(self, namespace, key, expected, value):
        return await super().replace_record(namespace, key, expected, value.partition(b"\0")[0])


class TestStoresText(OnMemoryJobs):
    subject_class = StoresText
    caught_by = ("test_a_value_is_any_bytes",)
