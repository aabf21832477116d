"""Ranges of seqs and sets of places."""

from hypothesis import given
from hypothesis import strategies as st

from helios_core.storage.extents import (
    SeqRange,
    collection_range,
    extent_of,
    intersection_of,
    union_of,
)

PLACES = st.dictionaries(st.integers(0, 4), st.sets(st.integers(0, 4), min_size=1))


def pairs(places):
    return {(extent, place) for extent, several in places.items() for place in several}


@given(st.lists(PLACES, max_size=4))
def test_united_places_are_those_of_any(several):
    assert pairs(union_of(several)) == set().union(*map(pairs, several))


@given(PLACES, PLACES)
def test_common_places_are_those_of_both_without_empty_extents(some, others):
    found = intersection_of(some, others)

    assert pairs(found) == pairs(some) & pairs(others)
    assert all(found.values())


def test_what_is_united_leaves_what_it_was_made_of_alone():
    some, others = {1: {2}}, {1: {3}}

    union_of([some, others])

    assert (some, others) == ({1: {2}}, {1: {3}})


def test_collections_share_no_extent():
    low, high = collection_range(1), collection_range(2)

    assert low.end == high.first
    assert low.extents[1] == extent_of(low.end - 1) < high.extents[0]


def test_a_range_is_narrowed_to_a_shard_and_to_an_extent():
    whole = SeqRange(first=4096, end=16384)

    assert whole.within(start=None, end=None) == whole
    assert whole.within(start="1", end="5000") == SeqRange(first=4096, end=5000)
    assert whole.within(start="5000", end="99999") == SeqRange(first=5000, end=16384)
    assert whole.within_extent(1) == SeqRange(first=4096, end=8192)
    assert whole.extents == (1, 3)
