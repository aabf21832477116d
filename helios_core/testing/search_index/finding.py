"""Clause I3: which entries are found."""

import itertools
import random
from collections.abc import Sequence

import pytest

from helios_core import IndexEntry, IndexQuery, SearchIndex
from helios_core.fhir import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Prefilter,
    Resource,
    SpanWithin,
    UpdatedWithin,
    from_stamp,
    satisfies,
    terms_of,
)
from helios_core.testing import corpus
from helios_core.testing.data_provider.prefilters import (
    SEARCHES,
    SEARCHES_AT_THE_ENDS,
    Pairs,
    compile_searches,
    measurements,
    measurements_at_the_ends,
)
from helios_core.testing.search_index.contract import (
    DATASET,
    EPOCH,
    NOW,
    OBSERVATIONS,
    SearchIndexContract,
    entry,
    ids,
    listed,
    seeded,
)

LOWEST, HIGHEST = -1 << 63, (1 << 63) - 1
MANY_TERMS = 70_000
"""More than some servers accept in one search."""


def entries_of(resources: Sequence[Resource]) -> list[IndexEntry]:
    """Return entries of resources, each a second later than the one before."""
    return [
        IndexEntry(
            resource_type=each.resource_type,
            id=each.id,
            version_id=1,
            updated=NOW + number * 1_000_000,
            terms=terms_of(
                each.stamped(1, from_stamp(NOW + number * 1_000_000)),
                corpus.VERSION,
                each.resource_type,
            ),
        )
        for number, each in enumerate(resources)
    ]


