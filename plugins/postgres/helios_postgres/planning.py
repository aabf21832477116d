"""Planning: shards are cut by the counts of extents; at most a few versions are read."""

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
from helios_postgres.integrity import check_extents, collections_of, damage_in
from helios_postgres.runs import Holding, holdings
from helios_postgres.views import shown_by

_SQL = read_statements("helios_postgres", "planning")

SAMPLE = 64
"""How many patients of a cohort are sampled to estimate its size."""

LOOKED_UP = 2048
"""How many patients or versions are read to find out whether a type has anything to export."""


async def plan(connection: Connection, view: ExportView, shard_bytes: int) -> list[Shard]:
    """Return the shards of a view, numbered from 0 in the order of its types (P2)."""
    await connection.execute(_SQL["as_it_comes"])
    stored = await collections_of(connection, view.request.tenant, view.request.fhir_version)
    collections = {name: stored[name] for name in view.request.types if name in stored}
    await check_extents(connection, list(collections.values()))
    planning = _Planning(connection, view, shard_bytes, stored.get("Patient"))
    # The number of pieces for a cohort is known only after its size has been estimated.
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
    """The planning of one view."""

    def __init__(
        self, connection: Connection, view: ExportView, shard_bytes: int, patients: int | None
    ) -> None:
        self._connection = connection
        self._patients = patients
        self._view = view
        self._shown = shown_by(view)
        self._shard_bytes = shard_bytes

    async def holdings(self, pieces: Mapping[int, int | None]) -> Mapping[int, Holding]:
        """Return the holdings of collections, in runs for this many pieces each."""
        return await holdings(
            self._connection,
            pieces,
            self._shown,
            all_resources=self._view.cohort is None and self._view.request.level is Level.SYSTEM,
            shard_bytes=self._shard_bytes,
        )

    async def shards(
        self, resource_type: str, collection: int, holding: Holding
    ) -> Collection[Shard]:
        """Return the shards of one type; none if it has nothing to show."""
        size = await self._size(collection, holding)
        if size is None:
            return []
        if self._view.cohort is not None and (pieces := shard_count(size, self._shard_bytes)) > 1:
            holding = (await self.holdings({collection: pieces}))[collection]
        return list(cut_shards(resource_type, holding.runs, size, shard_bytes=self._shard_bytes))

    async def _size(self, collection: int, holding: Holding) -> ViewSize | None:
        """Return the approximate size of a shown type, or None if nothing is shown."""
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
        """
        Return whether a range may have resources of the patients.

        The smaller side is looked up in the other; if both are large, the answer is True.
        """
        connection = self._connection
        if len(patients) <= LOOKED_UP:
            query = (_SQL["any_of_cohort"], collection, list(patients), seqs.first, seqs.end)
            return await may_have_any(connection, seqs, patients, self._patients) or bool(
                await connection.fetchval(*query)
            )
        rows = await connection.fetch(_SQL["some_patients"], collection, LOOKED_UP)
        # Every live resource in a compartment has an entry; with fewer, entries are lost.
        lost = len(rows) < counted.resources
        return len(rows) == LOOKED_UP or lost or not patients.isdisjoint(row[0] for row in rows)

    async def _shows_any(self, seqs: SeqRange) -> bool:
        """Return whether a first version is shown, or whether there are more than `LOOKED_UP`."""
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
        # If versions are damaged, a shard is needed to report them.
        return bool(await damage_in(self._connection, "", seqs))

    def _parameters(self, seqs: SeqRange) -> tuple[Any, ...]:
        return (*self._shown.parameters(seqs), self._view.request.since is not None)


def shard_range(collection: int, shard: Shard) -> SeqRange:
    """Return the range of the seqs of a shard."""
    return collection_range(collection).within(start=shard.start, end=shard.end)
