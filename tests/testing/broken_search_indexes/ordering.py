"""I9: the order of values."""

from bisect import bisect_right

from msgspec.structs import replace

from helios_core.fhir.search import Extremes, ValueOrder
from helios_core.memory import MemorySearchIndex
from helios_core.storage.search_index import place_in_index
from tests.testing.on_memory import OnMemoryIndex

EVERYWHERE = (
    "test_entries_follow_each_other_by_their_values",
    "test_a_page_begins_behind_any_value",
)


class _KeepsValues(MemorySearchIndex):
    """Has values of its own instead of those that are applied."""

    async def apply(self, dataset, epoch, entries):
        await super().apply(
            dataset,
            epoch,
            [
                replace(each, values=tuple(value and self.kept(value) for value in each.values))
                for each in entries
            ],
        )

    def kept(self, value):
        return value


class KnowsTheLeast(_KeepsValues):
    """One value of several, whatever the direction."""

    def kept(self, value):
        return Extremes(value.least, value.least)


class TestKnowsTheLeast(OnMemoryIndex):
    subject_class = KnowsTheLeast
    caught_by = EVERYWHERE


class PairsExtremes(_KeepsValues):
    """The second number is the least, or the greatest, whichever value it is of."""

    def kept(self, value):
        (first, end), (last, other) = value.least, value.greatest
        return Extremes((first, min(end, other)), (last, max(end, other)))


class TestPairsExtremes(OnMemoryIndex):
    subject_class = PairsExtremes
    caught_by = ("test_entries_follow_each_other_by_their_values",)


class KeepsMilliseconds(_KeepsValues):
    def kept(self, value):
        cut = [tuple(each // 1000 * 1000 for each in own) for own in (value.least, value.greatest)]
        return Extremes(*cut)


class TestKeepsMilliseconds(OnMemoryIndex):
    subject_class = KeepsMilliseconds
    caught_by = EVERYWHERE


class ForgetsTheEnd(_KeepsValues):
    """Of what begins together, the ids decide."""

    def kept(self, value):
        return Extremes((value.least[0], 0), (value.greatest[0], 0))


class TestForgetsTheEnd(OnMemoryIndex):
    subject_class = ForgetsTheEnd
    caught_by = EVERYWHERE


class _Places(MemorySearchIndex):
    """Has an order of its own."""

    def place(self, each, order):
        return place_in_index(each, order)

    async def find(self, key, epoch, query, *, count, after=None):
        order = query.order
        if not isinstance(order, ValueOrder):
            return await super().find(key, epoch, query, count=count, after=after)
        found = sorted(
            await self._matches(key, epoch, query), key=lambda each: self.place(each, order)
        )
        places = [self.place(each, order) for each in found]
        start = 0 if after is None else bisect_right(places, self.place(after, order))
        return found[start : start + count]


class KnowsOneOrder(_Places):
    """Whatever the number is."""

    async def find(self, key, epoch, query, *, count, after=None):
        if isinstance(query.order, ValueOrder):
            query = replace(query, order=replace(query.order, number=0))
        return await super().find(key, epoch, query, count=count, after=after)


class TestKnowsOneOrder(OnMemoryIndex):
    subject_class = KnowsOneOrder
    caught_by = ("test_entries_follow_each_other_by_their_values",)


class TurnsEverythingAround(_Places):
    """Descending, what has no value comes first."""

    def place(self, each, order):
        without, *rest = place_in_index(each, order)
        return (-without if order.descending else without), *rest


class TestTurnsEverythingAround(OnMemoryIndex):
    subject_class = TurnsEverythingAround
    caught_by = (
        *EVERYWHERE,
        "test_values_order_what_satisfies_a_prefilter",
        "test_a_resource_comes_where_its_newest_values_are",
    )


class AlwaysAscends(_Places):
    def place(self, each, order):
        return place_in_index(each, replace(order, descending=False))


class TestAlwaysAscends(OnMemoryIndex):
    subject_class = AlwaysAscends
    caught_by = (
        *EVERYWHERE,
        "test_all_of_very_many_matches_are_found",
        "test_values_order_what_satisfies_a_prefilter",
        "test_a_resource_comes_where_its_newest_values_are",
    )


class LosesWhatHasNoValue(_Places):
    async def find(self, key, epoch, query, *, count, after=None):
        found = await super().find(key, epoch, query, count=count, after=after)
        ordered = isinstance(query.order, ValueOrder)
        return [each for each in found if not ordered or each.value is not None]


class TestLosesWhatHasNoValue(OnMemoryIndex):
    subject_class = LosesWhatHasNoValue
    caught_by = (
        *EVERYWHERE,
        "test_values_order_what_satisfies_a_prefilter",
        "test_a_resource_comes_where_its_newest_values_are",
    )


class BeginsBehindTheValue(_Places):
    """A position without an id is behind all that have its value."""

    async def find(self, key, epoch, query, *, count, after=None):
        if after is not None and not after.id:
            after = replace(after, id="~")
        return await super().find(key, epoch, query, count=count, after=after)


class TestBeginsBehindTheValue(OnMemoryIndex):
    subject_class = BeginsBehindTheValue
    caught_by = ("test_a_page_begins_behind_any_value",)
