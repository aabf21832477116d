"""P2: shards that cover a view, in the size that was asked for."""

import msgspec

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.model.exports import Shard
from tests.testing.broken_data_providers.asking import asking
from tests.testing.on_memory import OnMemoryProvider


class OverlapsShards(MemoryDataProvider):
    """The end of a range is taken in."""

    def read(self, view, shard, *, batch_bytes):
        end = None if shard.end is None else shard.end + "!"
        shard = msgspec.structs.replace(shard, end=end)
        return super().read(view, shard, batch_bytes=batch_bytes)


class TestOverlapsShards(OnMemoryProvider):
    subject_class = OverlapsShards
    caught_by = (
        "test_shards_cover_a_view_exactly_once",
        "test_shards_can_be_read_at_the_same_time",
        "test_planning_the_past_covers_the_past",
        "test_any_history_agrees_with_the_model",
    )


class BoundsTheLastShard(MemoryDataProvider):
    """The last range ends before the last resource."""

    async def plan(self, view, *, shard_bytes):
        shards = await super().plan(view, shard_bytes=shard_bytes)
        bounds = [
            change.stored.id for kind in view.request.types for change in self._changes(view, kind)
        ]
        return [
            msgspec.structs.replace(shard, end=max(bounds)) if shard.end is None else shard
            for shard in shards
        ]


class TestBoundsTheLastShard(OnMemoryProvider):
    subject_class = BoundsTheLastShard
    caught_by = ("test_shards_cover_a_view_exactly_once",)


class NumbersByType(MemoryDataProvider):
    async def plan(self, view, *, shard_bytes):
        shards = await super().plan(view, shard_bytes=shard_bytes)
        return [msgspec.structs.replace(each, number=each.ordinal - 1) for each in shards]


class TestNumbersByType(OnMemoryProvider):
    subject_class = NumbersByType
    caught_by = ("test_shards_are_numbered_in_the_order_of_the_types",)


class PlansOneShardPerType(MemoryDataProvider):
    async def plan(self, view, *, shard_bytes):
        return await super().plan(view, shard_bytes=1_000_000_000)


class TestPlansOneShardPerType(OnMemoryProvider):
    subject_class = PlansOneShardPerType
    caught_by = ("test_shards_are_sized_by_bytes",)


class PlansByReading(MemoryDataProvider):
    """Planning reads the whole store first."""

    async def plan(self, view, *, shard_bytes):
        changes = [each for kind in view.request.types for each in self._changes(view, kind)]
        copies = [bytes(bytearray(change.stored.content or b"")) for change in changes]
        shards = await super().plan(view, shard_bytes=shard_bytes)
        return shards if copies else []


class TestPlansByReading(OnMemoryProvider):
    subject_class = PlansByReading
    caught_by = ("test_planning_does_not_load_the_contents",)


class PlansEveryType(MemoryDataProvider):
    """There is a shard for a type, whether there is anything of it or not."""

    async def plan(self, view, *, shard_bytes):
        everything = [
            shard
            for place, kind in enumerate(view.request.types)
            for shard in (
                await super().plan(asking(view, types=(kind,)), shard_bytes=shard_bytes)
                or [_shard(kind)]
            )
        ]
        return [
            msgspec.structs.replace(shard, number=number)
            for number, shard in enumerate(everything)
        ]


def _shard(kind):
    return Shard(number=0, resource_type=kind, ordinal=1)


class TestPlansEveryType(OnMemoryProvider):
    subject_class = PlansEveryType
    caught_by = (
        "test_an_empty_store_has_no_shards",
        "test_a_type_nothing_is_stored_of_has_no_shards",
        "test_an_empty_cohort_has_no_shards",
        "test_nothing_changed_since_has_no_shards",
    )
