"""The contract suite of search indexes: clauses I1 to I8 of `SearchIndex`."""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import ClassVar

import pytest

from helios_core import (
    BackendUnavailable,
    IndexedVersion,
    IndexEntry,
    IndexQuery,
    IndexScope,
    IndexState,
    SearchIndex,
    SortOrder,
)
from helios_core.fhir import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    FHIRVersion,
    IndexTerms,
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
from helios_core.testing.suites import ContractSuite

SCOPE = IndexScope(corpus.TENANT, corpus.VERSION)
"""The scope of most tests."""
OTHER_SCOPES = {
    "another tenant": IndexScope(corpus.OTHER_TENANT, corpus.VERSION),
    "a tenant whose name begins alike": IndexScope(f"{corpus.TENANT}-2", corpus.VERSION),
    "a tenant in other letters": IndexScope(corpus.TENANT.upper(), corpus.VERSION),
    "another FHIR version": IndexScope(corpus.TENANT, FHIRVersion.R5),
}
EPOCH = "1-first"
NEXT_EPOCH = "1-second"
OBSERVATIONS = SCOPE.type("Observation")
NOW = 1_790_000_000_123_456
"""About when the resources of the tests were written, in microseconds since 1970."""
LOWEST, HIGHEST = -1 << 63, (1 << 63) - 1
MANY_HITS = 10_500
"""More than some servers show of one search."""
MANY_TERMS = 70_000
"""More than some servers take in one search."""


def entry(  # noqa: PLR0913 - the fields of an entry, most of them by name
    resource_id: str,
    version_id: int = 1,
    *,
    terms: Iterable[int] = (),
    spans: Sequence[tuple[int, int, int]] = (),
    deleted: bool = False,
    updated: int | None = None,
    resource_type: str = "Observation",
) -> IndexEntry:
    """Return an entry, by default of an instant that grows with the version."""
    return IndexEntry(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        updated=NOW + version_id if updated is None else updated,
        terms=None if deleted else IndexTerms(terms=frozenset(terms), spans=tuple(spans)),
    )


def entries_of(resources: Sequence[Resource]) -> list[IndexEntry]:
    """Return entries of resources, each written a second after the last."""
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


async def listed(  # noqa: PLR0913 - what a test may ask for, all of it by name
    index: SearchIndex,
    query: IndexQuery,
    *,
    scope: IndexScope = SCOPE,
    epoch: str = EPOCH,
    count: int = 10_000,
    resource_type: str = "Observation",
) -> list[IndexedVersion]:
    """Return all that a query finds, page by page."""
    found, after = list[IndexedVersion](), None
    key = scope.type(resource_type)
    while True:
        page = await index.find(key, epoch, query, count=count, after=after)
        assert len(page) <= count
        found += page
        if len(page) < count:
            return found
        after = page[-1]


async def ids(index: SearchIndex, prefilter: Prefilter | None = None) -> list[str]:
    """Return the ids of all live entries that satisfy a prefilter."""
    return [each.id for each in await listed(index, IndexQuery(prefilter=prefilter))]


