"""P3, P6: batches that hold each resource once, and tell of those that are damaged."""

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.memory.data_provider import MemoryDataProvider
from helios_core.storage.data_provider import Batch
from tests.testing.on_memory import OnMemoryProvider


class LosesARowPerPage(MemoryDataProvider):
    """The next page begins one row too late."""

    async def read(self, view, shard, *, batch_bytes):
        first = True
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch if first else msgspec.structs.replace(batch, lines=batch.lines[1:])
            first = False


class TestLosesARowPerPage(OnMemoryProvider):
    subject_class = LosesARowPerPage
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_shards_can_be_read_at_the_same_time",
        "test_a_resource_larger_than_a_batch_comes_alone",
        "test_reading_a_shard_again_gives_the_same",
        "test_any_history_agrees_with_the_model",
    )


class ForgetsADigest(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            digests = [xxh3_64_intdigest(line) for line in batch.lines]
            yield msgspec.structs.replace(batch, digests=[*digests[:-1], 0])


class TestForgetsADigest(OnMemoryProvider):
    subject_class = ForgetsADigest
    caught_by = ("test_digests_that_are_given_are_those_of_the_lines",)


class RepeatsARowPerPage(MemoryDataProvider):
    """The next page begins with the last row of the one before."""

    async def read(self, view, shard, *, batch_bytes):
        last = []
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield msgspec.structs.replace(batch, lines=[*last, *batch.lines])
            last = batch.lines[-1:]


class TestRepeatsARowPerPage(OnMemoryProvider):
    subject_class = RepeatsARowPerPage
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_a_batch_holds_no_more_bytes_than_requested",
    )


class ReadsEverythingAtOnce(MemoryDataProvider):
    def read(self, view, shard, *, batch_bytes):
        return super().read(view, shard, batch_bytes=1_000_000_000)


class TestReadsEverythingAtOnce(OnMemoryProvider):
    subject_class = ReadsEverythingAtOnce
    caught_by = (
        "test_a_batch_holds_no_more_bytes_than_requested",
        "test_a_resource_larger_than_a_batch_comes_alone",
    )


class DropsLargeResources(MemoryDataProvider):
    """What does not fit in a batch is left out."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            fitting = [line for line in batch.lines if len(line) <= batch_bytes]
            yield msgspec.structs.replace(batch, lines=fitting)


class TestDropsLargeResources(OnMemoryProvider):
    subject_class = DropsLargeResources
    caught_by = (
        "test_batches_cover_a_shard_exactly_once",
        "test_a_resource_larger_than_a_batch_comes_alone",
    )


class ReadsOnce(MemoryDataProvider):
    """A shard that was read is empty the next time."""

    async def read(self, view, shard, *, batch_bytes):
        seen = self.__dict__.setdefault("seen", set())
        key = (view.transaction_time, view.request.level, shard)
        if key not in seen:
            seen.add(key)
            async for batch in super().read(view, shard, batch_bytes=batch_bytes):
                yield batch


class TestReadsOnce(OnMemoryProvider):
    subject_class = ReadsOnce
    caught_by = (
        "test_reading_a_shard_again_gives_the_same",
        "test_reading_may_stop_early",
    )


class SharesACursor(MemoryDataProvider):
    """Readers that work at the same time take rows from each other."""

    async def read(self, view, shard, *, batch_bytes):
        self.reader = reader = object()
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            if self.reader is not reader:
                return
            yield batch


class TestSharesACursor(OnMemoryProvider):
    subject_class = SharesACursor
    caught_by = (
        "test_shards_can_be_read_at_the_same_time",
        "test_two_cohorts_read_at_once_do_not_mix",
    )


class PrettyPrints(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            lines = [msgspec.json.format(line, indent=0) for line in batch.lines]
            yield msgspec.structs.replace(batch, lines=lines)


class TestPrettyPrints(OnMemoryProvider):
    subject_class = PrettyPrints
    caught_by = ("test_a_line_is_the_resource_with_its_version_and_instant",)


class SkipsTheDamaged(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield Batch(lines=batch.lines)


class TestSkipsTheDamaged(OnMemoryProvider):
    subject_class = SkipsTheDamaged
    caught_by = (
        "test_a_damaged_resource_is_reported_while_others_flow",
        "test_a_damaged_resource_alone_in_its_shard_is_reported",
    )


class StopsAtTheDamaged(MemoryDataProvider):
    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            yield batch
            if batch.damaged:
                return


class TestStopsAtTheDamaged(OnMemoryProvider):
    subject_class = StopsAtTheDamaged
    caught_by = ("test_a_damaged_resource_is_reported_while_others_flow",)


class TellsOfDamageBesideALine(MemoryDataProvider):
    """A batch without lines is taken for the end."""

    async def read(self, view, shard, *, batch_bytes):
        async for batch in super().read(view, shard, batch_bytes=batch_bytes):
            if batch.lines:
                yield batch


class TestTellsOfDamageBesideALine(OnMemoryProvider):
    subject_class = TellsOfDamageBesideALine
    caught_by = ("test_a_damaged_resource_alone_in_its_shard_is_reported",)


class ShowsWhatIsLeft(MemoryDataProvider):
    """What is gone is not missed."""

    def _check(self, key):
        pass


class TestShowsWhatIsLeft(OnMemoryProvider):
    subject_class = ShowsWhatIsLeft
    caught_by = (
        "test_resources_that_are_gone_are_noticed",
        "test_a_type_that_is_gone_is_noticed",
        "test_deletions_that_are_gone_are_noticed",
    )
