"""Candidates: the versions that may satisfy a prefilter according to the search index."""

import json
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import msgspec

from helios_core import (
    EXTENT_BITS,
    EXTENT_ROWS,
    SUM_MASK,
    Positions,
    SeqRange,
    collection_range,
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
from helios_sqlite.errors import IndexDamaged
from helios_sqlite.indexing import (
    POSTINGS,
    SPAN_MODULUS,
    SPANS,
    UNKNOWN,
    bucket_of,
    posting_mark,
    terms_in,
    unpacked,
)
from helios_sqlite.integrity import extent_at, rows_of_sound_extent, snapshot
from helios_sqlite.views import first_after

_SQL = read_statements("helios_sqlite", "candidates")


EXTENTS_AT_ONCE = 32
"""How many extents a window has at most; the first windows are smaller."""

PICKED_AT_ONCE = 4096
"""How many seqs of a cohort a window has."""

_BOUNDS = ("low_from", "low_to", "high_from", "high_to")
_SPANS = msgspec.json.Decoder(tuple[int, set[int]])


class Candidates:
    """
    The versions of a collection that may satisfy a prefilter, current or not.

    Rows of the search index are verified against its sums. Ids are looked up in SQLite's index.
    With `by_rows`, if that lacks any version, the versions themselves are read and verified
    against the sums of their extents.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        collection: int,
        prefilter: Prefilter,
        *,
        by_rows: bool = False,
    ) -> None:
        self._connection = connection
        self._by_rows = by_rows
        self._sums: dict[tuple[int, int, int], int] = {}
        self._sound = set[tuple[int, int]]()
        """Extents and kinds of spans that were verified in this snapshot."""
        self._collection = collection
        # Versions that could not be read when they were indexed may satisfy any prefilter.
        self._prefilter = AnyOf((prefilter, AnyTerm(frozenset({UNKNOWN}))))
        self._bounds = _bounds(prefilter)

    def seqs(self, within: SeqRange, *, descending: bool = False) -> Iterator[list[int]]:
        """Yield the seqs in a range, in order, window by window as they are consumed."""
        remaining = self._narrowed(within)
        count = 1
        while extents := self._extents(remaining, count, descending=descending):
            count = min(2 * count, EXTENTS_AT_ONCE)
            yield self._found(extents, remaining, descending=descending)
            if descending:
                remaining = SeqRange(first=remaining.first, end=extents[-1] << EXTENT_BITS)
            else:
                remaining = SeqRange(first=(extents[-1] + 1) << EXTENT_BITS, end=remaining.end)

    def picked(self, within: SeqRange) -> Iterator[list[int]]:
        """Yield those of the candidates that are in the connection's table `picked`, in order."""
        remaining = self._narrowed(within)
        while seqs := self._picked(remaining):
            places = self._checked_places(list(dict.fromkeys(map(extent_of, seqs))))
            yield [seq for seq in seqs if seq % EXTENT_ROWS in places.get(extent_of(seq), ())]
            remaining = SeqRange(first=seqs[-1] + 1, end=remaining.end)

    def _narrowed(self, within: SeqRange) -> SeqRange:
        since, until = self._bounds
        collection = collection_range(self._collection)
        first, end = within.first, within.end
        if since is not None:
            first = max(first, first_after(self._connection, collection, since - 1))
        if until is not None:
            end = min(end, first_after(self._connection, collection, until))
        return SeqRange(first=first, end=end)

    def _extents(self, within: SeqRange, count: int, *, descending: bool) -> list[int]:
        if within.first >= within.end:
            return []
        query = _SQL["extents_descending"] if descending else _SQL["extents"]
        rows = self._connection.execute(query, (*within.extents, count))
        return [extent for (extent,) in rows.fetchall()]

    def _picked(self, within: SeqRange) -> list[int]:
        bounds = (within.first, within.end, PICKED_AT_ONCE)
        return [seq for (seq,) in self._connection.execute(_SQL["picked"], bounds).fetchall()]

    def _found(self, extents: Sequence[int], within: SeqRange, *, descending: bool) -> list[int]:
        places = self._checked_places(extents)
        seqs = (
            (extent << EXTENT_BITS) + place
            for extent in extents
            for place in sorted(places.get(extent, ()), reverse=descending)
        )
        return [seq for seq in seqs if within.first <= seq < within.end]

    def _checked_places(self, extents: Sequence[int]) -> Positions:
        """
        Return the positions in some extents that may satisfy the prefilter.

        Raises:
            IndexDamaged: The index does not agree with its sums.
        """
        try:
            with snapshot(self._connection):
                self._load_sums(extents)
                self._sound.clear()
                return self._places(self._prefilter, extents)
        except (TypeError, ValueError, struct.error) as error:  # columns of other types
            raise IndexDamaged from error

    def _load_sums(self, extents: Sequence[int]) -> None:
        parameters = {"extents": json.dumps(extents)}
        totals = dict(self._connection.execute(_SQL["totals"], parameters).fetchall())
        self._sums = {}
        for extent, part, bucket, total in self._connection.execute(_SQL["sums"], parameters):
            self._sums[extent, part, bucket] = total
            totals[extent] = totals.get(extent, 0) - total
        if any(total & SUM_MASK for total in totals.values()):
            raise IndexDamaged

    def _check(self, part: int, bucket: int, found: Mapping[int, int], of: Iterable[int]) -> None:
        for extent in of:
            if (self._sums.get((extent, part, bucket), 0) - found.get(extent, 0)) & SUM_MASK:
                raise IndexDamaged

    def _places(self, prefilter: Prefilter, extents: Sequence[int]) -> Positions:
        match prefilter:
            case AnyTerm(terms):
                return self._of_terms(terms, extents)
            case SpanWithin():
                return self._of_span(prefilter, extents)
            case AnyId(ids):
                return self._of_ids(ids, extents)
            case UpdatedWithin(since=since, until=until):
                return self._of_instants(since, until, extents)
            case AllOf(parts):
                return self._of_all(parts, extents)
            case AnyOf(parts):
                return union_of(self._places(part, extents) for part in parts)

    def _of_all(self, parts: Iterable[Prefilter], extents: Sequence[int]) -> Positions:
        """Search cheapest first, and the others only in extents that have matches so far."""
        found: Positions | None = None
        for part in sorted(parts, key=lookup_cost):
            places = self._places(part, extents)
            found = places if found is None else intersection_of(found, places)
            extents = [extent for extent in extents if extent in found]
            if not extents:
                return {}
        return found or {}

    def _of_terms(self, terms: Collection[int], extents: Sequence[int]) -> Positions:
        buckets = sorted({bucket_of(term) for term in terms})
        runs = [terms_in(bucket) for bucket in buckets]
        parameters = {"extents": json.dumps(extents), "buckets": json.dumps(runs)}
        found = defaultdict[int, set[int]](set)
        sums = defaultdict[int, defaultdict[int, int]](lambda: defaultdict(int))
        for row in self._connection.execute(_SQL["postings"], parameters):
            extent, term, place, more = row
            sums[bucket_of(term)][extent] += posting_mark(row)
            if term in terms:
                found[extent].add(place)
                if more is not None:
                    found[extent].update(unpacked(more))
        for bucket in buckets:
            self._check(POSTINGS, bucket, sums[bucket], extents)
        return found

    def _of_span(self, span: SpanWithin, extents: Sequence[int]) -> Positions:
        parameters = {
            "extents": json.dumps(extents),
            "kind": span.group,
            "modulus": SPAN_MODULUS,
        } | dict(zip(_BOUNDS, span.bounds, strict=True))
        # The first query verifies all spans of a kind; later ones only look up.
        sound = all((extent, span.group) in self._sound for extent in extents)
        query = _SQL["spans"] if sound else _SQL["spans_with_sums"]
        sums: dict[int, int] = {}
        found: dict[int, set[int]] = {}
        for extent, row in self._connection.execute(query, parameters):
            sums[extent], places = _SPANS.decode(row)
            if places:
                found[extent] = places
        if not sound:
            self._check(SPANS, span.group, sums, extents)
            self._sound.update((extent, span.group) for extent in extents)
        return found

    def _of_ids(self, ids: Collection[str], extents: Sequence[int]) -> Positions:
        if self._by_rows and not self._has_all_versions(ids):
            return self._of_rows(ids, extents)
        first, last = min(extents), max(extents)
        bounds = (first << EXTENT_BITS, (last + 1) << EXTENT_BITS)
        rows = self._connection.execute(
            _SQL["of_ids"], (self._collection, json.dumps(list(ids)), *bounds)
        )
        found = defaultdict[int, set[int]](set)
        for (seq,) in rows:
            found[extent_of(seq)].add(seq % EXTENT_ROWS)
        return found

    def _has_all_versions(self, ids: Collection[str]) -> bool:
        """Return whether SQLite's index has all versions of all these ids."""
        rows = self._connection.execute(
            _SQL["versions_of_ids"], (self._collection, json.dumps(list(ids)))
        )
        complete = set[str]()
        for resource_id, versions in groupby(rows, key=itemgetter(0)):
            _, _, numbers, current = zip(*versions, strict=True)
            if numbers == tuple(range(1, len(numbers) + 1)) and current[-1]:
                complete.add(resource_id)
        return complete.issuperset(ids)

    def _of_rows(self, ids: Collection[str], extents: Sequence[int]) -> Positions:
        found: dict[int, set[int]] = {}
        for number in extents:
            extent = extent_at(self._connection, number)
            rows = rows_of_sound_extent(self._connection, extent)
            if places := {row[0] % EXTENT_ROWS for row in rows if row[1] in ids}:
                found[number] = places
        return found

    def _of_instants(
        self, since: int | None, until: int | None, extents: Sequence[int]
    ) -> Positions:
        collection = collection_range(self._collection)
        first = (
            collection.first
            if since is None
            else first_after(self._connection, collection, since - 1)
        )
        end = collection.end if until is None else first_after(self._connection, collection, until)
        found: dict[int, set[int]] = {}
        for extent in extents:
            base = extent << EXTENT_BITS
            places = range(max(first - base, 0), min(end - base, EXTENT_ROWS))
            if places:
                found[extent] = set(places)
        return found


def _bounds(prefilter: Prefilter) -> tuple[int | None, int | None]:
    """Return inclusive bounds of the stamps that satisfy a prefilter; None if unbounded."""
    match prefilter:
        case UpdatedWithin(since=since, until=until):
            return since, until
        case AllOf(parts):
            bounds = [_bounds(part) for part in parts]
            since_all = [since for since, _ in bounds if since is not None]
            until_all = [until for _, until in bounds if until is not None]
            return max(since_all, default=None), min(until_all, default=None)
    return None, None
