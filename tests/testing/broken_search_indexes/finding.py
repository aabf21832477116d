"""I3, I4: what is found, in which order and on which pages."""

from msgspec.structs import replace

from helios_core.fhir.search import AllOf, AnyId, AnyOf, AnyTerm, SpanWithin
from helios_core.memory import MemorySearchIndex
from helios_core.storage.data_provider import SortOrder
from tests.testing.on_memory import OnMemoryIndex


class _Reads(MemorySearchIndex):
    """Understands queries in its own way."""

    def read(self, query):
        return query

    async def find(self, key, epoch, query, *, count, after=None):
        return await super().find(key, epoch, self.read(query), count=count, after=after)

    async def count(self, key, epoch, query):
        return await super().count(key, epoch, self.read(query))


class _Translates(_Reads):
    """Has conditions of its own for those of prefilters."""

    def read(self, query):
        return replace(query, prefilter=query.prefilter and self.translate(query.prefilter))

    def translate(self, prefilter):
        match prefilter:
            case AllOf(parts):
                return AllOf(tuple(map(self.translate, parts)))
            case AnyOf(parts):
                return AnyOf(tuple(map(self.translate, parts)))
        return self.leaf(prefilter)

    def leaf(self, prefilter):
        return prefilter


class FindsEverything(_Reads):
    def read(self, query):
        return replace(query, prefilter=None)


class TestFindsEverything(OnMemoryIndex):
    subject_class = FindsEverything
    caught_by = (
        "test_the_highest_version_stays_in_any_order",
        "test_exactly_what_satisfies_a_prefilter_is_found",
        "test_dates_at_the_ends_of_time_are_found",
        "test_bounds_are_those_of_one_span_and_inclusive",
        "test_any_composition_of_prefilters_is_understood",
        "test_a_prefilter_may_have_very_many_terms_and_ids",
        "test_an_entry_may_have_very_many_terms_and_spans",
        "test_what_changed_later_is_found_whatever_it_is",
        "test_an_index_that_is_down_says_so",
    )


class KnowsOneKindOfList(_Translates):
    """Any of several is all of them."""

    def translate(self, prefilter):
        if isinstance(prefilter, AnyOf):
            prefilter = AllOf(prefilter.parts)
        return super().translate(prefilter)


class TestKnowsOneKindOfList(OnMemoryIndex):
    subject_class = KnowsOneKindOfList
    caught_by = (
        "test_exactly_what_satisfies_a_prefilter_is_found",
        "test_any_composition_of_prefilters_is_understood",
        "test_a_prefilter_may_have_very_many_terms_and_ids",
        "test_an_index_that_is_down_says_so",
    )


class TakesSomeTerms(_Translates):
    """A server takes so many terms in one condition."""

    def leaf(self, prefilter):
        match prefilter:
            case AnyTerm(terms):
                return AnyTerm(frozenset(sorted(terms)[:65_536]))
            case AnyId(ids):
                return AnyId(frozenset(sorted(ids, reverse=True)[:65_536]))
        return prefilter


class TestTakesSomeTerms(OnMemoryIndex):
    subject_class = TakesSomeTerms
    caught_by = (
        "test_a_prefilter_may_have_very_many_terms_and_ids",
        "test_an_index_that_is_down_says_so",
    )


class HasNoLastYear(_Translates):
    """Its dates end with the year 9998."""

    def leaf(self, prefilter):
        last = 253_370_764_800_000_000
        if isinstance(prefilter, SpanWithin) and (prefilter.high_from or 0) > last:
            return replace(prefilter, high_from=last, low_from=None)
        return prefilter


class TestHasNoLastYear(OnMemoryIndex):
    subject_class = HasNoLastYear
    caught_by = (
        "test_dates_at_the_ends_of_time_are_found",
        "test_an_index_that_is_down_says_so",
    )


def _with_terms(entries, change):
    """Return entries with the terms that `change` makes of theirs; deletions have none."""
    return [
        each if each.terms is None else replace(each, terms=change(each.terms)) for each in entries
    ]


class KeepsSomeSpans(MemorySearchIndex):
    """A server takes so many spans of one resource."""

    async def apply(self, dataset, epoch, entries):
        await super().apply(dataset, epoch, _with_terms(entries, _first_spans))


class TestKeepsSomeSpans(OnMemoryIndex):
    subject_class = KeepsSomeSpans
    caught_by = (
        "test_an_entry_may_have_very_many_terms_and_spans",
        "test_an_index_that_is_down_says_so",
    )


def _first_spans(terms):
    return replace(terms, spans=terms.spans[:10_000])


class MixesSpans(MemorySearchIndex):
    """The first of one span and the last of another are a span."""

    async def apply(self, dataset, epoch, entries):
        await super().apply(dataset, epoch, _with_terms(entries, _all_pairs))


