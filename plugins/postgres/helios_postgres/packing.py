"""
The packed rows of the search index.

A row of postings consists of a count n, n ascending fingerprints of terms, n cumulative counts of
places, and the places, which are positions of versions within an extent. A row of spans consists
of n beginnings and n ends, with n places in a column of their own. All numbers are big-endian, so
that fingerprints compare as bytes.

A fingerprint is the upper half of a term. Two terms of a bucket with the same fingerprint, one
pair in four billion, are not distinguished: all candidates are matched against the search.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core import SUM_MASK

BUCKETS = 64
"""How many rows the terms of one transaction are divided into."""

UNKNOWN = 0
"""The term of versions whose content could not be read; every search must consider them."""

UNREADABLE = BUCKETS
"""The bucket of the term UNKNOWN, which every search reads."""

POSTINGS, SPANS = 0, 1
"""The values of `index_sums.part`."""

MARK_MODULUS = (1 << 31) - 1
"""The modulus of marks, small enough for PostgreSQL to compute the marks of spans exactly."""

ROW_PLACES = 16_384
"""The most places in a row of postings, unless a single fingerprint has more."""

ROW_SPANS = 100
"""The most spans in a row."""

FINGERPRINT_BYTES = 4
_COUNT_BYTES = 2
_PLACE_BYTES = 2


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """The terms and spans of one version, none for a deletion."""

    place: int
    """The position of the version in its extent."""
    terms: tuple[int, ...] = ()
    spans: tuple[tuple[int, int, int], ...] = ()


class SpanRow(NamedTuple):
    """Some spans of one kind, packed, with their bounds."""

    low_min: int
    low_max: int
    high_min: int
    high_max: int
    places: bytes
    content: bytes
    places_mark: int
    content_mark: int

    @property
    def mark(self) -> int:
        """The mark of the row, as the statement `span_sums` computes it."""
        low_min, low_max, high_min, high_max = map(_reduced, self[:4])
        product = low_min * (self.content_mark % 8191 + 1)
        bounds = 3 * low_min + 5 * low_max + 7 * high_min + 11 * high_max
        return product + bounds + 13 * self.places_mark + 17 * self.content_mark


def bucket_of(term: int) -> int:
    """Return the bucket of a term."""
    return UNREADABLE if term == UNKNOWN else term % BUCKETS


def fingerprint_of(term: int) -> bytes:
    """Return the fingerprint of a term, which distinguishes it from others in its bucket."""
    return (term >> 32 & 0xFFFFFFFF).to_bytes(FINGERPRINT_BYTES, "big")


def packed_postings(places: Mapping[bytes, Sequence[int]]) -> Iterator[bytes]:
    """Yield rows for the places of each fingerprint of a bucket."""
    row: list[bytes] = []
    count = 0
    for fingerprint in sorted(places):
        if row and count + len(places[fingerprint]) > ROW_PLACES:
            yield _postings_row(row, places)
            row, count = [], 0
        row.append(fingerprint)
        count += len(places[fingerprint])
    yield _postings_row(row, places)


def _postings_row(fingerprints: Sequence[bytes], places: Mapping[bytes, Sequence[int]]) -> bytes:
    ends: list[int] = []
    listed: list[int] = []
    for fingerprint in fingerprints:
        listed += places[fingerprint]
        ends.append(len(listed))
    count = len(fingerprints)
    head = count.to_bytes(_COUNT_BYTES, "big") + b"".join(fingerprints)
    return head + struct.pack(f">{count}H{len(listed)}H", *ends, *listed)


def places_of(row: bytes, fingerprint: bytes) -> tuple[int, ...]:
    """
    Return the places of a fingerprint in a row of postings.

    Raises:
        ValueError: The length of the row does not agree with its counts.
    """
    count = int.from_bytes(row[:_COUNT_BYTES], "big")
    ends = _COUNT_BYTES + FINGERPRINT_BYTES * count
    _check_length(row, ends, count)

    def nth(index: int) -> bytes:
        start = _COUNT_BYTES + FINGERPRINT_BYTES * index
        return row[start : start + FINGERPRINT_BYTES]

    index = bisect_left(range(count), fingerprint, key=nth)
    if index == count or nth(index) != fingerprint:
        return ()
    first, last = (
        struct.unpack_from(">2H", row, ends + 2 * (index - 1))
        if index
        else (0, *struct.unpack_from(">H", row, ends))
    )
    return struct.unpack_from(f">{last - first}H", row, ends + 2 * count + 2 * first)


def _check_length(row: bytes, ends: int, count: int) -> None:
    behind = ends + _PLACE_BYTES * count
    places = int.from_bytes(row[behind - _PLACE_BYTES : behind], "big")
    if not count or len(row) != behind + _PLACE_BYTES * places:
        raise ValueError("the length of a row of postings does not agree with its counts")


def packed_spans(spans: Sequence[tuple[int, int, int]]) -> Iterator[SpanRow]:
    """Yield rows for spans of one kind; a span is a beginning, an end and a place."""
    ordered = sorted(spans)
    for start in range(0, len(ordered), ROW_SPANS):
        lows, highs, places = zip(*ordered[start : start + ROW_SPANS], strict=True)
        count = len(lows)
        listed = struct.pack(f">{count}H", *places)
        content = struct.pack(f">{2 * count}q", *lows, *highs)
        yield SpanRow(
            *(lows[0], lows[-1], min(highs), max(highs)),
            places=listed,
            content=content,
            places_mark=mark_of(listed),
            content_mark=mark_of(content),
        )


def mark_of(content: bytes) -> int:
    """Return a hash of packed content, below `MARK_MODULUS`."""
    return xxh3_64_intdigest(content) % MARK_MODULUS


def posting_mark(extent: int, bucket: int, content: bytes) -> int:
    """Return the mark of a row of postings, which is added to the sum of its bucket."""
    return xxh3_64_intdigest(b"%d %d " % (extent, bucket) + content) & SUM_MASK


def recent_mark(extent: int, content: bytes) -> int:
    """Return the mark of a row of recent terms, which is added to the sum of its extent."""
    return xxh3_64_intdigest(b"%d " % extent + content) & SUM_MASK


def _reduced(stamp: int) -> int:
    """Return the remainder by `MARK_MODULUS` with the sign of the dividend, as in PostgreSQL."""
    return stamp % MARK_MODULUS if stamp >= 0 else -(-stamp % MARK_MODULUS)


def unpacked_places(places: bytes) -> tuple[int, ...]:
    """Return the places of a row of spans."""
    return struct.unpack(f">{len(places) // _PLACE_BYTES}H", places)


def unpacked_spans(places: bytes, content: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the place, the beginning and the end of each span in a row."""
    listed = unpacked_places(places)
    count = len(listed)
    bounds = struct.unpack(f">{2 * count}q", content)
    return zip(listed, bounds[:count], bounds[count:], strict=True)