class FindingClauses(SearchIndexContract):
    """Finding exactly the requested entries."""

    @pytest.mark.parametrize("alternatives", SEARCHES, ids=str)
    async def test_exactly_what_satisfies_a_prefilter_is_found(
        self, begun: SearchIndex, alternatives: Sequence[Pairs]
    ) -> None:
        """I3: the same entries as `satisfies` accepts."""
        entries = entries_of(measurements())
        await begun.apply(DATASET, EPOCH, entries)
        prefilter = compile_searches(alternatives).prefilter()

        assert await ids(begun, prefilter) == _satisfying(entries, prefilter)
        query = IndexQuery(prefilter=prefilter)
        assert await begun.count(OBSERVATIONS, EPOCH, query) == len(await ids(begun, prefilter))

    async def test_dates_at_the_ends_of_time_are_found(self, begun: SearchIndex) -> None:
        """I3: in the first and the last year, with every prefix."""
        entries = entries_of(measurements_at_the_ends())
        await begun.apply(DATASET, EPOCH, entries)

        for alternatives in SEARCHES_AT_THE_ENDS:
            prefilter = compile_searches(alternatives).prefilter()
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), alternatives

    async def test_bounds_are_those_of_one_span_and_inclusive(self, begun: SearchIndex) -> None:
        """I3: not the first bound of one span and the last of another; and they have 64 bits."""
        entries = [
            entry("apart", spans=[(5, 10, 20), (5, 30, 40)]),
            entry("group", spans=[(6, 10, 40)]),
            entry("whole", spans=[(5, 10, 40)]),
            entry("widest", spans=[(5, LOWEST, HIGHEST)]),
            entry("lowest", spans=[(LOWEST, LOWEST, LOWEST)]),
            entry("highest", spans=[(HIGHEST, HIGHEST, HIGHEST)]),
            entry("none"),
        ]
        await begun.apply(DATASET, EPOCH, entries)
        bounds = (None, LOWEST, 9, 10, 11, 39, 40, 41, HIGHEST)
        prefilters = [
            SpanWithin(group=group, **{name: bound for name, bound in limits if bound is not None})
            for group in (5, 6, LOWEST, HIGHEST)
            for first, last in itertools.product(bounds, repeat=2)
            for limits in (
                [("low_from", first), ("high_to", last)],
                [("low_to", first), ("high_from", last)],
            )
        ]

        for prefilter in seeded(11).sample(prefilters, 120):
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), prefilter

    async def test_any_composition_of_prefilters_is_understood(self, begun: SearchIndex) -> None:
        """I3: of every kind, nested, empty, and with the extremes of 64 bits."""
        chance = seeded(5)
        entries = [
            entry(
                f"o{number}",
                terms=chance.sample((LOWEST, -1, 0, 1, 2, 3, HIGHEST), 2),
                spans=[(chance.randrange(3), first := chance.randrange(50), first + 10)],
                updated=NOW + number,
            )
            for number in range(40)
        ]
        await begun.apply(DATASET, EPOCH, entries)
        nothing: list[Prefilter] = [
            AnyTerm(frozenset()),
            AnyId(frozenset()),
            AnyId(frozenset({"o", "O1"})),
        ]

        for prefilter in [*nothing, *(_composition(chance, 3) for _ in range(60))]:
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), prefilter

    async def test_a_prefilter_may_have_very_many_terms_and_ids(self, begun: SearchIndex) -> None:
        """I3: more than a server accepts in one condition, also when combined."""
        await begun.apply(
            DATASET, EPOCH, [entry("a", terms=[MANY_TERMS - 1]), entry("b", terms=[-1])]
        )
        terms = AnyTerm(frozenset(range(MANY_TERMS)))
        names = AnyId(frozenset(f"n{number}" for number in range(MANY_TERMS)) | {"b"})

        assert await ids(begun, terms) == ["a"]
        assert await ids(begun, names) == ["b"]
        assert await ids(begun, AllOf((terms, names))) == []
        assert await ids(begun, AnyOf((terms, names))) == ["a", "b"]

    async def test_an_entry_may_have_very_many_terms_and_spans(self, begun: SearchIndex) -> None:
        """I3: a resource of fifty megabytes is found by each of its values."""
        spans = [(1, number, number + 1) for number in range(12_000)]
        await begun.apply(
            DATASET, EPOCH, [entry("large", terms=range(MANY_TERMS), spans=spans), entry("small")]
        )

        for number in (0, 1, 9_999, 10_000, 11_999):
            assert await ids(begun, AnyTerm(frozenset({number}))) == ["large"]
            span = SpanWithin(group=1, low_from=number, low_to=number)
            assert await ids(begun, span) == ["large"]
        assert await ids(begun) == ["large", "small"]

    async def test_what_changed_later_is_found_whatever_it_is(self, begun: SearchIndex) -> None:
        """I3: including deletions and entries that do not satisfy the prefilter; exclusive."""
        await begun.apply(
            DATASET,
            EPOCH,
            [
                entry("live-before", 1, terms=[1], updated=NOW),
                entry("other-before", 1, terms=[2], updated=NOW),
                entry("deleted-before", 2, deleted=True, updated=NOW),
                entry("live-after", 1, terms=[1], updated=NOW + 1),
                entry("other-after", 1, terms=[2], updated=NOW + 1),
                entry("deleted-after", 2, deleted=True, updated=NOW + 1),
            ],
        )
        query = IndexQuery(prefilter=AnyTerm(frozenset({1})), changed_after=NOW)

        found = await listed(begun, query)

        assert [(each.id, each.deleted) for each in found] == [
            ("deleted-after", True),
            ("live-after", False),
            ("live-before", False),
            ("other-after", False),
        ]
        assert [each.updated - NOW for each in found] == [1, 1, 0, 1]
        assert [each.version_id for each in found] == [2, 1, 1, 1]
        assert await begun.count(OBSERVATIONS, EPOCH, query) == 4
        everything = await listed(begun, IndexQuery(changed_after=NOW))
        assert len(everything) == 5


def _satisfying(entries: Sequence[IndexEntry], prefilter: Prefilter | None) -> list[str]:
    return sorted(
        each.id
        for each in entries
        if each.terms is not None
        and (
            prefilter is None
            or satisfies(prefilter, each.terms, resource_id=each.id, updated=each.updated)
        )
    )


def _composition(chance: random.Random, depth: int) -> Prefilter:
    """Return a random prefilter."""
    if depth and chance.random() < 0.6:
        parts = tuple(_composition(chance, depth - 1) for _ in range(chance.randint(1, 3)))
        return AllOf(parts) if chance.random() < 0.5 else AnyOf(parts)
    match chance.randrange(4):
        case 0:
            return AnyTerm(frozenset(chance.sample((LOWEST, -1, 0, 1, 2, 3, HIGHEST), 2)))
        case 1:
            first = chance.randrange(50)
            return SpanWithin(group=chance.randrange(3), low_from=first, high_to=first + 25)
        case 2:
            return AnyId(frozenset(f"o{chance.randrange(50)}" for _ in range(15)))
        case _:
            first = NOW + chance.randrange(40)
            last = chance.choice((None, first + 15))
            return UpdatedWithin(since=chance.choice((None, first)), until=last)
