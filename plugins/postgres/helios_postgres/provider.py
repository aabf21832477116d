"""Resources in PostgreSQL."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime

from helios_core import (
    AppliedChange,
    BackendError,
    BackendUnavailable,
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
    damage_of,
)
from helios_core.fhir import FHIRVersion, Prefilter, from_stamp, to_stamp
from helios_postgres import cohorts, lookups, searching, versions
from helios_postgres.clock import Clock
from helios_postgres.collections import Collections
from helios_postgres.databases import Database
from helios_postgres.integrity import check_extents, damaged, listed
from helios_postgres.narrowing import Narrowed
from helios_postgres.planning import plan, whole
from helios_postgres.reading import Reading, Slice
from helios_postgres.replicas import Reads
from helios_postgres.views import shown_by
from helios_postgres.writing import Writer


class PostgresDataProvider(DataProvider):
    """
    Keeps every version of every resource in tables that are only added to.

    Any number of processes may write at once. Reading holds no transaction between two batches:
    versions are never changed, so the bounds of a view say all that a snapshot would.
    """

    def __init__(self, database: Database, reads: Reads) -> None:
        self._database = database
        self._reads = reads
        self._clock = Clock(database)
        self._collections = Collections(database)
        self._writer = Writer(database, self._clock, self._collections)
        self._reading = Reading(reads)

    async def transaction_time(self) -> datetime:
        """Return an instant before which no write is under way (P1)."""
        return from_stamp(await self._clock.settled_stamp())

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut the extents of each type into shards (P2)."""
        return await self._database.read(plan, view, shard_bytes)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard in the order of its keys (P3, P4, P6)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in self._reading.batches(of, batch_bytes):
                yield batch
                del batch  # or it would be kept while the next one is read

    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read of a shard what the search index says may match (P5)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in Narrowed(self._reads, prefilter).batches(of, batch_bytes):
                yield batch
                del batch  # or it would be kept while the next one is read

    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Read the ids deleted after `since`; without `since` there is nothing to take back."""
        if view.request.since is None or (of := await self._slice(view, shard)) is None:
            return
        async for ids in self._reading.deleted(of, batch_rows):
            yield ids

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Return the version current at an instant."""
        collection = await self._collection(key.type)
        if collection is None:
            return None
        async with self._database.connection() as connection:
            return await lookups.get(connection, (collection, key.resource_type), key.id, at=at)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that no live resource has at an instant, with one query."""
        collection = await self._collection(key)
        if collection is None:
            return set(ids)
        async with self._database.connection() as connection:
            return set(ids) - await lookups.live(connection, collection, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return those of `ids` that are live at an instant, with one query."""
        collection = await self._collection(key)
        if collection is None:
            return Batch()
        place = (collection, key.resource_type)
        try:
            return await self._reads.run(to_stamp(at), lookups.fetch, place, ids, at=at)
        except BackendUnavailable:
            raise
        except BackendError:
            each = [await self._fetch_one(place, resource_id, at) for resource_id in ids]
            return Batch(
                lines=[line for batch in each for line in batch.lines],
                damaged=[damaged for batch in each for damaged in batch.damaged],
            )

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows, in one query."""
        collection = await self._collection(TypeKey.of(view.request, resource_type))
        if collection is None:
            return set()
        at = to_stamp(view.transaction_time)
        return await self._reads.run(at, lookups.among, collection, view, ids)

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
        if collection is None:
            return []
        place = (collection, key.resource_type)
        async with self._database.connection() as connection:
            return await lookups.history(connection, place, key.id, count=count, before=before)

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of the versions of some types, newest first, of one state."""
        collections = await self._collections.find(query.tenant, query.fhir_version, query.types)
        return await self._database.read(
            versions.versions, collections, query, count=count, after=after
        )

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type of which something was ever stored."""
        return await self._collections.keys()

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page in any of the orders, of one state of the database."""
        collection = await self._collection(key)
        return await self._database.read(
            searching.search, collection or searching.NOTHING, query, count=count, after=after
        )

    async def _collection(self, key: TypeKey) -> int | None:
        collections = await self._collections.find(
            key.tenant, key.fhir_version, [key.resource_type]
        )
        return collections.get(key.resource_type)

    async def _fetch_one(self, place: tuple[int, str], resource_id: str, at: datetime) -> Batch:
        """Return one resource, or report it as damaged if PostgreSQL cannot read it (P6)."""
        try:
            return await self._reads.run(to_stamp(at), lookups.fetch, place, [resource_id], at=at)
        except BackendUnavailable:
            raise
        except BackendError:
            return Batch(damaged=[damage_of(place[1], resource_id, None)])

    async def _slice(self, view: ExportView, shard: Shard) -> Slice | None:
        key = TypeKey.of(view.request, shard.resource_type)
        collections = await self._collections.find(
            key.tenant, key.fhir_version, {key.resource_type, "Patient"}
        )
        collection = collections.get(key.resource_type)
        if collection is None:
            stored = await self._database.read(listed, key.tenant, key.fhir_version)
            if key.resource_type in stored:
                raise damaged("an index lacks a collection")
            return None
        await self._database.read(check_extents, [collection])
        cohort = None
        if view.cohort is not None:
            patients = collections.get("Patient")
            cohort = await cohorts.stored(self._database, view.cohort, patients)
        return Slice(
            collection=collection,
            resource_type=shard.resource_type,
            seqs=whole(collection, shard),
            shown=shown_by(view),
            cohort=cohort,
        )