class SearchIndexSuite(ContractSuite):
    """
    Proves that a search index keeps its contract.

    A subclass implements the fixture `index`, an opened index in which nothing is, and the
    methods below.
    """

    outlives_processes: ClassVar[bool] = True
    """Whether `another` reaches the same entries, and the index can be down."""

    def another(self, index: SearchIndex) -> AbstractAsyncContextManager[SearchIndex]:
        """Open the same place once more, as another process would."""
        raise NotImplementedError

    def down(self, index: SearchIndex) -> AbstractAsyncContextManager[None]:
        """Make what keeps the entries unreachable until the block ends."""
        raise NotImplementedError

    @pytest.fixture
    def subject(self, index: SearchIndex) -> SearchIndex:
        """Return what the tests shared by all suites look at."""
        return index

    @pytest.fixture
    async def begun(self, index: SearchIndex) -> SearchIndex:
        """Return the index with an epoch in which nothing is."""
        state = await index.reset(SCOPE, EPOCH, expected=None)
        assert state == IndexState(epoch=EPOCH)
        return index

    def needs_persistence(self) -> None:
        """Skip a test about several processes or an index that is down."""
        if not self.outlives_processes:
            pytest.skip(f"{type(self).__name__} does not claim to outlive a process")

    async def test_the_highest_version_stays_in_any_order(self, begun: SearchIndex) -> None:
        """I1: each of the orders in which three versions can come, with a call for each."""
        for number, order in enumerate(itertools.permutations((1, 2, 3))):
            for version in order:
                await begun.apply(SCOPE, EPOCH, [entry(f"o{number}", version, terms=[version])])

        found = await listed(begun, IndexQuery(prefilter=AnyTerm(frozenset({1, 2, 3}))))

        assert [each.version_id for each in found] == [3] * 6
        assert await ids(begun, AnyTerm(frozenset({1, 2}))) == []
        assert len(await ids(begun, AnyTerm(frozenset({3})))) == 6

    async def test_the_highest_version_of_one_call_stays(self, begun: SearchIndex) -> None:
        """I1: wherever it stands in it, and however often."""
        for number, order in enumerate(itertools.permutations((1, 2, 2, 3, 3))):
            entries = [entry(f"o{number}", version, terms=[version]) for version in order]
            await begun.apply(SCOPE, EPOCH, entries)

        found = await listed(begun, IndexQuery())

        assert len(found) == 120
        assert {each.version_id for each in found} == {3}
        assert len(await ids(begun, AnyTerm(frozenset({3})))) == 120

    async def test_the_highest_version_stays_of_many_calls_at_once(
        self, begun: SearchIndex
    ) -> None:
        """I1, I2: no call undoes another, and none fails because of another."""
        versions = list(range(1, 31))
        _chance(3).shuffle(versions)

        await asyncio.gather(
            *(
                begun.apply(
                    SCOPE, EPOCH, [entry(f"o{n}", version, terms=[version]) for n in range(5)]
                )
                for version in versions
            )
        )

        found = await listed(begun, IndexQuery())
        assert [each.version_id for each in found] == [30] * 5
        assert len(await ids(begun, AnyTerm(frozenset({30})))) == 5

    async def test_what_is_applied_again_changes_nothing(self, begun: SearchIndex) -> None:
        """I1: as a process does that goes on where another was killed."""
        entries = [entry("a", 2, terms=[1]), entry("b", 1, deleted=True)]
        for _ in range(3):
            await begun.apply(SCOPE, EPOCH, entries)

        assert await ids(begun) == ["a"]
        assert await begun.size(SCOPE, EPOCH) == 2

    async def test_an_older_version_does_not_revive_what_was_deleted(
        self, begun: SearchIndex
    ) -> None:
        """I1: the deletion stays, and what is stored again later is found again."""
        await begun.apply(SCOPE, EPOCH, [entry("a", 1, terms=[1])])
        await begun.apply(SCOPE, EPOCH, [entry("a", 2, deleted=True)])
        await begun.apply(SCOPE, EPOCH, [entry("b", 2, deleted=True)])
        await begun.apply(SCOPE, EPOCH, [entry("a", 1, terms=[1]), entry("b", 1, terms=[1])])

        assert await ids(begun) == []
        assert await begun.size(SCOPE, EPOCH) == 2
        await begun.apply(SCOPE, EPOCH, [entry("a", 3, terms=[1])])
        assert await ids(begun, AnyTerm(frozenset({1}))) == ["a"]

    async def test_what_was_applied_is_seen_at_once_by_every_process(
        self, begun: SearchIndex
    ) -> None:
        """I2: not after some time, and not by the one that applied it only."""
        self.needs_persistence()
        async with self.another(begun) as other:
            for number in range(5):
                await begun.apply(SCOPE, EPOCH, [entry(f"o{number}", terms=[7])])
                assert len(await ids(other, AnyTerm(frozenset({7})))) == number + 1
                assert await other.count(OBSERVATIONS, EPOCH, IndexQuery()) == number + 1
                assert await other.size(SCOPE, EPOCH) == number + 1

    async def test_what_was_applied_outlives_a_process(self, begun: SearchIndex) -> None:
        """I2, I5: entries, deletions and the state."""
        self.needs_persistence()
        await begun.apply(SCOPE, EPOCH, [entry("a", terms=[7]), entry("b", 2, deleted=True)])
        await begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW), note="a note")

        async with self.another(begun) as other:
            assert await ids(other, AnyTerm(frozenset({7}))) == ["a"]
            assert await other.size(SCOPE, EPOCH) == 2
            assert await other.state(SCOPE) == IndexState(
                epoch=EPOCH, reached=from_stamp(NOW), note="a note"
            )

    @pytest.mark.parametrize("alternatives", SEARCHES, ids=str)
    async def test_exactly_what_satisfies_a_prefilter_is_found(
        self, begun: SearchIndex, alternatives: Sequence[Pairs]
    ) -> None:
        """I3: as `satisfies` finds it."""
        entries = entries_of(measurements())
        await begun.apply(SCOPE, EPOCH, entries)
        prefilter = compile_searches(alternatives).prefilter()

        assert await ids(begun, prefilter) == _satisfying(entries, prefilter)
        query = IndexQuery(prefilter=prefilter)
        assert await begun.count(OBSERVATIONS, EPOCH, query) == len(await ids(begun, prefilter))

    async def test_dates_at_the_ends_of_time_are_found(self, begun: SearchIndex) -> None:
        """I3: in the first and the last year, with every prefix."""
        entries = entries_of(measurements_at_the_ends())
        await begun.apply(SCOPE, EPOCH, entries)

        for alternatives in SEARCHES_AT_THE_ENDS:
            prefilter = compile_searches(alternatives).prefilter()
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), alternatives

    async def test_bounds_are_those_of_one_span_and_inclusive(self, begun: SearchIndex) -> None:
        """I3: not the first of one span and the last of another, and up to 64 bits."""
        entries = [
            entry("apart", spans=[(5, 10, 20), (5, 30, 40)]),
            entry("group", spans=[(6, 10, 40)]),
            entry("whole", spans=[(5, 10, 40)]),
            entry("widest", spans=[(5, LOWEST, HIGHEST)]),
            entry("lowest", spans=[(LOWEST, LOWEST, LOWEST)]),
            entry("highest", spans=[(HIGHEST, HIGHEST, HIGHEST)]),
            entry("none"),
        ]
        await begun.apply(SCOPE, EPOCH, entries)
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

        for prefilter in _chance(11).sample(prefilters, 120):
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), prefilter

    async def test_any_composition_of_prefilters_is_understood(self, begun: SearchIndex) -> None:
        """I3: of every kind, nested, of nothing, and of the extremes of 64 bits."""
        chance = _chance(5)
        entries = [
            entry(
                f"o{number}",
                terms=chance.sample((LOWEST, -1, 0, 1, 2, 3, HIGHEST), 2),
                spans=[(chance.randrange(3), first := chance.randrange(50), first + 10)],
                updated=NOW + number,
            )
            for number in range(40)
        ]
        await begun.apply(SCOPE, EPOCH, entries)
        nothing: list[Prefilter] = [
            AnyTerm(frozenset()),
            AnyId(frozenset()),
            AnyId(frozenset({"o", "O1"})),
        ]

        for prefilter in [*nothing, *(_composition(chance, 3) for _ in range(60))]:
            assert await ids(begun, prefilter) == _satisfying(entries, prefilter), prefilter

    async def test_a_prefilter_may_have_very_many_terms_and_ids(self, begun: SearchIndex) -> None:
        """I3: more than a server takes in one condition; also where several of them meet."""
        await begun.apply(
            SCOPE, EPOCH, [entry("a", terms=[MANY_TERMS - 1]), entry("b", terms=[-1])]
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
            SCOPE, EPOCH, [entry("large", terms=range(MANY_TERMS), spans=spans), entry("small")]
        )

        for number in (0, 1, 9_999, 10_000, 11_999):
            assert await ids(begun, AnyTerm(frozenset({number}))) == ["large"]
            span = SpanWithin(group=1, low_from=number, low_to=number)
            assert await ids(begun, span) == ["large"]
        assert await ids(begun) == ["large", "small"]

    async def test_all_of_very_many_matches_are_found(self, begun: SearchIndex) -> None:
        """I3, I4: more than a server shows of one search; counted too, and in one call."""
        names = [f"o{number:05}" for number in range(MANY_HITS)]
        await begun.apply(
            SCOPE, EPOCH, [entry(name, terms=[1], updated=NOW + n) for n, name in enumerate(names)]
        )

        prefilter = AnyTerm(frozenset({1}))
        for order in SortOrder:
            query = IndexQuery(prefilter=prefilter, order=order)
            found = [each.id for each in await listed(begun, query)]
            assert found == (names[::-1] if order.startswith("-") else names)
        query = IndexQuery(prefilter=prefilter)
        assert await begun.count(OBSERVATIONS, EPOCH, query) == MANY_HITS
        assert await begun.size(SCOPE, EPOCH) == MANY_HITS

    async def test_what_changed_later_is_found_whatever_it_is(self, begun: SearchIndex) -> None:
        """I3: deletions and what does not satisfy the prefilter, but nothing of that instant."""
        await begun.apply(
            SCOPE,
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
        await begun.apply(SCOPE, EPOCH, [*entries, entry("x", 2, deleted=True)])

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
            SCOPE, EPOCH, [entry(f"o{number}", updated=NOW + number * 10) for number in range(5)]
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
        """I4: what does not change is found once, and in the order of ids what changes too."""
        names = [f"o{number:02}" for number in range(40)]
        await begun.apply(
            SCOPE, EPOCH, [entry(name, updated=NOW + n) for n, name in enumerate(names)]
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
            await begun.apply(SCOPE, EPOCH, [again])

        steady = [name for name in names if name not in changed]
        assert sorted(name for name in found if name not in changed) == steady
        if order in {SortOrder.ID, SortOrder.ID_DESCENDING}:
            assert sorted(found) == names

    async def test_a_scope_without_an_epoch_has_no_state(self, index: SearchIndex) -> None:
        """I5, I6: and nothing in it, whatever is done there."""
        assert await index.state(SCOPE) is None
        assert list(await index.scopes()) == []
        await index.apply(SCOPE, EPOCH, [entry("a")])

        assert await index.advance(SCOPE, EPOCH, reached=from_stamp(NOW)) is False
        assert await index.state(SCOPE) is None
        state = await index.reset(SCOPE, NEXT_EPOCH, expected=None)
        assert state == IndexState(epoch=NEXT_EPOCH)
        assert await listed(index, IndexQuery(), epoch=NEXT_EPOCH) == []
        assert list(await index.scopes()) == [SCOPE]

    async def test_what_was_reached_is_kept_to_the_microsecond(self, begun: SearchIndex) -> None:
        """I5: with the note, of any characters and up to 64 KiB."""
        for number, note in enumerate(("", "é☃\n\x00\"\\'", "x" * 65_536)):
            reached = from_stamp(NOW + number)
            assert await begun.advance(SCOPE, EPOCH, reached=reached, note=note)

            assert await begun.state(SCOPE) == IndexState(epoch=EPOCH, reached=reached, note=note)

    async def test_what_was_reached_never_goes_back(self, begun: SearchIndex) -> None:
        """I5: nor does the note that belongs to it; None is before everything."""
        assert await begun.advance(SCOPE, EPOCH, reached=None, note="one type")
        assert await begun.advance(SCOPE, EPOCH, reached=None, note="two types")
        assert await begun.state(SCOPE) == IndexState(epoch=EPOCH, note="two types")
        then = from_stamp(NOW)
        assert await begun.advance(SCOPE, EPOCH, reached=then, note="then")

        assert await begun.advance(SCOPE, EPOCH, reached=None, note="late")
        earlier = then - timedelta(microseconds=1)
        assert await begun.advance(SCOPE, EPOCH, reached=earlier, note="earlier")
        assert await begun.state(SCOPE) == IndexState(epoch=EPOCH, reached=then, note="then")

        assert await begun.advance(SCOPE, EPOCH, reached=then, note="again")
        assert await begun.state(SCOPE) == IndexState(epoch=EPOCH, reached=then, note="again")

    async def test_of_many_that_advance_at_once_the_latest_holds(self, begun: SearchIndex) -> None:
        """I5: no call undoes another, and none fails because of another."""
        numbers = list(range(1, 31))
        _chance(8).shuffle(numbers)

        results = await asyncio.gather(
            *(
                begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW + number), note=f"{number}")
                for number in numbers
            )
        )

        assert all(results)
        assert await begun.state(SCOPE) == IndexState(
            epoch=EPOCH, reached=from_stamp(NOW + 30), note="30"
        )

    async def test_a_new_epoch_has_nothing_of_the_last_one(self, begun: SearchIndex) -> None:
        """I6: neither entries nor what was reached; what comes late for the last is not found."""
        await begun.apply(SCOPE, EPOCH, [entry("a", 5, terms=[1]), entry("b", 5, deleted=True)])
        await begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW), note="a note")

        state = await begun.reset(SCOPE, NEXT_EPOCH, expected=EPOCH)

        assert state == await begun.state(SCOPE) == IndexState(epoch=NEXT_EPOCH)
        await begun.apply(SCOPE, EPOCH, [entry("late", 9, terms=[1])])
        assert await begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW + 9)) is False
        assert await begun.state(SCOPE) == IndexState(epoch=NEXT_EPOCH)
        assert await listed(begun, IndexQuery(changed_after=0), epoch=NEXT_EPOCH) == []
        assert await begun.size(SCOPE, NEXT_EPOCH) == 0
        await begun.apply(SCOPE, NEXT_EPOCH, [entry("a", 1, terms=[2]), entry("b", 1)])
        found = await listed(begun, IndexQuery(), epoch=NEXT_EPOCH)
        assert [(each.id, each.version_id) for each in found] == [("a", 1), ("b", 1)]
        assert await begun.count(OBSERVATIONS, NEXT_EPOCH, IndexQuery()) == 2

    async def test_only_who_expects_the_present_epoch_ends_it(self, begun: SearchIndex) -> None:
        """I6: everybody else learns which one it is."""
        await begun.apply(SCOPE, EPOCH, [entry("a")])
        await begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW))

        for expected in (None, "1-another"):
            state = await begun.reset(SCOPE, NEXT_EPOCH, expected=expected)
            assert state == IndexState(epoch=EPOCH, reached=from_stamp(NOW))
        assert await ids(begun) == ["a"]

    async def test_of_many_that_end_an_epoch_at_once_one_does(self, begun: SearchIndex) -> None:
        """I6: and all of them go on in the same new epoch."""
        states = await asyncio.gather(
            *(begun.reset(SCOPE, f"1-try-{number}", expected=EPOCH) for number in range(10))
        )

        assert len({state.epoch for state in states}) == 1
        assert await begun.state(SCOPE) == states[0]
        assert states[0].epoch.startswith("1-try-")

    @pytest.mark.parametrize("other", OTHER_SCOPES)
    async def test_scopes_are_kept_apart(self, begun: SearchIndex, other: str) -> None:
        """I7: entries with one id and type, the states, the epochs and the sizes."""
        scope = OTHER_SCOPES[other]
        await begun.reset(scope, EPOCH, expected=None)
        await begun.apply(SCOPE, EPOCH, [entry("a", 1, terms=[1])])
        await begun.apply(scope, EPOCH, [entry("a", 2, terms=[2]), entry("b", 1, terms=[1])])
        await begun.advance(scope, EPOCH, reached=from_stamp(NOW), note="theirs")

        ours, theirs = await listed(begun, IndexQuery()), IndexQuery()
        assert [(each.id, each.version_id) for each in ours] == [("a", 1)]
        found = await listed(begun, theirs, scope=scope)
        assert [(each.id, each.version_id) for each in found] == [("a", 2), ("b", 1)]
        assert await begun.state(SCOPE) == IndexState(epoch=EPOCH)
        assert {*await begun.scopes()} == {SCOPE, scope}
        assert await begun.size(SCOPE, EPOCH) == 1
        await begun.reset(scope, NEXT_EPOCH, expected=EPOCH)
        assert await ids(begun) == ["a"]
        assert await begun.size(SCOPE, EPOCH) == 1

    async def test_types_are_kept_apart(self, begun: SearchIndex) -> None:
        """I7: entries of several types may be applied together, with one id."""
        await begun.apply(
            SCOPE,
            EPOCH,
            [
                entry("a", 1, terms=[1]),
                entry("a", 2, terms=[1], resource_type="Patient"),
                entry("a", 3, deleted=True, resource_type="Group"),
            ],
        )
        query = IndexQuery(changed_after=0)

        found = {
            name: [each.version_id for each in await listed(begun, query, resource_type=name)]
            for name in ("Observation", "Patient", "Group", "Encounter")
        }

        assert found == {"Observation": [1], "Patient": [2], "Group": [3], "Encounter": []}
        assert await begun.count(SCOPE.type("Patient"), EPOCH, IndexQuery()) == 1

    async def test_an_index_that_is_down_says_so(self, begun: SearchIndex) -> None:
        """I8: whatever is asked; and once it is back, everything is as it was."""
        self.needs_persistence()
        await begun.apply(SCOPE, EPOCH, [entry("a", terms=[1])])
        query = IndexQuery(prefilter=AnyTerm(frozenset({1})))

        async with self.down(begun):
            for call in (
                lambda: begun.state(SCOPE),
                begun.scopes,
                lambda: begun.find(OBSERVATIONS, EPOCH, query, count=10),
                lambda: begun.count(OBSERVATIONS, EPOCH, query),
                lambda: begun.size(SCOPE, EPOCH),
                lambda: begun.apply(SCOPE, EPOCH, [entry("b")]),
                lambda: begun.advance(SCOPE, EPOCH, reached=from_stamp(NOW)),
                lambda: begun.reset(SCOPE, NEXT_EPOCH, expected=EPOCH),
            ):
                with pytest.raises(BackendUnavailable):
                    await call()

        assert "a" in await ids(begun)


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - tests are repeatable


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
    """Return a prefilter made at random."""
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
