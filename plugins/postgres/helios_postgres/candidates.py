"""What the search index says may satisfy a prefilter, extent by extent."""

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from helios_core.errors import BackendError
from helios_core.fhir.search import (
    AllOf,
    AnyId,
    AnyOf,
    AnyTerm,
    Prefilter,
    Span,
    Updated,
)
from helios_postgres.clock import FOREVER
from helios_postgres.databases import Connection
from helios_postgres.indexing import recent_entries
from helios_postgres.packing import (
    UNKNOWN,
    Entry,
    bucket_of,
    fingerprint_of,
    places_of,
    unpacked_places,
    unpacked_spans,
)
from helios_postgres.ranges import EXTENT_BITS, EXTENT_ROWS, extent_of

_RECENT = "SELECT extent, content FROM recent_terms WHERE extent = ANY($1::bigint[])"
_POSTINGS = """
SELECT extent, bucket, content FROM postings
WHERE extent = ANY($1::bigint[]) AND bucket = ANY($2::smallint[])
"""
_SPANS = """
SELECT extent, places, CASE WHEN NOT (
  low_min >= $3 AND low_max <= $4 AND high_min >= $5 AND high_max <= $6
) THEN content END
FROM spans WHERE extent = ANY($1::bigint[]) AND kind = $2
AND low_max >= $3 AND low_min <= $4 AND high_max >= $5 AND high_min <= $6
"""
# Earlier versions are not among the heads, but they have endings.
_OF_IDS = """
SELECT seq FROM resources WHERE scope = $1 AND id = ANY($2::text[])
UNION ALL SELECT seq FROM endings WHERE scope = $1 AND id = ANY($2::text[])
"""
_FILLED = """
SELECT extent, appended FROM extents WHERE extent = ANY($1::bigint[])
AND last_stamp >= $2 AND first_stamp <= $3
"""

_LOWEST = -1 << 63

Places = Mapping[int, Collection[int]]
"""For each extent, places in it."""


