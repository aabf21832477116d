"""The search index: what is kept of each version, and how the index of a file is made anew."""

import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator

from helios_core import EXTENT_ROWS, collection_range, line_hash, read_statements
from helios_core.fhir import TERMS_VERSION, FHIRVersion, IndexTerms, terms_of

_SQL = read_statements("helios_sqlite", "indexing")

UNKNOWN = 0
"""The term of versions whose content could not be read: any search may be about them."""


class Postings:
    """What one transaction adds to the index."""

    def __init__(self) -> None:
        self._places = defaultdict[int, defaultdict[int, list[int]]](lambda: defaultdict(list))
        self._spans: list[tuple[int, int, int, int, int]] = []

    def add(self, seq: int, terms: IndexTerms) -> None:
        """Note what is in a version; seqs come in ascending order."""
        extent, place = divmod(seq, EXTENT_ROWS)
        places = self._places[extent]
        for term in terms.terms:
            places[term].append(place)
        for kind, low, high in terms.spans:
            self._spans.append((extent, kind, low, high, place))

    def add_unreadable(self, seq: int) -> None:
        """Note a version that has to be looked at in every search."""
        self.add(seq, IndexTerms(terms=frozenset({UNKNOWN})))

    def store(self, connection: sqlite3.Connection) -> None:
        """Write everything down."""
        connection.executemany(_SQL["insert_posting"], self._rows())
        self._spans.sort()
        connection.executemany(_SQL["insert_span"], self._spans)

    def _rows(self) -> Iterator[tuple[int, int, int, bytes | None]]:
        for extent, by_term in sorted(self._places.items()):
            for term in sorted(by_term):
                first, *others = by_term[term]
                yield extent, term, first, packed(others) if others else None


def packed(places: Iterable[int]) -> bytes:
    """Return positions as bytes."""
    listed = list(places)
    return struct.pack(f"<{len(listed)}H", *listed)


def unpacked(content: bytes) -> tuple[int, ...]:
    """Return the positions in bytes."""
    return struct.unpack(f"<{len(content) // 2}H", content)


def is_indexed(connection: sqlite3.Connection) -> bool:
    """Whether the index was made by the rules that searches go by."""
    made_by: int = connection.execute(_SQL["made_by"]).fetchone()[0]
    return made_by == TERMS_VERSION


def index_anew(connection: sqlite3.Connection) -> None:
    """Make the index of all versions; the caller's transaction makes it all or nothing."""
    connection.execute(_SQL["clear_postings"])
    connection.execute(_SQL["clear_spans"])
    for collection, fhir_version, resource_type in connection.execute(
        _SQL["collections"]
    ).fetchall():
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
