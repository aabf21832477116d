"""Candidates: the versions that may satisfy a prefilter according to the search index."""

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from helios_core import (
    EXTENT_BITS,
    EXTENT_ROWS,
    SUM_MASK,
    BackendError,
    Positions,
    extent_of,
    intersection_of,
    read_statements,
    union_of,
)
from helios_core.fhir import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Prefilter,
    SpanWithin,
    UpdatedWithin,
    lookup_cost,
)
from helios_postgres.connections import Connection
from helios_postgres.indexing import recent_entries
from helios_postgres.integrity import rows_of_sound_extents
from helios_postgres.packing import (
    MARK_MODULUS,
    POSTINGS,
    SPANS,
    UNKNOWN,
    Entry,
    bucket_of,
    fingerprint_of,
    mark_of,
    places_of,
    posting_mark,
    recent_mark,
    unpacked_places,
    unpacked_spans,
)

_SQL = read_statements("helios_postgres", "candidates")


class _Bounds(NamedTuple):
    """Inclusive bounds of the beginning and the end of a span."""

    low_from: int
    low_to: int
    high_from: int
    high_to: int

    def within(self, spans: Iterable[tuple[int, int, int]]) -> list[int]:
        low_from, low_to, high_from, high_to = self
        return [
            place
            for place, low, high in spans
            if low_from <= low <= low_to and high_from <= high <= high_to
        ]

    def hold(self, low: int, high: int) -> bool:
        return self.low_from <= low <= self.low_to and self.high_from <= high <= self.high_to


async def candidates(
    connection: Connection,
    collection: int,
    prefilter: Prefilter,
    *,
    extents: Sequence[int],
    by_rows: bool = False,
) -> Positions:
    """
    Return the versions in extents that may satisfy a prefilter, current or not.

    Rows of the search index are verified against its sums; the caller's transaction must see a
    single snapshot. Ids are looked up in PostgreSQL's indexes. With `by_rows`, if those lack any
    version, the versions themselves are read and verified against the sums of their extents.

    Raises:
        BackendError: The index is damaged.
    """
    try:
        return await _candidates(connection, collection, prefilter, extents, by_rows=by_rows)
    except (ValueError, struct.error, msgspec.DecodeError) as error:
        raise _damaged() from error


async def _candidates(
    connection: Connection,
    collection: int,
    prefilter: Prefilter,
    extents: Sequence[int],
    *,
    by_rows: bool,
) -> Positions:
    # Versions that could not be read when they were indexed may satisfy any prefilter.
    condition = AnyOf((prefilter, AnyTerm(frozenset({UNKNOWN}))))
    recent: defaultdict[int, list[Entry]] = defaultdict(list)
    marks = defaultdict[int, int](int)
    for extent, content in await connection.fetch(_SQL["recent"], extents):
        marks[extent] += recent_mark(extent, content)
        recent[extent] += recent_entries(content)
    sums = await _sums(connection, extents, marks)
    window = _Window(connection, collection, recent, sums, by_rows=by_rows)
    return await window.places(condition, extents)


async def _sums(
    connection: Connection, extents: Sequence[int], recent: Mapping[int, int]
) -> Mapping[tuple[int, int, int], int]:
    """Return the expected sums of the index, by extent, part and bucket."""
    sums: dict[tuple[int, int, int], int] = {}
    packed = defaultdict[int, int](int)
    for extent, part, bucket, total in await connection.fetch(_SQL["sums"], extents):
        sums[extent, part, bucket] = total
        packed[extent] += total
    for extent, packed_sum, recent_sum in await connection.fetch(_SQL["totals"], extents):
        if (packed_sum - packed[extent]) & SUM_MASK or (recent_sum - recent[extent]) & SUM_MASK:
            raise _damaged()
    return sums


def _damaged() -> BackendError:
    return BackendError(
        "the search index in PostgreSQL is damaged; stop the servers that use it, set"
        " terms_version to 0 in its table search_index, and run: helios migrate"
    )


def seqs_in(places: Positions) -> list[int]:
    """Return the seqs of positions, ascending."""
    return [
        (extent << EXTENT_BITS) + place
        for extent in sorted(places)
        for place in sorted(places[extent])
    ]


