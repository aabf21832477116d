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
    read_statements,
    shard_count,
    total_size,
)
from helios_core.fhir import to_stamp
from helios_postgres.compartments import may_have_any
from helios_postgres.connections import Connection
from helios_postgres.integrity import check_extents, damage_in, listed
from helios_postgres.runs import Holding, holdings
from helios_postgres.views import shown_by

_SQL = read_statements("helios_postgres", "planning")

SAMPLE = 64
"""Patients of a cohort whose resources are looked at to size a shard."""

LOOKED_UP = 2048
"""Patients, or versions, that are looked at before something is taken to be there."""


async def plan(connection: Connection, view: ExportView, shard_bytes: int) -> list[Shard]:
    """Return the shards of a view, numbered in the order of its types (P2)."""
    await connection.execute(_SQL["as_it_comes"])
    stored = await listed(connection, view.request.tenant, view.request.fhir_version)
    collections = {name: stored[name] for name in view.request.types if name in stored}
    await check_extents(connection, list(collections.values()))
    planning = _Planning(connection, view, shard_bytes, stored.get("Patient"))
    # A cohort has to be sized before it is known into how many pieces it is cut.
    pieces = None if view.cohort is None else 1
    found = await planning.holdings(dict.fromkeys(collections.values(), pieces))
    shards: list[Shard] = []
    for resource_type in view.request.types:
        collection = collections.get(resource_type)
        if collection is None or (holding := found.get(collection)) is None:
            continue
        planned = await planning.shards(resource_type, collection, holding)
        shards += (
            msgspec.structs.replace(shard, number=number)
            for number, shard in enumerate(planned, len(shards))
        )
    return shards


class _Planning:
    """One view."""

    def __init__(
        self, connection: Connection, view: ExportView, shard_bytes: int, patients: int | None
    ) -> None:
        self._connection = connection
        self._patients = patients
        self._view = view
        self._shown = shown_by(view)
        self._shard_bytes = shard_bytes

    async def holdings(self, pieces: Mapping[int, int | None]) -> Mapping[int, Holding]:
        """Return what may be shown of collections, to be cut into pieces."""
        return await holdings(
            self._connection,
            pieces,
            self._shown,
            everybody=self._view.cohort is None and self._view.request.level is Level.SYSTEM,
            shard_bytes=self._shard_bytes,
        )

    async def shards(
        self, resource_type: str, collection: int, holding: Holding
    ) -> Collection[Shard]:
        """Return the shards of one type; none if nothing of it is shown."""
        size = await self._size(collection, holding)
        if size is None:
            return []
        if self._view.cohort is not None and (pieces := shard_count(size, self._shard_bytes)) > 1:
            holding = (await self.holdings({collection: pieces}))[collection]
        return list(cut_shards(resource_type, holding.runs, size, shard_bytes=self._shard_bytes))

    async def _size(self, collection: int, holding: Holding) -> ViewSize | None:
        """Return the approximate size of what is shown, or None if nothing is."""
        seqs = SeqRange(first=holding.runs[0].first, end=holding.runs[-1].end)
        size = total_size(holding.runs)
        if self._view.cohort is not None:
            patients = self._view.cohort.patients
            return await self._size_of_cohort(patients, collection, seqs, size)
        request = self._view.request
        bounded = request.since is not None or request.until is not None
        if bounded or holding.last_stamp > to_stamp(self._view.transaction_time):
            return size if await self._shows_any(seqs) else None
        return size if size.resources else None

    async def _size_of_cohort(
        self, patients: frozenset[str], collection: int, seqs: SeqRange, counted: ViewSize
    ) -> ViewSize | None:
        sample = list(islice(patients, SAMPLE))
        if not sample:
            return None
        found = await self._connection.fetchrow(
            _SQL["shown_of_cohort"], *self._parameters(seqs), collection, sample
        )
        shown, resources, total_bytes = found or (0, 0, 0)
        if not shown and not await self._may_have_any_of(patients, collection, seqs, counted):
            return None
        factor = len(patients) / len(sample)
        return ViewSize(resources=resources * factor, bytes=float(total_bytes) * factor)

    async def _may_have_any_of(
        self, patients: frozenset[str], collection: int, seqs: SeqRange, counted: ViewSize
    ) -> bool:
        """Look from the smaller side; where both are large, take it that they meet."""
        connection = self._connection
        if len(patients) <= LOOKED_UP:
            query = (_SQL["any_of_cohort"], collection, list(patients), seqs.first, seqs.end)
            return await may_have_any(connection, seqs, patients, self._patients) or bool(
                await connection.fetchval(*query)
            )
        rows = await connection.fetch(_SQL["some_patients"], collection, LOOKED_UP)
        # Everything that is current and in a compartment has an entry, or entries are lost.
        lost = len(rows) < counted.resources
        return len(rows) == LOOKED_UP or lost or not patients.isdisjoint(row[0] for row in rows)

    async def _shows_any(self, seqs: SeqRange) -> bool:
        """Look at the first versions; where there are more, take it that one of them is shown."""
        shown, left = self._shown, LOOKED_UP
        bounds = (shown.at, shown.since, shown.until)
        extents = await self._connection.fetch(_SQL["first_extents"], *seqs.extents, *bounds, left)
        for extent, appended in extents:
            within = seqs.within_extent(extent)
            if await self._connection.fetchval(_SQL["any_shown"], *self._parameters(within), left):
                return True
            left -= appended
            if left <= 0:
                return True
        # Where versions are damaged, reading will say what is lost.
        return bool(await damage_in(self._connection, "", seqs))

    def _parameters(self, seqs: SeqRange) -> tuple[Any, ...]:
        return (*self._shown.parameters(seqs), self._view.request.since is not None)


def whole(collection: int, shard: Shard) -> SeqRange:
    """Return the seqs of a shard."""
    return collection_range(collection).within(start=shard.start, end=shard.end)
