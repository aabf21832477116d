"""Clauses I4 and I9: the order of entries, and their pages."""

from collections.abc import Sequence

import pytest

from helios_core import IndexedVersion, IndexEntry, IndexQuery, SearchIndex, SortOrder
from helios_core.fhir import MAX_VALUE_ORDERS, AnyTerm, Extremes, ValueOrder
from helios_core.testing.search_index.contract import (
    DATASET,
    EPOCH,
    NOW,
    OBSERVATIONS,
    SearchIndexContract,
    entry,
    listed,
)

MANY_HITS = 10_500
"""More than some servers return from one search."""
LOWEST, HIGHEST = -1 << 62, 1 << 62
LAST = MAX_VALUE_ORDERS - 1
"""The number of the last order of values."""
WITH_VALUES = {
    "lowest": Extremes((LOWEST, LOWEST), (LOWEST, LOWEST)),
    "end-a": Extremes((-5, 9), (-5, 9)),
    "end-b": Extremes((-5, 8), (-5, 8)),
    "Same": Extremes((0, 1), (0, 1)),
    "same": Extremes((0, 1), (0, 1)),
    # The second numbers are those of the least and of the greatest value, not extremes themselves.
    "several": Extremes((-7, 100), (3, 4)),
    "begins": Extremes((-5, 7), (-5, 20)),
    "micro": Extremes((NOW, NOW), (NOW, NOW)),
    "next": Extremes((NOW + 1, NOW + 1), (NOW + 1, NOW + 1)),
    "highest": Extremes((0, HIGHEST), (HIGHEST, HIGHEST)),
}
"""By id, the values by which resources are ordered."""
ASCENDING = [
    "lowest",
    "several",
    "begins",
    "end-b",
    "end-a",
    "Same",
    "same",
    "highest",
    "micro",
    "next",
]
DESCENDING = [
    "highest",
    "next",
    "micro",
    "several",
    "Same",
    "same",
    "begins",
    "end-a",
    "end-b",
    "lowest",
]
WITHOUT_VALUE = ["Z", "none", "other"]
"""The ids that come last in either direction, in their order."""

either_direction = pytest.mark.parametrize("descending", [False, True])