class _Window:
    """Some extents that are searched together."""

    def __init__(
        self,
        connection: Connection,
        collection: int,
        recent: Mapping[int, Sequence[Entry]],
        sums: Mapping[tuple[int, int, int], int],
        *,
        by_rows: bool,
    ) -> None:
        self._connection = connection
        self._collection = collection
        self._recent = recent
        self._sums = sums
        self._by_rows = by_rows

    def _check(self, part: int, bucket: int, found: Mapping[int, int], of: Iterable[int]) -> None:
        for extent in of:
            if (self._sums.get((extent, part, bucket), 0) - found.get(extent, 0)) & SUM_MASK:
                raise _damaged()

    async def places(self, prefilter: Prefilter, extents: Sequence[int]) -> dict[int, set[int]]:
        match prefilter:
            case AnyTerm(terms):
                return await self._of_terms(terms, extents)
            case SpanWithin():
                return await self._of_span(prefilter, extents)
            case AnyId(ids):
                return await self._of_ids(ids, extents)
            case UpdatedWithin():
                return await self._of_instants(prefilter, extents)
            case AllOf(parts):
                return await self._of_all(parts, extents)
            case AnyOf(parts):
                return union_of([await self.places(part, extents) for part in parts])

    async def _of_all(
        self, parts: Iterable[Prefilter], extents: Sequence[int]
    ) -> dict[int, set[int]]:
        """Search cheapest first, and the others only in extents that have matches so far."""
        first, *others = sorted(parts, key=lookup_cost)
        found = await self.places(first, extents)
        for part in others:
            if not found:
                break
            places = await self.places(part, list(found))
            found = intersection_of(found, places)
        return found

    async def _of_terms(
        self, terms: frozenset[int], extents: Sequence[int]
    ) -> dict[int, set[int]]:
        found = self._in_recent(extents, lambda entry: not terms.isdisjoint(entry.terms))
        fingerprints = defaultdict[int, list[bytes]](list)
        for term in terms:
            fingerprints[bucket_of(term)].append(fingerprint_of(term))
        rows = await self._connection.fetch(_SQL["postings"], extents, list(fingerprints))
        sums = defaultdict[int, defaultdict[int, int]](lambda: defaultdict(int))
        for extent, bucket, content in rows:
            sums[bucket][extent] += posting_mark(extent, bucket, content)
        for bucket in fingerprints:
            self._check(POSTINGS, bucket, sums[bucket], extents)
        for extent, bucket, content in rows:
            for fingerprint in fingerprints[bucket]:
                if places := places_of(content, fingerprint):
                    found[extent].update(places)
        return found

    async def _of_span(self, span: SpanWithin, extents: Sequence[int]) -> dict[int, set[int]]:
        bounds = _Bounds(*span.bounds)
        found = self._in_recent(
            extents,
            lambda entry: any(
                kind == span.group and bounds.hold(low, high) for kind, low, high in entry.spans
            ),
        )
        rows = await self._connection.fetch(_SQL["span_sums"], extents, span.group, MARK_MODULUS)
        self._check(SPANS, span.group, {extent: int(total) for extent, total in rows}, extents)
        rows = await self._connection.fetch(_SQL["spans"], extents, span.group, *span.bounds)
        for extent, places, content, places_mark, content_mark in rows:
            if mark_of(places) != places_mark or (
                content is not None and mark_of(content) != content_mark
            ):
                raise _damaged()
            if content is None:
                found[extent].update(unpacked_places(places))
            elif matching := bounds.within(unpacked_spans(places, content)):
                found[extent].update(matching)
        return found

    async def _of_ids(self, ids: Collection[str], extents: Sequence[int]) -> dict[int, set[int]]:
        searched = set(extents)
        found = defaultdict[int, set[int]](set)
        if self._by_rows and not await self._have_all_versions(ids):
            for extent, place, resource_id in await rows_of_sound_extents(
                self._connection, extents
            ):
                if resource_id in ids:
                    found[extent].add(place)
            return found
        for (seq,) in await self._connection.fetch(_SQL["of_ids"], self._collection, list(ids)):
            if extent_of(seq) in searched:
                found[extent_of(seq)].add(seq % EXTENT_ROWS)
        return found

    async def _have_all_versions(self, ids: Collection[str]) -> bool:
        """Return whether PostgreSQL's indexes have all versions of all these ids."""
        found = await self._connection.fetchval(_SQL["found_ids"], self._collection, list(ids))
        return bool(found == len(set(ids)))

    async def _of_instants(
        self, updated: UpdatedWithin, extents: Sequence[int]
    ) -> dict[int, set[int]]:
        """Return all positions of the extents that were written to in the period."""
        rows = await self._connection.fetch(_SQL["filled"], extents, *updated.bounds)
        return {extent: set(range(appended)) for extent, appended in rows}

    def _in_recent(
        self, extents: Sequence[int], satisfies: Callable[[Entry], bool]
    ) -> defaultdict[int, set[int]]:
        found = defaultdict[int, set[int]](set)
        for extent in extents:
            for entry in self._recent.get(extent, ()):
                if satisfies(entry):
                    found[extent].add(entry.place)
        return found
