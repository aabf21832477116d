"""Planning: shards are cut by the counts of extents; at most a few versions per type are read."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

import msgspec

from helios_core import (
    ExportView,
    Level,
    SeqRange,
    SeqRun,
    Shard,
    ViewSize,
    collection_range,
    cut_shards,
    total_size,
)
from helios_core.fhir import to_stamp
from helios_mongodb.databases import Database, Document
from helios_mongodb.errors import translated
from helios_mongodb.extents import Extent, extent_from, extents_of
from helios_mongodb.integrity import check_extents, damage_if_few, damage_in, newest_of
from helios_mongodb.views import changed_by, may_show, shown_by, within

SAMPLE = 64
"""How many patients of a cohort are sampled to estimate its size."""

LOOKED_UP = 2048
"""How many patients or versions are read to find out whether a type has anything to export."""


class _Holding(msgspec.Struct):
    """The extents of a type that may have something to show in a view."""

    runs: list[SeqRun] = msgspec.field(default_factory=list)
    last_stamp: int = -1
    extents: list[Extent] = msgspec.field(default_factory=list)

    @property
    def seqs(self) -> SeqRange:
        """The range of all runs."""
        return SeqRange(first=self.runs[0].first, end=self.runs[-1].end)


async def plan(
    database: Database, view: ExportView, shard_bytes: int, *, collections: Mapping[str, int]
) -> list[Shard]:
    """Return the shards of a view, numbered from 0 in the order of its types (P2)."""
    planning = _Planning(database, view)
    with translated():
        holdings = await planning.holdings(collections)
        shards: list[Shard] = []
        for resource_type in view.request.types:
            collection = collections.get(resource_type)
            if collection is None or (holding := holdings.get(collection)) is None:
                continue
            size = await planning.size(resource_type, holding)
            if size is not None:
                planned = cut_shards(resource_type, holding.runs, size, shard_bytes=shard_bytes)
                shards += (
                    msgspec.structs.replace(shard, number=number)
                    for number, shard in enumerate(planned, len(shards))
                )
    return shards


class _Planning:
    """The planning of one view."""

    def __init__(self, database: Database, view: ExportView) -> None:
        self._versions = database["versions"]
        self._extents = database["extents"]
        self._view = view

    async def holdings(self, collections: Mapping[str, int]) -> Mapping[int, _Holding]:
        """Return the holding of each collection that may show something."""
        holdings = defaultdict[int, _Holding](_Holding)
        request = self._view.request
        all_resources = self._view.cohort is None and request.level is Level.SYSTEM
        for resource_type in request.types:
            if (collection := collections.get(resource_type)) is None:
                continue
            # The newest version is read first, so that the extents read next must include it.
            newest = await self._versions.find_one(**newest_of(collection))
            found = self._extents.find(extents_of(collection)).sort("_id", 1)
            extents = [extent_from(document) async for document in found]
            check_extents(collection, extents, newest)
            for extent in extents:
                if not may_show(self._view, extent):
                    continue
                current = extent.current(all_resources=all_resources)
                holding = holdings[collection]
                holding.extents.append(extent)
                holding.last_stamp = extent.last
                holding.runs.append(
                    SeqRun(
                        first=extent.seqs.first,
                        seqs=extent.rows,
                        resources=current.count,
                        bytes=current.size,
                    )
                )
        return holdings

    async def size(self, resource_type: str, holding: _Holding) -> ViewSize | None:
        """Return the approximate size of a shown type; None if nothing is shown or missing."""
        size = await self._size(holding)
        if size is not None:
            return size
        find_damage = damage_in if self._view.cohort is None else damage_if_few
        damage = await find_damage(self._versions, resource_type, holding.extents)
        # A shard is needed to report the damage.
        return total_size(holding.runs) if damage else None

    async def _size(self, holding: _Holding) -> ViewSize | None:
        if self._view.cohort is not None:
            return await self._size_of_cohort(self._view.cohort.patients, holding.seqs)
        size = total_size(holding.runs)
        request = self._view.request
        bounded = request.since is not None or request.until is not None
        if bounded or holding.last_stamp > to_stamp(self._view.transaction_time):
            return size if await self._shows_any(holding.seqs) else None
        return size if size.resources else None

    @property
    def _condition(self) -> Document:
        """The condition of versions that need a shard; deletions do only with `since`."""
        view = self._view
        return shown_by(view) if view.request.since is None else changed_by(view)

    async def _shows_any(self, seqs: SeqRange) -> bool:
        """Return whether a first version is shown, or whether there are more than `LOOKED_UP`."""
        first = await self._first(seqs, [{"$match": self._condition}, {"$limit": 1}])
        return bool(first) or await self._has_more(seqs)

    async def _size_of_cohort(self, patients: frozenset[str], seqs: SeqRange) -> ViewSize | None:
        sample = list(islice(patients, SAMPLE))
        if not sample:
            return None
        live = {"$cond": ["$d", 0, 1]}
        found = await self._aggregate(
            [
                {"$match": {"$and": [{"p": {"$in": sample}}, within(seqs), self._condition]}},
                {
                    "$group": {
                        "_id": None,
                        "shown": {"$sum": 1},
                        "resources": {"$sum": live},
                        "bytes": {"$sum": "$n"},
                    }
                },
            ]
        )
        shown, resources, size = 0, 0, 0
        for row in found:
            shown, resources, size = row["shown"], row["resources"], row["bytes"]
        certain = len(sample) == len(patients)
        if not shown and (certain or not await self._has_any_of(patients, seqs)):
            return None
        factor = len(patients) / len(sample)
        return ViewSize(resources=resources * factor, bytes=float(size) * factor)

    async def _has_any_of(self, patients: frozenset[str], seqs: SeqRange) -> bool:
        """
        Return whether a range has resources of the patients.

        The smaller side is looked up in the other; if both are large, the answer is True.
        """
        if len(patients) <= LOOKED_UP:
            condition = {"$and": [{"p": {"$in": list(patients)}}, within(seqs)]}
            return await self._versions.find_one(condition, {"_id": 1}) is not None
        first = await self._first(seqs, [{"$project": {"p": 1}}])
        has_any = any(not patients.isdisjoint(version["p"]) for version in first)
        return has_any or await self._has_more(seqs)

    async def _first(self, seqs: SeqRange, pipeline: list[Document]) -> list[Document]:
        """Return the output of a pipeline for the first versions in a range."""
        first: list[Document] = [
            {"$match": within(seqs)},
            {"$sort": {"_id": 1}},
            {"$limit": LOOKED_UP},
        ]
        return await self._aggregate([*first, *pipeline])

    async def _has_more(self, seqs: SeqRange) -> bool:
        versions = self._versions.find(within(seqs), {"_id": 1})
        found = versions.sort("_id", 1).skip(LOOKED_UP).limit(1)
        return bool(await found.to_list())

    async def _aggregate(self, pipeline: list[Document]) -> list[Document]:
        return await (await self._versions.aggregate(pipeline)).to_list()


def shard_range(collection: int, shard: Shard) -> SeqRange:
    """Return the range of the seqs of a shard."""
    return collection_range(collection).within(start=shard.start, end=shard.end)
