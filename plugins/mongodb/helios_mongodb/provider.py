"""The data provider in MongoDB."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime

from helios_core import (
    AppliedChange,
    Batch,
    DataProvider,
    Delete,
    ExportView,
    Put,
    ResourceKey,
    SearchPage,
    SearchQuery,
    Shard,
    StoredVersion,
    TypeKey,
    VersionPage,
    VersionQuery,
)
from helios_core.fhir import FHIRVersion, Prefilter, from_stamp
from helios_mongodb import lookups
from helios_mongodb.clock import Clock
from helios_mongodb.collections import Collections
from helios_mongodb.databases import Database
from helios_mongodb.errors import translated
from helios_mongodb.planning import plan, shard_range
from helios_mongodb.reading import Reading, Slice
from helios_mongodb.searching import search
from helios_mongodb.versions import versions
from helios_mongodb.writing import Writer

_NOWHERE = 0


class MongoDataProvider(DataProvider):
    """
    Keeps every version of every resource as a document.

    Any number of processes may write concurrently; writes of one tenant are serialized. Reads need
    no transaction: the only field of a version that changes is its end, so the stamps of a view
    select the same versions as a snapshot would.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = Clock(database)
        self._collections = Collections(database)
        self._writer = Writer(database, self._clock, self._collections)
        self._reading = Reading(database)

    async def transaction_time(self) -> datetime:
        """Return an instant that every later write exceeds (P1)."""
        return from_stamp(await self._clock.settled_stamp())

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut the extents of each type into shards (P2)."""
        request = view.request
        collections = await self._collections.find(
            request.tenant, request.fhir_version, request.types
        )
        if len(collections) < len(set(request.types)):
            await self._collections.check(request.tenant)
        return await plan(self._database, view, shard_bytes, collections=collections)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard in the order in which its versions were written (P3, P4, P6)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in self._reading.batches(of, batch_bytes):
                yield batch
                del batch  # or it would stay in memory while the next one is read

    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read the resources of a shard that may match according to the search index (P5)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in self._reading.batches(of, batch_bytes, prefilter=prefilter):
                yield batch
                del batch  # or it would stay in memory while the next one is read

    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Read the ids deleted after `since`; without `since` there are none."""
        if view.request.since is None or (of := await self._slice(view, shard)) is None:
            return
        async for ids in self._reading.deleted(of, batch_rows):
            yield ids

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Return the version that was current at an instant."""
        collection = await self._collection(key.type)
        with translated():
            version = await lookups.get(self._database, collection, key.id, at=at)
            if version is None:
                return None
            return await lookups.stored_version(self._database, key.resource_type, version)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that belong to no resource live at an instant."""
        collection = await self._collection(key)
        return set(ids) - await lookups.live(self._database, collection, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return the resources of `ids` that are live at an instant."""
        of_type = (await self._collection(key), key.resource_type)
        return await lookups.fetch(self._database, of_type, ids, at=at)

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows."""
        collection = await self._collection(TypeKey.of(view.request, resource_type))
        return await lookups.among(self._database, collection, view, ids)

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """Apply changes in one transaction, under one stamp."""
        return await self._writer.write(tenant, fhir_version, changes)

    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        """Return one version, or None."""
        versions = await self.history(key, count=1, before=version_id + 1)
        return versions[0] if versions and versions[0].version_id == version_id else None

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        """Return the newest `count` versions below `before`."""
        collection = await self._collection(key.type)
        with translated():
            versions = await lookups.history(
                self._database, collection, key.id, count=count, before=before
            )
            return [
                await lookups.stored_version(self._database, key.resource_type, version)
                for version in versions
            ]

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of the versions of several types, newest first."""
        collections = await self._collections.find(query.tenant, query.fhir_version, query.types)
        with translated():
            return await versions(self._database, collections, query, count=count, after=after)

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type that has versions."""
        return await self._collections.keys()

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of a search, as of one stamp."""
        collection = await self._collection(key)
        stamp = await self._clock.current_stamp(key.tenant)
        with translated():
            return await search(self._database, collection, query, stamp, count=count, after=after)

    async def _collection(self, key: TypeKey) -> int:
        """Return the number of a type's collection, or `_NOWHERE` if it has none."""
        collections = await self._collections.find(
            key.tenant, key.fhir_version, [key.resource_type]
        )
        return collections.get(key.resource_type, _NOWHERE)

    async def _slice(self, view: ExportView, shard: Shard) -> Slice | None:
        collection = await self._collection(TypeKey.of(view.request, shard.resource_type))
        if collection == _NOWHERE:
            await self._collections.check(view.request.tenant)
            return None
        return Slice(
            view=view,
            resource_type=shard.resource_type,
            seqs=shard_range(collection, shard),
        )
