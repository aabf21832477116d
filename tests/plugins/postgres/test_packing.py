"""The rows of the search index: what is packed comes out as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_postgres import packing
from helios_postgres.packing import (
    BUCKETS,
    UNKNOWN,
    UNREADABLE,
    bucket_of,
    fingerprint_of,
    packed_postings,
    packed_spans,
    places_of,
    unpacked_places,
    unpacked_spans,
)

LEAST, MOST = -(1 << 63), (1 << 63) - 1
terms = st.integers(LEAST, MOST)
places = st.lists(st.integers(0, 4095), min_size=1, max_size=20)
fingerprints = st.binary(min_size=4, max_size=4)
spans = st.tuples(terms, terms, st.integers(0, 4095))


@given(st.dictionaries(fingerprints, places, min_size=1), fingerprints)
def test_places_come_out_as_they_were(packed, other):
    [row] = packed_postings(packed)

    assert {each: list(places_of(row, each)) for each in packed} == packed
    assert list(places_of(row, other)) == packed.get(other, [])


@given(st.dictionaries(fingerprints, places, min_size=1), st.data())
def test_a_row_that_is_cut_short_is_not_taken_for_a_whole_one(packed, data):
    [row] = packed_postings(packed)
    cut = row[: data.draw(st.integers(0, len(row) - 1))]

    with pytest.raises(ValueError, match="does not agree with its counts"):
        places_of(cut, next(iter(packed)))


def test_many_places_take_several_rows():
    packed = {number.to_bytes(4, "big"): list(range(4096)) for number in range(20)}

    rows = list(packed_postings(packed))

    assert len(rows) == 5
    for fingerprint in packed:
        assert sum((places_of(row, fingerprint) for row in rows), ()) == tuple(range(4096))


@given(st.lists(spans, min_size=1, max_size=250))
def test_spans_come_out_in_the_order_of_their_beginnings(packed):
    rows = list(packed_spans(packed))

    found = [each for row in rows for each in unpacked_spans(row.places, row.content)]
    assert [(low, high, place) for place, low, high in found] == sorted(packed)
    for row in rows:
        places, lows, highs = zip(*unpacked_spans(row.places, row.content), strict=True)
        assert unpacked_places(row.places) == places
        assert row[:4] == (min(lows), max(lows), min(highs), max(highs))
        assert len(lows) <= packing.ROW_SPANS


@given(terms)
def test_every_term_has_a_bucket_and_a_fingerprint(term):
    assert 0 <= bucket_of(term) < BUCKETS or term == UNKNOWN
    assert len(fingerprint_of(term)) == packing.FINGERPRINT_BYTES


def test_what_could_not_be_read_has_a_bucket_of_its_own():
    assert bucket_of(UNKNOWN) == UNREADABLE
    assert all(bucket_of(term) != UNREADABLE for term in (1, BUCKETS, -BUCKETS, LEAST, MOST))
