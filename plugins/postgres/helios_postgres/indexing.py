"""The search index: storing the terms of versions, and rebuilding the index."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from helios_core import (
    EXTENT_BITS,
    EXTENT_ROWS,
    SUM_MASK,
    collection_range,
    line_hash,
    read_statements,
)
from helios_core.fhir import TERMS_VERSION, FHIRVersion, IndexTerms, terms_of
from helios_postgres.connections import Connection
from helios_postgres.packing import (
    POSTINGS,
    SPANS,
    UNKNOWN,
    Entry,
    SpanRow,
    bucket_of,
    fingerprint_of,
    packed_postings,
    packed_spans,
    posting_mark,
    recent_mark,
)

_SQL = read_statements("helios_postgres", "indexing")

_VERSIONS = frozenset(FHIRVersion)

PACKED_EVERY = 256
"""The number of positions after which the recent entries of an extent are packed into buckets."""

_POSTING_COLUMNS = ("extent", "bucket", "content")
_SPAN_COLUMNS = ("extent", "kind", *SpanRow._fields)


_ENTRIES = msgspec.msgpack.Decoder(list[Entry])
_ENCODER = msgspec.msgpack.Encoder()


class IndexSums(msgspec.Struct):
    """The sums that a transaction adds to the index of an extent."""

    packed: int = 0
    recent: int = 0


class Postings:
    """The entries that one transaction adds to the index."""

    def __init__(self) -> None:
        self._entries = defaultdict[int, list[Entry]](list)

    def add(self, seq: int, terms: IndexTerms | None) -> None:
        """
        Add the terms of a version, None for a deletion.

        Within an extent, seqs must ascend.
        """
        extent, place = divmod(seq, EXTENT_ROWS)
        self._entries[extent].append(_entry(place, terms or IndexTerms()))

    async def store(self, connection: Connection) -> Mapping[int, IndexSums]:
        """
        Store all entries, and return what they add to the sums of each extent.

        The transaction has locked these extents, so no other writer waits here.
        """
        sums = defaultdict[int, IndexSums](IndexSums)
        recent, packed = dict[int, list[Entry]](), dict[int, list[Entry]]()
        for extent, entries in self._entries.items():
            (packed if _is_enough(entries) else recent)[extent] = entries
        if recent:
            contents = [_ENCODER.encode(entries) for entries in recent.values()]
            await connection.execute(_SQL["add_recent"], list(recent), contents)
            for extent, content in zip(recent, contents, strict=True):
                sums[extent].recent += recent_mark(extent, content)
        if packed:
            for extent, content in await connection.fetch(_SQL["take_recent"], list(packed)):
                packed[extent] = [*_ENTRIES.decode(content), *packed[extent]]
                sums[extent].recent -= recent_mark(extent, content)
            for extent, total in (await _store(connection, packed.items())).items():
                sums[extent].packed += total
        return sums


def recent_entries(content: bytes) -> list[Entry]:
    """Return the entries in a row of recent terms."""
    return _ENTRIES.decode(content)


async def is_indexed(connection: Connection) -> bool:
    """Return whether the index was built with the current `TERMS_VERSION`."""
    return bool(await connection.fetchval(_SQL["made_by"]) == TERMS_VERSION)


async def rebuild_index(connection: Connection) -> None:
    """Rebuild the index of all versions, in the caller's transaction."""
    await connection.execute(_SQL["clear"])
    for collection, fhir_version, resource_type in await connection.fetch(_SQL["collections"]):
        if fhir_version not in _VERSIONS:  # a damaged row, which no search reaches
            continue
        for (extent,) in await connection.fetch(
            _SQL["extents"], *collection_range(collection).extents
        ):
            entries = await _entries(
                connection, extent, (FHIRVersion(fhir_version), resource_type)
            )
            totals = await _store(connection, [(extent, entries)])
            await connection.execute(_SQL["set_total"], extent, totals.get(extent, 0) & SUM_MASK)
    await connection.execute(_SQL["made_by_us"], TERMS_VERSION)


async def _entries(
    connection: Connection, extent: int, of: tuple[FHIRVersion, str]
) -> list[Entry]:
    bounds = (extent << EXTENT_BITS, ((extent + 1) << EXTENT_BITS) - 1)
    return [
        _entry(seq % EXTENT_ROWS, _terms(stored_hash, content, of))
        for seq, stored_hash, content in await connection.fetch(_SQL["contents"], *bounds)
    ]


def _terms(stored_hash: int, content: bytes | None, of: tuple[FHIRVersion, str]) -> IndexTerms:
    if content is None or line_hash(content) != stored_hash:
        return IndexTerms(terms=frozenset({UNKNOWN}))
    return terms_of(content, *of)


def _entry(place: int, terms: IndexTerms) -> Entry:
    return Entry(place, tuple(terms.terms), terms.spans)


def _is_enough(entries: Sequence[Entry]) -> bool:
    """Return whether entries reach a multiple of `PACKED_EVERY`, where recent ones are packed."""
    return entries[0].place // PACKED_EVERY != (entries[-1].place + 1) // PACKED_EVERY


async def _store(
    connection: Connection, entries: Iterable[tuple[int, Sequence[Entry]]]
) -> Mapping[int, int]:
    """Store entries in packed rows, and return what they add to the total sum of each extent."""
    by_extent = sorted(entries)
    postings = [row for extent, added in by_extent for row in _posting_rows(extent, added)]
    spans_of = [row for extent, added in by_extent for row in _span_rows(extent, added)]
    spans = [(extent, kind, *row) for extent, kind, row in spans_of]
    if postings:
        await connection.copy_records_to_table(
            "postings", records=postings, columns=_POSTING_COLUMNS
        )
    if spans:
        await connection.copy_records_to_table("spans", records=spans, columns=_SPAN_COLUMNS)
    sums = defaultdict[tuple[int, int, int], int](int)
    for extent, bucket, content in postings:
        sums[extent, POSTINGS, bucket] += posting_mark(extent, bucket, content)
    for extent, kind, row in spans_of:
        sums[extent, SPANS, kind] += row.mark
    totals = defaultdict[int, int](int)
    for (extent, _, _), total in sums.items():
        totals[extent] += total
    if sums:
        keys = zip(*sums, strict=True)
        await connection.execute(
            _SQL["add_sums"], *keys, [total & SUM_MASK for total in sums.values()]
        )
    return totals


def _posting_rows(extent: int, entries: Sequence[Entry]) -> Iterator[tuple[int, int, bytes]]:
    buckets = defaultdict[int, defaultdict[bytes, list[int]]](lambda: defaultdict(list))
    places = defaultdict[int, list[int]](list)
    for entry in entries:
        for term in entry.terms:
            places[term].append(entry.place)
    for term, of_term in places.items():
        # Two terms may share a fingerprint.
        buckets[bucket_of(term)][fingerprint_of(term)] += of_term
    for bucket in sorted(buckets):
        for content in packed_postings(buckets[bucket]):
            yield extent, bucket, content


def _span_rows(extent: int, entries: Sequence[Entry]) -> Iterator[tuple[int, int, SpanRow]]:
    kinds = defaultdict[int, list[tuple[int, int, int]]](list)
    for entry in entries:
        for kind, low, high in entry.spans:
            kinds[kind].append((low, high, entry.place))
    for kind in sorted(kinds):
        for row in packed_spans(kinds[kind]):
            yield extent, kind, row
