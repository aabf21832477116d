"""Plan an export from counts alone: no version is read, but for a few to be sure of a type."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

import msgspec

from helios_core.exports import ExportView, Level, Shard
from helios_core.extents import EXTENT_BITS, Range, scope_range
from helios_core.fhir.instants import to_stamp
from helios_core.planning import Run, Size, shards_of, size_of
from helios_postgres.databases import Connection
from helios_postgres.views import SHOWN, Shown, shown_by

SAMPLE = 64
"""Patients of a cohort whose resources are looked at to size a shard."""

LOOKED_UP = 2048
"""Patients, or versions, that are looked at before something is taken to be there."""

_EXTENTS = """
SELECT s.scope, e.extent, e.first_stamp, e.last_stamp, e.appended,
  e.begun - coalesce(t.ended, 0), e.appended_bytes - coalesce(t.ended_bytes, 0),
  e.compartment_begun - coalesce(t.compartment_ended, 0),
  e.compartment_bytes - coalesce(t.compartment_bytes, 0)
FROM unnest($1::bigint[]) AS s (scope)
JOIN extents AS e ON e.extent >= s.scope << 28 AND e.extent < (s.scope + 1) << 28
LEFT JOIN LATERAL (
  SELECT sum(ended) AS ended, sum(ended_bytes)::bigint AS ended_bytes,
    sum(compartment_ended) AS compartment_ended,
    sum(compartment_bytes)::bigint AS compartment_bytes
  FROM tallies WHERE extent = e.extent
) AS t ON true
WHERE e.first_stamp <= $2 AND e.last_stamp > $3 AND e.first_stamp < $4
ORDER BY e.extent
"""
_OR_DELETED = " AND (NOT v.deleted OR $7)"
_ANY_SHOWN = f"""
SELECT EXISTS (
  SELECT FROM (
    SELECT * FROM versions WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $8
  ) AS v WHERE true {SHOWN} {_OR_DELETED}
)
"""  # noqa: S608 - put together from constants
_OF_PATIENTS = """
SELECT c.seq FROM compartments AS c
WHERE c.scope = $8 AND c.patient = ANY ($9::text[]) AND c.seq >= $1 AND c.seq < $2
"""
_SHOWN_OF_COHORT = f"""
SELECT count(*), count(*) FILTER (WHERE NOT v.deleted), coalesce(sum(v.size), 0)
FROM versions AS v WHERE v.seq IN ({_OF_PATIENTS}) {SHOWN} {_OR_DELETED}
"""  # noqa: S608 - put together from constants
_ANY_OF_COHORT = """
SELECT EXISTS (SELECT FROM compartments AS c
WHERE c.scope = $1 AND c.patient = ANY ($2::text[]) AND c.seq >= $3 AND c.seq < $4)
"""
_SOME_PATIENTS = "SELECT patient FROM compartments WHERE scope = $1 LIMIT $2"


class _Extent(msgspec.Struct, frozen=True):
    """What an extent holds that is current by now."""

    extent: int
    first_stamp: int
    last_stamp: int
    appended: int
    live: int
    live_bytes: int
    compartment_live: int
    compartment_bytes: int


async def plan(
    connection: Connection, view: ExportView, shard_bytes: int, *, scopes: Mapping[str, int]
) -> list[Shard]:
    """Give the shards of a view, numbered in the order of its types (P2)."""
    shown = shown_by(view)
    extents = await _extents(connection, scopes.values(), shown)
    shards: list[Shard] = []
    for resource_type in view.request.types:
        scope = scopes.get(resource_type)
        if scope is None or not (found := extents.get(scope)):
            continue
        planning = _Planning(connection, view, scope, extents=found)
        size = await planning.size()
        if size is not None:
            for shard in shards_of(resource_type, planning.runs, size, shard_bytes=shard_bytes):
                shards.append(msgspec.structs.replace(shard, number=len(shards)))
    return shards


async def _extents(
    connection: Connection, scopes: Collection[int], shown: Shown
) -> Mapping[int, list[_Extent]]:
    bounds = (shown.at, shown.since, shown.until)
    found = defaultdict[int, list[_Extent]](list)
    for scope, *extent in await connection.fetch(_EXTENTS, list(scopes), *bounds):
        found[scope].append(_Extent(*extent))
    return found


class _Planning:
    """One type of one view."""

    def __init__(
        self,
        connection: Connection,
        view: ExportView,
        scope: int,
        *,
        extents: Collection[_Extent],
    ) -> None:
        self._connection = connection
        self._view = view
        self._scope = scope
        self._shown = shown_by(view)
        self._last_stamp = max(each.last_stamp for each in extents)
        whole = view.cohort is None and view.request.level is Level.SYSTEM
        self.runs = [_run(each, whole=whole) for each in extents]
        self._seqs = Range(first=self.runs[0].first, end=self.runs[-1].end)

    async def size(self) -> Size | None:
        """Give the size of what is shown, nearly, or None where nothing is."""
        if self._view.cohort is not None:
            return await self._size_of_cohort(self._view.cohort.patients)
        size = size_of(self.runs)
        request = self._view.request
        bounded = request.since is not None or request.until is not None
        if bounded or self._last_stamp > to_stamp(self._view.transaction_time):
            return size if await self._shows_any() else None
        return size if size.resources else None

    async def _size_of_cohort(self, patients: frozenset[str]) -> Size | None:
        sample = list(islice(patients, SAMPLE))
        if not sample:
            return None
        found = await self._connection.fetchrow(
            _SHOWN_OF_COHORT, *self._parameters(self._seqs), self._scope, sample
        )
        shown, resources, total_bytes = found or (0, 0, 0)
        certain = len(sample) == len(patients)
        if not shown and (certain or not await self._has_any_of(patients)):
            return None
        factor = len(patients) / len(sample)
        return Size(resources=resources * factor, bytes=float(total_bytes) * factor)

    async def _has_any_of(self, patients: frozenset[str]) -> bool:
        """Look from the smaller side; where both are large, take it that they meet."""
        if len(patients) <= LOOKED_UP:
            bounds = (self._seqs.first, self._seqs.end)
            return bool(
                await self._connection.fetchval(
                    _ANY_OF_COHORT, self._scope, list(patients), *bounds
                )
            )
        rows = await self._connection.fetch(_SOME_PATIENTS, self._scope, LOOKED_UP)
        return len(rows) == LOOKED_UP or not patients.isdisjoint(row[0] for row in rows)

    async def _shows_any(self) -> bool:
        """Look at the first versions; where there are more, take it that one of them is shown."""
        left = LOOKED_UP
        for run in self.runs:
            seqs = Range(first=run.first, end=run.end)
            if await self._connection.fetchval(_ANY_SHOWN, *self._parameters(seqs), left):
                return True
            left -= run.seqs
            if left <= 0:
                return True
        return False

    def _parameters(self, seqs: Range) -> tuple[Any, ...]:
        return (*self._shown.parameters(seqs), self._view.request.since is not None)


def _run(extent: _Extent, *, whole: bool) -> Run:
    return Run(
        first=extent.extent << EXTENT_BITS,
        seqs=extent.appended,
        resources=extent.live if whole else extent.compartment_live,
        bytes=extent.live_bytes if whole else extent.compartment_bytes,
    )


def whole(scope: int, shard: Shard) -> Range:
    """Give the seqs of a shard."""
    return scope_range(scope).within(start=shard.start, end=shard.end)