class TestMixesSpans(OnMemoryIndex):
    subject_class = MixesSpans
    caught_by = (
        "test_bounds_are_those_of_one_span_and_inclusive",
        "test_an_index_that_is_down_says_so",
    )


def _all_pairs(terms):
    few = terms.spans[:10]
    pairs = [(g, low, high) for g, low, _ in few for other, _, high in few if g == other]
    return replace(terms, spans=(*pairs, *terms.spans[10:]))


class ShowsTenThousand(MemorySearchIndex):
    """A server shows so many hits of one search."""

    async def _matches(self, key, epoch, query):
        return (await super()._matches(key, epoch, query))[:10_000]


class TestShowsTenThousand(OnMemoryIndex):
    subject_class = ShowsTenThousand
    caught_by = (
        "test_all_of_very_many_matches_are_found",
        "test_an_index_that_is_down_says_so",
    )


class ForgetsWhatWasDeletedLater(MemorySearchIndex):
    async def _matches(self, key, epoch, query):
        return [each for each in await super()._matches(key, epoch, query) if not each.deleted]


class TestForgetsWhatWasDeletedLater(OnMemoryIndex):
    subject_class = ForgetsWhatWasDeletedLater
    caught_by = (
        "test_what_changed_later_is_found_whatever_it_is",
        "test_types_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )


class FindsTheInstantItself(_Reads):
    def read(self, query):
        after = query.changed_after
        return replace(query, changed_after=None if after is None else after - 1)


class TestFindsTheInstantItself(OnMemoryIndex):
    subject_class = FindsTheInstantItself
    caught_by = (
        "test_what_changed_later_is_found_whatever_it_is",
        "test_an_index_that_is_down_says_so",
    )


class CountsLiveOnes(MemorySearchIndex):
    async def count(self, key, epoch, query):
        return await super().count(key, epoch, replace(query, changed_after=None))


class TestCountsLiveOnes(OnMemoryIndex):
    subject_class = CountsLiveOnes
    caught_by = (
        "test_what_changed_later_is_found_whatever_it_is",
        "test_an_index_that_is_down_says_so",
    )


class SortsLikeWords(MemorySearchIndex):
    """Ids that differ in the case of their letters stand together."""

    async def find(self, key, epoch, query, *, count, after=None):
        every = sorted(
            await super().find(key, epoch, query, count=1 << 30),
            key=lambda each: each.id.casefold(),
            reverse=query.order is SortOrder.ID_DESCENDING,
        )
        if query.order not in {SortOrder.ID, SortOrder.ID_DESCENDING}:
            every.sort(
                key=lambda each: each.updated,
                reverse=query.order is SortOrder.LAST_UPDATED_DESCENDING,
            )
        ids = [each.id for each in every]
        start = ids.index(after.id) + 1 if after and after.id in ids else 0
        return every[start : start + count]


class TestSortsLikeWords(OnMemoryIndex):
    subject_class = SortsLikeWords
    caught_by = (
        "test_pages_cover_what_is_found_exactly_once_in_order",
        "test_a_page_begins_behind_any_position",
        "test_pages_stay_whole_while_entries_are_applied",
        "test_an_index_that_is_down_says_so",
    )


class NeedsThePosition(MemorySearchIndex):
    """A page begins behind an entry only."""

    async def find(self, key, epoch, query, *, count, after=None):
        every = list(await super().find(key, epoch, query, count=1 << 30))
        start = 0 if after is None else every.index(after) + 1
        return every[start : start + count]


class TestNeedsThePosition(OnMemoryIndex):
    subject_class = NeedsThePosition
    caught_by = (
        "test_a_page_begins_behind_any_position",
        "test_pages_stay_whole_while_entries_are_applied",
        "test_an_index_that_is_down_says_so",
    )


class PagesByOffset(MemorySearchIndex):
    """Entries that are moved take others with them onto another page."""

    def __init__(self):
        super().__init__()
        self._offset = 0

    async def find(self, key, epoch, query, *, count, after=None):
        every = list(await super().find(key, epoch, query, count=1 << 30))
        start = 0 if after is None else self._offset
        self._offset = start + count
        return every[start : start + count]


class TestPagesByOffset(OnMemoryIndex):
    subject_class = PagesByOffset
    caught_by = (
        "test_a_page_begins_behind_any_position",
        "test_pages_stay_whole_while_entries_are_applied",
        "test_an_index_that_is_down_says_so",
    )


class FindsNoTypes(MemorySearchIndex):
    """Entries with one id are one, whatever their types."""

    def _of_type(self, key, epoch):
        return [
            each
            for name in ("Patient", "Group", "Observation")
            for each in super(FindsNoTypes, self)._of_type(replace(key, resource_type=name), epoch)
        ]


class TestFindsNoTypes(OnMemoryIndex):
    subject_class = FindsNoTypes
    caught_by = (
        "test_types_are_kept_apart",
        "test_an_index_that_is_down_says_so",
    )
