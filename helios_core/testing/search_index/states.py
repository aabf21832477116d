"""Clauses I5 to I8: epochs, reached instants, datasets and outages."""

import asyncio
from datetime import timedelta

import pytest

from helios_core import BackendUnavailable, IndexQuery, IndexState, SearchIndex
from helios_core.fhir import AnyTerm, from_stamp
from helios_core.testing.search_index.contract import (
    DATASET,
    EPOCH,
    NEXT_EPOCH,
    NOW,
    OBSERVATIONS,
    OTHER_DATASETS,
    SearchIndexContract,
    entry,
    ids,
    listed,
    seeded,
)


class StateClauses(SearchIndexContract):
    """States are shared by processes, and datasets are kept apart."""

    async def test_a_dataset_without_an_epoch_has_no_state(self, index: SearchIndex) -> None:
        """I5, I6: and no entries, whatever is applied to it."""
        assert await index.state(DATASET) is None
        assert list(await index.datasets()) == []
        await index.apply(DATASET, EPOCH, [entry("a")])

        assert await index.advance(DATASET, EPOCH, reached=from_stamp(NOW)) is False
        assert await index.state(DATASET) is None
        state = await index.reset(DATASET, NEXT_EPOCH, expected=None)
        assert state == IndexState(epoch=NEXT_EPOCH)
        assert await listed(index, IndexQuery(), epoch=NEXT_EPOCH) == []
        assert list(await index.datasets()) == [DATASET]

    async def test_what_was_reached_is_kept_to_the_microsecond(self, begun: SearchIndex) -> None:
        """I5: with the note, of any characters and up to 64 KiB."""
        for number, note in enumerate(("", "é☃\n\x00\"\\'", "x" * 65_536)):
            reached = from_stamp(NOW + number)
            assert await begun.advance(DATASET, EPOCH, reached=reached, note=note)

            assert await begun.state(DATASET) == IndexState(
                epoch=EPOCH, reached=reached, note=note
            )

    async def test_what_was_reached_never_goes_back(self, begun: SearchIndex) -> None:
        """I5: nor does the note that belongs to it; None is before all instants."""
        assert await begun.advance(DATASET, EPOCH, reached=None, note="one type")
        assert await begun.advance(DATASET, EPOCH, reached=None, note="two types")
        assert await begun.state(DATASET) == IndexState(epoch=EPOCH, note="two types")
        then = from_stamp(NOW)
        assert await begun.advance(DATASET, EPOCH, reached=then, note="then")

        assert await begun.advance(DATASET, EPOCH, reached=None, note="late")
        earlier = then - timedelta(microseconds=1)
        assert await begun.advance(DATASET, EPOCH, reached=earlier, note="earlier")
        assert await begun.state(DATASET) == IndexState(epoch=EPOCH, reached=then, note="then")

        assert await begun.advance(DATASET, EPOCH, reached=then, note="again")
        assert await begun.state(DATASET) == IndexState(epoch=EPOCH, reached=then, note="again")

    async def test_of_many_that_advance_at_once_the_latest_holds(self, begun: SearchIndex) -> None:
        """I5: no call undoes another, and none fails because of another."""
        numbers = list(range(1, 31))
        seeded(8).shuffle(numbers)

        results = await asyncio.gather(
            *(
                begun.advance(DATASET, EPOCH, reached=from_stamp(NOW + number), note=f"{number}")
                for number in numbers
            )
        )

        assert all(results)
        assert await begun.state(DATASET) == IndexState(
            epoch=EPOCH, reached=from_stamp(NOW + 30), note="30"
        )

    async def test_a_new_epoch_has_nothing_of_the_last_one(self, begun: SearchIndex) -> None:
        """I6: neither entries nor the reached instant, even if the old one gets more entries."""
        await begun.apply(DATASET, EPOCH, [entry("a", 5, terms=[1]), entry("b", 5, deleted=True)])
        await begun.advance(DATASET, EPOCH, reached=from_stamp(NOW), note="a note")

        state = await begun.reset(DATASET, NEXT_EPOCH, expected=EPOCH)

        assert state == await begun.state(DATASET) == IndexState(epoch=NEXT_EPOCH)
        await begun.apply(DATASET, EPOCH, [entry("late", 9, terms=[1])])
        assert await begun.advance(DATASET, EPOCH, reached=from_stamp(NOW + 9)) is False
        assert await begun.state(DATASET) == IndexState(epoch=NEXT_EPOCH)
        assert await listed(begun, IndexQuery(changed_after=0), epoch=NEXT_EPOCH) == []
        assert await begun.size(DATASET, NEXT_EPOCH) == 0
        await begun.apply(DATASET, NEXT_EPOCH, [entry("a", 1, terms=[2]), entry("b", 1)])
        found = await listed(begun, IndexQuery(), epoch=NEXT_EPOCH)
        assert [(each.id, each.version_id) for each in found] == [("a", 1), ("b", 1)]
        assert await begun.count(OBSERVATIONS, NEXT_EPOCH, IndexQuery()) == 2

    async def test_only_who_expects_the_present_epoch_ends_it(self, begun: SearchIndex) -> None:
        """I6: all other callers learn which one it is."""
        await begun.apply(DATASET, EPOCH, [entry("a")])
        await begun.advance(DATASET, EPOCH, reached=from_stamp(NOW))

        for expected in (None, "1-another"):
            state = await begun.reset(DATASET, NEXT_EPOCH, expected=expected)
            assert state == IndexState(epoch=EPOCH, reached=from_stamp(NOW))
        assert await ids(begun) == ["a"]

    async def test_of_many_that_end_an_epoch_at_once_one_does(self, begun: SearchIndex) -> None:
        """I6: and all of them get the same new epoch."""
        states = await asyncio.gather(
            *(begun.reset(DATASET, f"1-try-{number}", expected=EPOCH) for number in range(10))
        )

        assert len({state.epoch for state in states}) == 1
        assert await begun.state(DATASET) == states[0]
        assert states[0].epoch.startswith("1-try-")

    @pytest.mark.parametrize("other", OTHER_DATASETS)
    async def test_datasets_are_kept_apart(self, begun: SearchIndex, other: str) -> None:
        """I7: entries with one id and type, the states, the epochs and the sizes."""
        dataset = OTHER_DATASETS[other]
        await begun.reset(dataset, EPOCH, expected=None)
        await begun.apply(DATASET, EPOCH, [entry("a", 1, terms=[1])])
        await begun.apply(dataset, EPOCH, [entry("a", 2, terms=[2]), entry("b", 1, terms=[1])])
        await begun.advance(dataset, EPOCH, reached=from_stamp(NOW), note="theirs")

        ours, theirs = await listed(begun, IndexQuery()), IndexQuery()
        assert [(each.id, each.version_id) for each in ours] == [("a", 1)]
        found = await listed(begun, theirs, dataset=dataset)
        assert [(each.id, each.version_id) for each in found] == [("a", 2), ("b", 1)]
        assert await begun.state(DATASET) == IndexState(epoch=EPOCH)
        assert {*await begun.datasets()} == {DATASET, dataset}
        assert await begun.size(DATASET, EPOCH) == 1
        await begun.reset(dataset, NEXT_EPOCH, expected=EPOCH)
        assert await ids(begun) == ["a"]
        assert await begun.size(DATASET, EPOCH) == 1

    async def test_types_are_kept_apart(self, begun: SearchIndex) -> None:
        """I7: entries of several types may be applied together, with one id."""
        await begun.apply(
            DATASET,
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
        assert await begun.count(DATASET.type("Patient"), EPOCH, IndexQuery()) == 1

    async def test_an_index_that_is_down_says_so(self, begun: SearchIndex) -> None:
        """I8: in every call; and once it is back, everything is as before."""
        self.needs_persistence()
        await begun.apply(DATASET, EPOCH, [entry("a", terms=[1])])
        query = IndexQuery(prefilter=AnyTerm(frozenset({1})))

        async with self.down(begun):
            for call in (
                lambda: begun.state(DATASET),
                begun.datasets,
                lambda: begun.find(OBSERVATIONS, EPOCH, query, count=10),
                lambda: begun.count(OBSERVATIONS, EPOCH, query),
                lambda: begun.size(DATASET, EPOCH),
                lambda: begun.apply(DATASET, EPOCH, [entry("b")]),
                lambda: begun.advance(DATASET, EPOCH, reached=from_stamp(NOW)),
                lambda: begun.reset(DATASET, NEXT_EPOCH, expected=EPOCH),
            ):
                with pytest.raises(BackendUnavailable):
                    await call()

        assert "a" in await ids(begun)
