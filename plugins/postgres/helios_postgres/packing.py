"""
How the search index is packed into rows.

A row of postings holds, one column after the other, a count n, n fingerprints of terms, ascending,
how many places there are up to the end of each, and the places. A row of spans holds n
beginnings and n ends, and beside them n places. All numbers are big-endian, so that fingerprints
compare as bytes.

A fingerprint is the upper half of a term. Two terms of one bucket that share it are taken for one
another, once in four thousand million: what is found is looked at again anyhow.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core import SUM_MASK

BUCKETS = 64
"""Into how many rows the terms of one transaction are divided."""

UNKNOWN = 0
"""The term of versions whose content could not be read: any search may be about them."""

UNREADABLE = BUCKETS
"""The bucket of that term alone, which every search looks into."""

POSTINGS, SPANS = 0, 1
"""The parts of the index of an extent that have sums."""

MARK_MODULUS = (1 << 31) - 1
"""What the bounds of spans are reduced by, so that PostgreSQL computes their marks exactly."""

ROW_PLACES = 16_384
"""Up to how many places a row of postings holds; more take another row."""

ROW_SPANS = 100
"""Up to how many spans a row holds."""

FINGERPRINT_BYTES = 4
_COUNT_BYTES = 2
_PLACE_BYTES = 2


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is indexed of one version; a deletion has nothing."""

    place: int
    terms: tuple[int, ...] = ()
    spans: tuple[tuple[int, int, int], ...] = ()


class SpanRow(NamedTuple):
    """Some spans of one kind, and within which bounds they are."""

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
        """What the row adds to the sum of its kind, as the query `span_sums` computes it."""
        low_min, low_max, high_min, high_max = map(_reduced, self[:4])
        product = low_min * (self.content_mark % 8191 + 1)
        bounds = 3 * low_min + 5 * low_max + 7 * high_min + 11 * high_max
        return product + bounds + 13 * self.places_mark + 17 * self.content_mark


def bucket_of(term: int) -> int:
    """Return the bucket in which a term is looked for."""
    return UNREADABLE if term == UNKNOWN else term % BUCKETS


def fingerprint_of(term: int) -> bytes:
    """Return what distinguishes a term from others of its bucket."""
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
        ValueError: The row is not as long as it says.
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
        raise ValueError("a row of postings is not as long as it says")


def packed_spans(spans: Sequence[tuple[int, int, int]]) -> Iterator[SpanRow]:
    """Yield rows for spans of one kind, each as beginning, end and place."""
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
    """Return a hash of what is packed, of 31 bits."""
    return xxh3_64_intdigest(content) % MARK_MODULUS


def posting_mark(extent: int, bucket: int, content: bytes) -> int:
    """Return what a row of postings adds to the sum of its bucket."""
    return xxh3_64_intdigest(b"%d %d " % (extent, bucket) + content) & SUM_MASK


def recent_mark(extent: int, content: bytes) -> int:
    """Return what a row of recent terms adds to their sum in its extent."""
    return xxh3_64_intdigest(b"%d " % extent + content) & SUM_MASK


def _reduced(stamp: int) -> int:
    """Return a remainder with the sign of the dividend, as PostgreSQL does."""
    return stamp % MARK_MODULUS if stamp >= 0 else -(-stamp % MARK_MODULUS)


def unpacked_places(places: bytes) -> tuple[int, ...]:
    """Return the places beside a row of spans."""
    return struct.unpack(f">{len(places) // _PLACE_BYTES}H", places)


def unpacked_spans(places: bytes, content: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the place, the beginning and the end of each span in a row."""
    listed = unpacked_places(places)
    count = len(listed)
    bounds = struct.unpack(f">{2 * count}q", content)
    return zip(listed, bounds[:count], bounds[count:], strict=True)