class PageClauses(SearchIndexContract):
    """Reading all entries page by page, in every order."""

    async def test_all_of_very_many_matches_are_found(self, begun: SearchIndex) -> None:
        """I3, I4, I9: more than a server returns from one search; they are counted, too."""
        names = [f"o{number:05}" for number in range(MANY_HITS)]
        await begun.apply(
            DATASET,
            EPOCH,
            [
                entry(name, terms=[1], updated=NOW + n, values=[Extremes((n, n), (n, n))])
                for n, name in enumerate(names)
            ],
        )

        prefilter = AnyTerm(frozenset({1}))
        for order in (*SortOrder, ValueOrder(number=0), ValueOrder(number=0, descending=True)):
            query = IndexQuery(prefilter=prefilter, order=order)
            found = [each.id for each in await listed(begun, query)]
            assert found == (names[::-1] if _descends(order) else names)
        query = IndexQuery(prefilter=prefilter)
        assert await begun.count(OBSERVATIONS, EPOCH, query) == MANY_HITS
        assert await begun.size(DATASET, EPOCH) == MANY_HITS

    @pytest.mark.parametrize("count", [1, 3, 7, 100])
    @pytest.mark.parametrize("order", [*SortOrder])
    async def test_pages_cover_what_is_found_exactly_once_in_order(
        self, begun: SearchIndex, order: SortOrder, count: int
    ) -> None:
        """I4: of one instant by id, ascending in either order of instants."""
        names = [f"{letter}{number}" for letter in "bBaA-." for number in range(4)]
        entries = [
            entry(name, terms=[1], updated=NOW + number // 5) for number, name in enumerate(names)
        ]
        await begun.apply(DATASET, EPOCH, [*entries, entry("x", 2, deleted=True)])

        found = await listed(begun, IndexQuery(order=order), count=count)

        by_id = sorted(entries, key=lambda each: each.id, reverse=order == "-_id")
        if order in {SortOrder.LAST_UPDATED, SortOrder.LAST_UPDATED_DESCENDING}:
            by_id.sort(key=lambda each: each.updated, reverse=order.startswith("-"))
        assert [each.id for each in found] == [each.id for each in by_id]

    @pytest.mark.parametrize("order", [*SortOrder])
    async def test_a_page_begins_behind_any_position(
        self, begun: SearchIndex, order: SortOrder
    ) -> None:
        """I4: also one at which there is no entry; the version does not matter."""
        await begun.apply(
            DATASET, EPOCH, [entry(f"o{number}", updated=NOW + number * 10) for number in range(5)]
        )
        position = IndexedVersion(id="o2x", version_id=0, updated=NOW + 25, deleted=True)

        page = await begun.find(
            OBSERVATIONS, EPOCH, IndexQuery(order=order), count=10, after=position
        )

        behind = ["o2", "o1", "o0"] if order.startswith("-") else ["o3", "o4"]
        assert [each.id for each in page] == behind

    @pytest.mark.parametrize("order", [*SortOrder])
    async def test_pages_stay_whole_while_entries_are_applied(
        self, begun: SearchIndex, order: SortOrder
    ) -> None:
        """I4: unchanged entries are found once; in the order of ids, changed ones as well."""
        names = [f"o{number:02}" for number in range(40)]
        await begun.apply(
            DATASET, EPOCH, [entry(name, updated=NOW + n) for n, name in enumerate(names)]
        )
        changed = names[::5]
        found, after = list[str](), None
        for number in range(100):
            page = await begun.find(
                OBSERVATIONS, EPOCH, IndexQuery(order=order), count=3, after=after
            )
            found += [each.id for each in page]
            if len(page) < 3:
                break
            after = page[-1]
            again = entry(changed[number % len(changed)], number + 2, updated=NOW + 1000 + number)
            await begun.apply(DATASET, EPOCH, [again])

        steady = [name for name in names if name not in changed]
        assert sorted(name for name in found if name not in changed) == steady
        if order in {SortOrder.ID, SortOrder.ID_DESCENDING}:
            assert sorted(found) == names

    @pytest.mark.parametrize("number", [0, LAST])
    @pytest.mark.parametrize("count", [1, 4, 100])
    @either_direction
    async def test_entries_follow_each_other_by_their_values(
        self, begun: SearchIndex, *, descending: bool, count: int, number: int
    ) -> None:
        """I9: by both numbers of the least or greatest value, then by id; others are last."""
        await begun.apply(DATASET, EPOCH, _with_values(number))
        query = IndexQuery(order=ValueOrder(number=number, descending=descending))

        found = await listed(begun, query, count=count)

        ordered = DESCENDING if descending else ASCENDING
        assert [each.id for each in found] == [*ordered, *WITHOUT_VALUE]
        values = [WITH_VALUES[name] for name in ordered]
        firsts = [each.greatest if descending else each.least for each in values]
        assert [each.value for each in found] == [*firsts, None, None, None]
        assert await begun.count(OBSERVATIONS, EPOCH, query) == len(found)

    @either_direction
    async def test_values_order_what_satisfies_a_prefilter(
        self, begun: SearchIndex, *, descending: bool
    ) -> None:
        """I3, I9: and those that changed later, deletions last."""
        values = [Extremes((n, n), (n, n)) for n in range(6)]
        unchanged = [
            entry(f"o{n}", terms=[n % 2], values=[value], updated=NOW)
            for n, value in enumerate(values)
        ]
        changed = entry("changed", 2, terms=[1], values=[values[3]], updated=NOW + 1)
        deleted = entry("deleted", 2, deleted=True, updated=NOW + 1)
        await begun.apply(DATASET, EPOCH, [*unchanged, changed, deleted])
        order = ValueOrder(number=0, descending=descending)
        even = AnyTerm(frozenset({0}))

        found = await listed(begun, IndexQuery(prefilter=even, order=order))
        later = await listed(begun, IndexQuery(prefilter=even, order=order, changed_after=NOW))

        live = ["o4", "o2", "o0"] if descending else ["o0", "o2", "o4"]
        assert [each.id for each in found] == live
        index = 1 if descending else 2
        expected = [*live[:index], "changed", *live[index:], "deleted"]
        assert [each.id for each in later] == expected

    @either_direction
    async def test_a_page_begins_behind_any_value(
        self, begun: SearchIndex, *, descending: bool
    ) -> None:
        """I9: also after one that no entry has, before all ids of one, and among those without."""
        await begun.apply(DATASET, EPOCH, _with_values(0))
        ordered = [*(DESCENDING if descending else ASCENDING), *WITHOUT_VALUE]
        query = IndexQuery(order=ValueOrder(number=0, descending=descending))

        for value, resource_id, first in (
            ((1, 1), "x", "Same" if descending else "micro"),
            ((0, 1), "", "Same"),
            ((0, 1), "Same", "same"),
            ((0, 1), "T", "same"),
            ((-5, 8), "", "end-b"),
            ((LOWEST, LOWEST), "lowest", "Z" if descending else "several"),
            ((HIGHEST, HIGHEST), "highest", "next" if descending else "Z"),
            (None, "", "Z"),
            (None, "no", "none"),
        ):
            position = IndexedVersion(
                id=resource_id, version_id=0, updated=0, deleted=False, value=value
            )
            page = await begun.find(OBSERVATIONS, EPOCH, query, count=20, after=position)
            behind = ordered[ordered.index(first) :]
            assert [each.id for each in page] == behind, (value, resource_id)

    @either_direction
    async def test_a_resource_comes_where_its_newest_values_are(
        self, begun: SearchIndex, *, descending: bool
    ) -> None:
        """I1, I9: and nowhere else, with or without a value."""
        still = Extremes((2, 2), (2, 2))
        for version in (1, 3, 2):
            moved = Extremes((version, version), (version, version))
            await begun.apply(DATASET, EPOCH, [entry("moved", version, values=[moved])])
        await begun.apply(DATASET, EPOCH, [entry("was", values=[still]), entry("is")])
        await begun.apply(DATASET, EPOCH, [entry("was", 2), entry("is", 2, values=[still])])

        order = ValueOrder(number=0, descending=descending)
        found = await listed(begun, IndexQuery(order=order), count=2)

        first = ["moved", "is"] if descending else ["is", "moved"]
        assert [each.id for each in found] == [*first, "was"]


def _descends(order: SortOrder | ValueOrder) -> bool:
    return order.descending if isinstance(order, ValueOrder) else order.startswith("-")


def _with_values(number: int) -> Sequence[IndexEntry]:
    """Return entries with values in one order, and three without."""
    before = [None] * number
    other = Extremes((0, 0), (0, 0))
    return [
        *(entry(name, values=[*before, value]) for name, value in WITH_VALUES.items()),
        entry("none"),
        entry("Z", values=[*before, None]),
        entry("other", values=[other] if number else [None, other]),
    ]
