"""The search index: what is kept of each version, and how the index of a store is made anew."""

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

ENOUGH = 256
"""At every how many places of an extent what is recent in it is divided into buckets."""

_POSTING_COLUMNS = ("extent", "bucket", "content")
_SPAN_COLUMNS = ("extent", "kind", *SpanRow._fields)


_ENTRIES = msgspec.msgpack.Decoder(list[Entry])
_ENCODER = msgspec.msgpack.Encoder()


class IndexSums(msgspec.Struct):
    """What a transaction adds to the sums of an extent's index."""

    packed: int = 0
    recent: int = 0


class Postings:
    """What one transaction adds to the index."""

    def __init__(self) -> None:
        self._entries = defaultdict[int, list[Entry]](list)

    def add(self, seq: int, terms: IndexTerms | None) -> None:
        """
        Note what is in a version, None where it is a deletion.

        The seqs of an extent come in ascending order.
        """
        extent, place = divmod(seq, EXTENT_ROWS)
        self._entries[extent].append(_entry(place, terms or IndexTerms()))

    async def store(self, connection: Connection) -> Mapping[int, IndexSums]:
        """
        Write everything down, and return what that adds to the sums of each extent.

        The transaction is the only one that fills these extents, so nobody waits for it here.
        """
        sums = defaultdict[int, IndexSums](IndexSums)
        few = {extent: each for extent, each in self._entries.items() if not _is_enough(each)}
        if few:
            contents = [_ENCODER.encode(each) for each in few.values()]
            await connection.execute(_SQL["add_recent"], list(few), contents)
            for extent, content in zip(few, contents, strict=True):
                sums[extent].recent += recent_mark(extent, content)
        if many := {extent: each for extent, each in self._entries.items() if extent not in few}:
            for extent, content in await connection.fetch(_SQL["take_recent"], list(many)):
                many[extent] = [*_ENTRIES.decode(content), *many[extent]]
                sums[extent].recent -= recent_mark(extent, content)
            for extent, total in (await _store(connection, many.items())).items():
                sums[extent].packed += total
        return sums


def recent_entries(content: bytes) -> list[Entry]:
    """Return what one small transaction noted."""
    return _ENTRIES.decode(content)


async def is_indexed(connection: Connection) -> bool:
    """Return whether the index was made by the rules that searches go by."""
    return bool(await connection.fetchval(_SQL["made_by"]) == TERMS_VERSION)


async def index_anew(connection: Connection) -> None:
    """Make the index of all versions; the caller's transaction makes it all or nothing."""
    await connection.execute(_SQL["clear"])
    for collection, fhir_version, resource_type in await connection.fetch(_SQL["collections"]):
        if fhir_version not in _VERSIONS:  # a damaged row: no search is about it
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
    """Return whether a transaction comes past one of the places at which recent terms are divided."""
    return entries[0].place // ENOUGH != (entries[-1].place + 1) // ENOUGH


async def _store(
    connection: Connection, entries: Iterable[tuple[int, Sequence[Entry]]]
) -> Mapping[int, int]:
    """Pack entries into rows, and return what they add to the sum of sums of each extent."""
    by_extent = sorted(entries)
    postings = [row for extent, each in by_extent for row in _posting_rows(extent, each)]
    spans_of = [row for extent, each in by_extent for row in _span_rows(extent, each)]
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
    for term, each in places.items():
        # Two terms may share a fingerprint.
        buckets[bucket_of(term)][fingerprint_of(term)] += each
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
