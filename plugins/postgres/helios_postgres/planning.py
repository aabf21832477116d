"""Plan an export from counts alone: no version is read, but for a few to be sure of a type."""

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

import msgspec

from helios_core import (
    ExportView,
    Level,
    SeqRange,
    Shard,
    ViewSize,
    collection_range,
    cut_shards,
    shard_count,
    total_size,
)
from helios_core.fhir import to_stamp
from helios_postgres.connections import Connection
from helios_postgres.runs import Holding, holdings
from helios_postgres.views import SHOWN, shown_by

SAMPLE = 64
"""Patients of a cohort whose resources are looked at to size a shard."""

LOOKED_UP = 2048
"""Patients, or versions, that are looked at before something is taken to be there."""

# How much there is of a type is nothing PostgreSQL can know beforehand. With a hundred of them it
# expects the worst, and would compile a query that is done in a millisecond.
_AS_IT_COMES = "SET LOCAL jit = off"
_FIRST_EXTENTS = """
SELECT extent, appended FROM extents
WHERE extent BETWEEN $1 AND $2 AND first_stamp <= $3 AND last_stamp > $4 AND first_stamp < $5
ORDER BY extent LIMIT $6
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


async def plan(
    connection: Connection, view: ExportView, shard_bytes: int, *, scopes: Mapping[str, int]
) -> list[Shard]:
    """Give the shards of a view, numbered in the order of its types (P2)."""
    await connection.execute(_AS_IT_COMES)
    planning = _Planning(connection, view, shard_bytes)
    # A cohort has to be sized before it is known into how many pieces it is cut.
    pieces = None if view.cohort is None else 1
    found = await planning.holdings(dict.fromkeys(scopes.values(), pieces))
    shards: list[Shard] = []
    for resource_type in view.request.types:
        scope = scopes.get(resource_type)
        if scope is None or (holding := found.get(scope)) is None:
            continue
        planned = await planning.shards(resource_type, scope, holding)
        shards += (
            msgspec.structs.replace(shard, number=number)
            for number, shard in enumerate(planned, len(shards))
        )
    return shards


class _Planning:
    """One view."""

    def __init__(self, connection: Connection, view: ExportView, shard_bytes: int) -> None:
        self._connection = connection
        self._view = view
        self._shown = shown_by(view)
        self._shard_bytes = shard_bytes

    async def holdings(self, pieces: Mapping[int, int | None]) -> Mapping[int, Holding]:
        """Give what may be shown of scopes, to be cut into pieces."""
        return await holdings(
            self._connection,
            pieces,
            self._shown,
            everybody=self._view.cohort is None and self._view.request.level is Level.SYSTEM,
            shard_bytes=self._shard_bytes,
        )

    async def shards(self, resource_type: str, scope: int, holding: Holding) -> Collection[Shard]:
        """Give the shards of one type; none where nothing of it is shown."""
        size = await self._size(scope, holding)
        if size is None:
            return []
        if self._view.cohort is not None and (pieces := shard_count(size, self._shard_bytes)) > 1:
            holding = (await self.holdings({scope: pieces}))[scope]
        return list(cut_shards(resource_type, holding.runs, size, shard_bytes=self._shard_bytes))

    async def _size(self, scope: int, holding: Holding) -> ViewSize | None:
        """Give the size of what is shown, nearly, or None where nothing is."""
        seqs = SeqRange(first=holding.runs[0].first, end=holding.runs[-1].end)
        if self._view.cohort is not None:
            return await self._size_of_cohort(self._view.cohort.patients, scope, seqs)
        size = total_size(holding.runs)
        request = self._view.request
        bounded = request.since is not None or request.until is not None
        if bounded or holding.last_stamp > to_stamp(self._view.transaction_time):
            return size if await self._shows_any(seqs) else None
        return size if size.resources else None

    async def _size_of_cohort(
        self, patients: frozenset[str], scope: int, seqs: SeqRange
    ) -> ViewSize | None:
        sample = list(islice(patients, SAMPLE))
        if not sample:
            return None
        found = await self._connection.fetchrow(
            _SHOWN_OF_COHORT, *self._parameters(seqs), scope, sample
        )
        shown, resources, total_bytes = found or (0, 0, 0)
        certain = len(sample) == len(patients)
        if not shown and (certain or not await self._has_any_of(patients, scope, seqs)):
            return None
        factor = len(patients) / len(sample)
        return ViewSize(resources=resources * factor, bytes=float(total_bytes) * factor)

    async def _has_any_of(self, patients: frozenset[str], scope: int, seqs: SeqRange) -> bool:
        """Look from the smaller side; where both are large, take it that they meet."""
        if len(patients) <= LOOKED_UP:
            bounds = (seqs.first, seqs.end)
            return bool(
                await self._connection.fetchval(_ANY_OF_COHORT, scope, list(patients), *bounds)
            )
        rows = await self._connection.fetch(_SOME_PATIENTS, scope, LOOKED_UP)
        return len(rows) == LOOKED_UP or not patients.isdisjoint(row[0] for row in rows)

    async def _shows_any(self, seqs: SeqRange) -> bool:
        """Look at the first versions; where there are more, take it that one of them is shown."""
        shown, left = self._shown, LOOKED_UP
        bounds = (shown.at, shown.since, shown.until)
        extents = await self._connection.fetch(_FIRST_EXTENTS, *seqs.extents, *bounds, left)
        for extent, appended in extents:
            within = seqs.within_extent(extent)
            if await self._connection.fetchval(_ANY_SHOWN, *self._parameters(within), left):
                return True
            left -= appended
            if left <= 0:
                return True
        return False

    def _parameters(self, seqs: SeqRange) -> tuple[Any, ...]:
        return (*self._shown.parameters(seqs), self._view.request.since is not None)


def whole(scope: int, shard: Shard) -> SeqRange:
    """Give the seqs of a shard."""
    return collection_range(scope).within(start=shard.start, end=shard.end)