class _Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Where a span has to begin and to end."""

    low_from: int
    low_to: int
    high_from: int
    high_to: int

    def within(self, spans: Iterable[tuple[int, int, int]]) -> list[int]:
        low_from, low_to, high_from, high_to = msgspec.structs.astuple(self)
        return [
            place
            for place, low, high in spans
            if low_from <= low <= low_to and high_from <= high <= high_to
        ]

    def hold(self, low: int, high: int) -> bool:
        return self.low_from <= low <= self.low_to and self.high_from <= high <= self.high_to


async def candidates(
    connection: Connection, scope: int, prefilter: Prefilter, *, extents: Sequence[int]
) -> Places:
    """
    Give the versions in some extents that may satisfy a prefilter, current or not.

    Raises:
        BackendError: The index is damaged.
    """
    try:
        return await _candidates(connection, scope, prefilter, extents)
    except (ValueError, struct.error, msgspec.DecodeError) as error:
        raise BackendError(
            f"rows of the search index cannot be unpacked ({type(error).__name__}); set"
            " terms_version to 0 in the table search_index, so that helios migrate makes it anew"
        ) from error


async def _candidates(
    connection: Connection, scope: int, prefilter: Prefilter, extents: Sequence[int]
) -> Places:
    # What could not be read when it was indexed may satisfy anything.
    condition = AnyOf((prefilter, AnyTerm(frozenset({UNKNOWN}))))
    # What is recent is read first: a writer may move it to the other tables in the meantime.
    recent: defaultdict[int, list[Entry]] = defaultdict(list)
    for extent, content in await connection.fetch(_RECENT, extents):
        recent[extent] += recent_entries(content)
    return await _Window(connection, scope, recent).places(condition, extents)


def seqs_in(places: Places) -> list[int]:
    """Give the seqs of places, ascending."""
    return [
        (extent << EXTENT_BITS) + place
        for extent in sorted(places)
        for place in sorted(places[extent])
    ]


class _Window:
    """Some extents that are looked into together."""

    def __init__(
        self, connection: Connection, scope: int, recent: Mapping[int, Sequence[Entry]]
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._recent = recent

    async def places(self, prefilter: Prefilter, extents: Sequence[int]) -> dict[int, set[int]]:
        match prefilter:
            case AnyTerm(terms):
                return await self._of_terms(terms, extents)
            case Span():
                return await self._of_span(prefilter, extents)
            case AnyId(ids):
                return await self._of_ids(ids, extents)
            case Updated(since=since, until=until):
                return await self._of_instants(since, until, extents)
            case AllOf(parts):
                return await self._of_all(parts, extents)
            case AnyOf(parts):
                return _united([await self.places(part, extents) for part in parts])

    async def _of_all(
        self, parts: Iterable[Prefilter], extents: Sequence[int]
    ) -> dict[int, set[int]]:
        """Look further only where there was something, beginning with what costs least."""
        first, *others = sorted(parts, key=_cost)
        found = await self.places(first, extents)
        for part in others:
            if not found:
                break
            places = await self.places(part, list(found))
            found = {
                extent: common
                for extent in found.keys() & places.keys()
                if (common := found[extent] & places[extent])
            }
        return found

    async def _of_terms(
        self, terms: frozenset[int], extents: Sequence[int]
    ) -> dict[int, set[int]]:
        found = self._in_recent(extents, lambda entry: not terms.isdisjoint(entry.terms))
        fingerprints = defaultdict[int, list[bytes]](list)
        for term in terms:
            fingerprints[bucket_of(term)].append(fingerprint_of(term))
        rows = await self._connection.fetch(_POSTINGS, extents, list(fingerprints))
        for extent, bucket, content in rows:
            for fingerprint in fingerprints[bucket]:
                if places := places_of(content, fingerprint):
                    found[extent].update(places)
        return found

    async def _of_span(self, span: Span, extents: Sequence[int]) -> dict[int, set[int]]:
        bounds = _Bounds(
            low_from=_or(span.low_from, _LOWEST),
            low_to=_or(span.low_to, FOREVER),
            high_from=_or(span.high_from, _LOWEST),
            high_to=_or(span.high_to, FOREVER),
        )
        found = self._in_recent(
            extents,
            lambda entry: any(
                kind == span.group and bounds.hold(low, high) for kind, low, high in entry.spans
            ),
        )
        rows = await self._connection.fetch(
            _SPANS, extents, span.group, *msgspec.structs.astuple(bounds)
        )
        for extent, places, content in rows:
            if content is None:
                found[extent].update(unpacked_places(places))
            elif some := bounds.within(unpacked_spans(places, content)):
                found[extent].update(some)
        return found

    async def _of_ids(self, ids: Collection[str], extents: Sequence[int]) -> dict[int, set[int]]:
        wanted = set(extents)
        found = defaultdict[int, set[int]](set)
        for (seq,) in await self._connection.fetch(_OF_IDS, self._scope, list(ids)):
            if extent_of(seq) in wanted:
                found[extent_of(seq)].add(seq % EXTENT_ROWS)
        return found

    async def _of_instants(
        self, since: int | None, until: int | None, extents: Sequence[int]
    ) -> dict[int, set[int]]:
        """Give all of the extents that were being filled then."""
        bounds = (_or(since, _LOWEST), _or(until, FOREVER))
        rows = await self._connection.fetch(_FILLED, extents, *bounds)
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


def _united(several: Iterable[Mapping[int, set[int]]]) -> dict[int, set[int]]:
    found = defaultdict[int, set[int]](set)
    for places in several:
        for extent, each in places.items():
            found[extent] |= each
    return found


def _cost(prefilter: Prefilter) -> int:
    match prefilter:
        case AnyId():
            return 0
        case AnyTerm():
            return 1
        case AllOf(parts):
            return min(map(_cost, parts))
        case AnyOf(parts):
            return max(map(_cost, parts))
        case Span():
            return 3
    return 2


def _or(bound: int | None, otherwise: int) -> int:
    return otherwise if bound is None else bound
