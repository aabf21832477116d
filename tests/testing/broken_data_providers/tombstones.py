"""SupportsTombstones: deletions since an instant."""

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.memory.versions import current_version, is_shown
from helios_core.storage.resource_keys import TypeKey
from tests.testing.on_memory import OnMemoryProvider


class LosesTombstones(MemoryDataProvider):
    """Deleted resources are gone without a trace."""

    async def read_deleted(self, view, shard, *, batch_rows):
        for nothing in ():
            yield nothing


class TestLosesTombstones(OnMemoryProvider):
    subject_class = LosesTombstones
    caught_by = (
        "test_deletions_since_are_named",
        "test_deletions_are_named_by_level",
        "test_shards_cover_deletions_exactly_once",
        "test_chained_exports_rebuild_the_final_state",
        "test_any_history_agrees_with_the_model",
    )


class PlansNoDeletions(MemoryDataProvider):
    """A type of which only deletions are left has no shard."""

    def _plannable(self, view, resource_type):
        return (c for c in super()._plannable(view, resource_type) if c.content is not None)


class TestPlansNoDeletions(OnMemoryProvider):
    subject_class = PlansNoDeletions
    caught_by = (
        "test_deletions_since_are_named",
        "test_shards_cover_deletions_exactly_once",
    )


class NamesDeletionsWithoutSince(MemoryDataProvider):
    async def read_deleted(self, view, shard, *, batch_rows):
        changes = self._changes(view, shard.resource_type, shard)
        ids = [change.stored.id for change in changes if change.stored.content is None]
        for start in range(0, len(ids), batch_rows):
            yield ids[start : start + batch_rows]


class TestNamesDeletionsWithoutSince(OnMemoryProvider):
    subject_class = NamesDeletionsWithoutSince
    caught_by = ("test_without_since_nothing_is_named",)


class NamesWhatCameBack(MemoryDataProvider):
    """Whatever was deleted since is named, though it was written again."""

    async def read_deleted(self, view, shard, *, batch_rows):
        key = TypeKey.of(view.request, shard.resource_type)
        for resource_id, versions in self._collections[key].items():
            deletions = [v for v in versions if v.stored.content is None and is_shown(view, v)]
            past = current_version(deletions, view.transaction_time)
            if view.request.since is not None and past is not None:
                yield [resource_id]


class TestNamesWhatCameBack(OnMemoryProvider):
    subject_class = NamesWhatCameBack
    caught_by = ("test_what_was_written_again_is_not_named",)


class NamesAllDeletionsAtOnce(MemoryDataProvider):
    def read_deleted(self, view, shard, *, batch_rows):
        return super().read_deleted(view, shard, batch_rows=1_000_000)


class TestNamesAllDeletionsAtOnce(OnMemoryProvider):
    subject_class = NamesAllDeletionsAtOnce
    caught_by = ("test_deletions_come_in_rows_of_limited_number",)


class LooksForDeletionsWhileReading(MemoryDataProvider):
    async def read_deleted(self, view, shard, *, batch_rows):
        key = TypeKey.of(view.request, shard.resource_type)
        async for ids in super().read_deleted(view, shard, batch_rows=batch_rows):
            versions = self._collections[key]
            yield [each for each in ids if versions[each][-1].stored.content is None]


class TestLooksForDeletionsWhileReading(OnMemoryProvider):
    subject_class = LooksForDeletionsWhileReading
    caught_by = ("test_deletions_while_reading_are_not_named",)
