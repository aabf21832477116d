"""The search index: storing the terms of versions, and rebuilding the index."""

import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator

from xxhash import xxh3_64_intdigest

from helios_core import EXTENT_ROWS, SUM_MASK, collection_range, line_hash, read_statements
from helios_core.fhir import TERMS_VERSION, FHIRVersion, IndexTerms, terms_of
from helios_sqlite.errors import only_value

_SQL = read_statements("helios_sqlite", "indexing")

_VERSIONS = frozenset(FHIRVersion)

UNKNOWN = 0
"""The term of versions whose content could not be read; every search must consider them."""

BUCKETS = 64
"""How many ranges of terms the postings of an extent are divided into for their sums."""

UNREADABLE = BUCKETS
"""The bucket of the term UNKNOWN, which every search reads."""

POSTINGS, SPANS = 0, 1
"""The values of `index_sums.part`."""

SPAN_MODULUS = (1 << 31) - 1
"""The modulus of the bounds of spans in their marks, small enough for exact sums in SQLite."""

_BUCKET_BITS = 58

Posting = tuple[int, int, int, bytes | None]
"""Extent, term, first place, other places; a place is a position within an extent."""


class Postings:
    """The entries that one transaction adds to the index."""

    def __init__(self) -> None:
        self._places = defaultdict[int, defaultdict[int, list[int]]](lambda: defaultdict(list))
        self._spans: list[tuple[int, int, int, int, int]] = []

    def add(self, seq: int, terms: IndexTerms) -> None:
        """Add the terms of a version; seqs must ascend."""
        extent, place = divmod(seq, EXTENT_ROWS)
        places = self._places[extent]
        for term in terms.terms:
            places[term].append(place)
        for kind, low, high in terms.spans:
            self._spans.append((extent, kind, low, high, place))

    def add_unreadable(self, seq: int) -> None:
        """Add a version that could not be read, which every search must consider."""
        self.add(seq, IndexTerms(terms=frozenset({UNKNOWN})))

    def store(self, connection: sqlite3.Connection) -> None:
        """Store all entries and their sums; the extents must exist."""
        rows = list(self._rows())
        connection.executemany(_SQL["insert_posting"], rows)
        self._spans.sort()
        connection.executemany(_SQL["insert_span"], self._spans)
        sums = self._sums(rows)
        connection.executemany(
            _SQL["add_sum"], [(*of, total & SUM_MASK) for of, total in sums.items()]
        )
        totals = defaultdict[int, int](int)
        for (extent, _, _), total in sums.items():
            totals[extent] += total
        connection.executemany(
            _SQL["add_total"], [(extent, total & SUM_MASK) for extent, total in totals.items()]
        )

    def _sums(self, rows: Iterable[Posting]) -> dict[tuple[int, int, int], int]:
        sums = defaultdict[tuple[int, int, int], int](int)
        for row in rows:
            sums[row[0], POSTINGS, bucket_of(row[1])] += posting_mark(row)
        for extent, kind, low, high, place in self._spans:
            sums[extent, SPANS, kind] += _span_mark(low, high, place)
        return sums

    def _rows(self) -> Iterator[Posting]:
        for extent, by_term in sorted(self._places.items()):
            for term in sorted(by_term):
                first, *others = by_term[term]
                yield extent, term, first, packed(others) if others else None


def packed(places: Iterable[int]) -> bytes:
    """Return places as bytes."""
    listed = list(places)
    return struct.pack(f"<{len(listed)}H", *listed)


def unpacked(content: bytes) -> tuple[int, ...]:
    """Return the places in bytes of `packed`."""
    return struct.unpack(f"<{len(content) // 2}H", content)


def bucket_of(term: int) -> int:
    """Return the bucket of a term."""
    return UNREADABLE if term == UNKNOWN else (term >> _BUCKET_BITS) + BUCKETS // 2


def terms_in(bucket: int) -> tuple[int, int]:
    """Return the lowest and the highest term of a bucket."""
    if bucket == UNREADABLE:
        return UNKNOWN, UNKNOWN
    low = (bucket - BUCKETS // 2) << _BUCKET_BITS
    return low + (low == UNKNOWN), low + (1 << _BUCKET_BITS) - 1


def posting_mark(row: Posting) -> int:
    """Return the mark of a row of postings, which is added to the sum of its bucket."""
    extent, term, place, more = row
    return xxh3_64_intdigest(b"%d %d %d " % (extent, term, place) + (more or b"")) & SUM_MASK


def _span_mark(low: int, high: int, place: int) -> int:
    """Return the mark of a span, as the statement `spans_with_sums` computes it."""
    return _reduced(low) * (place + 1) + _reduced(high) * (2 * place + 3)


def _reduced(stamp: int) -> int:
    """Return the remainder by `SPAN_MODULUS` with the sign of the dividend, as in SQLite."""
    return stamp % SPAN_MODULUS if stamp >= 0 else -(-stamp % SPAN_MODULUS)


def is_indexed(connection: sqlite3.Connection) -> bool:
    """Return whether the index was built with the current `TERMS_VERSION`."""
    made_by: int = only_value(connection.execute(_SQL["made_by"]).fetchall(), "search_index")
    return made_by == TERMS_VERSION


def rebuild_index(connection: sqlite3.Connection) -> None:
    """Rebuild the index of all versions, in the caller's transaction."""
    connection.execute(_SQL["clear_postings"])
    connection.execute(_SQL["clear_spans"])
    connection.execute(_SQL["clear_sums"])
    connection.execute(_SQL["clear_totals"])
    for collection, fhir_version, resource_type in connection.execute(
        _SQL["collections"]
    ).fetchall():
        if fhir_version not in _VERSIONS:  # a damaged row, which no search reaches
            continue
        for (extent,) in connection.execute(
            _SQL["extents"], collection_range(collection).extents
        ).fetchall():
            _index(connection, extent, FHIRVersion(fhir_version), resource_type)
    connection.execute(_SQL["made_by_us"], (TERMS_VERSION,))


def _index(
    connection: sqlite3.Connection, extent: int, fhir_version: FHIRVersion, resource_type: str
) -> None:
    postings = Postings()
    bounds = (extent * EXTENT_ROWS, (extent + 1) * EXTENT_ROWS - 1)
    for seq, stored_hash, content in connection.execute(_SQL["contents"], bounds):
        if content is None or line_hash(content) != stored_hash:
            postings.add_unreadable(seq)
        else:
            postings.add(seq, terms_of(content, fhir_version, resource_type))
    postings.store(connection)
