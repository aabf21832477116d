"""I1 and I2: which version of a resource stays, and who sees it."""

import asyncio
import itertools

from helios_core import IndexQuery, IndexState, SearchIndex
from helios_core.fhir import AnyTerm, from_stamp
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


class EntryClauses(SearchIndexContract):
    """Applying entries in any order, from any process."""

    async def test_the_highest_version_stays_in_any_order(self, begun: SearchIndex) -> None:
        """I1: in every order of three versions, with one call for each version."""
        for number, order in enumerate(itertools.permutations((1, 2, 3))):
            for version in order:
                await begun.apply(DATASET, EPOCH, [entry(f"o{number}", version, terms=[version])])

        found = await listed(begun, IndexQuery(prefilter=AnyTerm(frozenset({1, 2, 3}))))

        assert [each.version_id for each in found] == [3] * 6
        assert await ids(begun, AnyTerm(frozenset({1, 2}))) == []
        assert len(await ids(begun, AnyTerm(frozenset({3})))) == 6

    async def test_the_highest_version_of_one_call_stays(self, begun: SearchIndex) -> None:
        """I1: whatever its position in the call, and however often it occurs."""
        for number, order in enumerate(itertools.permutations((1, 2, 2, 3, 3))):
            entries = [entry(f"o{number}", version, terms=[version]) for version in order]
            await begun.apply(DATASET, EPOCH, entries)

        found = await listed(begun, IndexQuery())

        assert len(found) == 120
        assert {each.version_id for each in found} == {3}
        assert len(await ids(begun, AnyTerm(frozenset({3})))) == 120

    async def test_the_highest_version_stays_of_many_calls_at_once(
        self, begun: SearchIndex
    ) -> None:
        """I1, I2: no call undoes another, and none fails because of another."""
        versions = list(range(1, 31))
        seeded(3).shuffle(versions)

        await asyncio.gather(
            *(
                begun.apply(
                    DATASET, EPOCH, [entry(f"o{n}", version, terms=[version]) for n in range(5)]
                )
                for version in versions
            )
        )

        found = await listed(begun, IndexQuery())
        assert [each.version_id for each in found] == [30] * 5
        assert len(await ids(begun, AnyTerm(frozenset({30})))) == 5

    async def test_what_is_applied_again_changes_nothing(self, begun: SearchIndex) -> None:
        """I1: a process may repeat entries of another one that was killed."""
        entries = [entry("a", 2, terms=[1]), entry("b", 1, deleted=True)]
        for _ in range(3):
            await begun.apply(DATASET, EPOCH, entries)

        assert await ids(begun) == ["a"]
        assert await begun.size(DATASET, EPOCH) == 2

    async def test_an_older_version_does_not_revive_what_was_deleted(
        self, begun: SearchIndex
    ) -> None:
        """I1: the deletion stays, and a later version is found again."""
        await begun.apply(DATASET, EPOCH, [entry("a", 1, terms=[1])])
        await begun.apply(DATASET, EPOCH, [entry("a", 2, deleted=True)])
        await begun.apply(DATASET, EPOCH, [entry("b", 2, deleted=True)])
        await begun.apply(DATASET, EPOCH, [entry("a", 1, terms=[1]), entry("b", 1, terms=[1])])

        assert await ids(begun) == []
        assert await begun.size(DATASET, EPOCH) == 2
        await begun.apply(DATASET, EPOCH, [entry("a", 3, terms=[1])])
        assert await ids(begun, AnyTerm(frozenset({1}))) == ["a"]

    async def test_what_was_applied_is_seen_at_once_by_every_process(
        self, begun: SearchIndex
    ) -> None:
        """I2: immediately, and not only by the process that applied it."""
        self.needs_persistence()
        async with self.another(begun) as other:
            for number in range(5):
                await begun.apply(DATASET, EPOCH, [entry(f"o{number}", terms=[7])])
                assert len(await ids(other, AnyTerm(frozenset({7})))) == number + 1
                assert await other.count(OBSERVATIONS, EPOCH, IndexQuery()) == number + 1
                assert await other.size(DATASET, EPOCH) == number + 1

    async def test_what_was_applied_outlives_a_process(self, begun: SearchIndex) -> None:
        """I2, I5: entries, deletions and the state."""
        self.needs_persistence()
        await begun.apply(DATASET, EPOCH, [entry("a", terms=[7]), entry("b", 2, deleted=True)])
        await begun.advance(DATASET, EPOCH, reached=from_stamp(NOW), note="a note")

        async with self.another(begun) as other:
            assert await ids(other, AnyTerm(frozenset({7}))) == ["a"]
            assert await other.size(DATASET, EPOCH) == 2
            assert await other.state(DATASET) == IndexState(
                epoch=EPOCH, reached=from_stamp(NOW), note="a note"
            )
