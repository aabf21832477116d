"""The data provider in PostgreSQL."""

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
from helios_postgres.integrity import check_extents, collections_of, damaged
from helios_postgres.narrowing import Narrowed
from helios_postgres.planning import plan, shard_range
from helios_postgres.reading import Reading, Slice
from helios_postgres.replicas import Reads
from helios_postgres.views import shown_by
from helios_postgres.writing import Writer


class PostgresDataProvider(DataProvider):
    """
    Keeps every version of every resource in append-only tables.

    Any number of processes may write concurrently. Reads hold no transaction between two batches:
    versions never change, so the stamps of a view select the same versions as a snapshot would.
    """

    def __init__(self, database: Database, reads: Reads) -> None:
        self._database = database
        self._reads = reads
        self._clock = Clock(database)
        self._collections = Collections(database)
        self._writer = Writer(database, self._clock, self._collections)
        self._reading = Reading(reads)

    async def transaction_time(self) -> datetime:
        """Return an instant that every later write exceeds (P1)."""
        return from_stamp(await self._clock.settled_stamp())

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut the extents of each type into shards (P2)."""
        return await self._database.read(plan, view, shard_bytes)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard in the order of seqs (P3, P4, P6)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in self._reading.batches(of, batch_bytes):
                yield batch
                del batch  # or it would stay in memory while the next one is read

    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read the resources of a shard that may match according to the search index (P5)."""
        if (of := await self._slice(view, shard)) is not None:
            async for batch in Narrowed(self._reads, prefilter).batches(of, batch_bytes):
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
        if collection is None:
            return None
        async with self._database.connection() as connection:
            return await lookups.get(connection, (collection, key.resource_type), key.id, at=at)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that belong to no resource live at an instant."""
        collection = await self._collection(key)
        if collection is None:
            return set(ids)
        async with self._database.connection() as connection:
            return set(ids) - await lookups.live(connection, collection, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return the resources of `ids` that are live at an instant."""
        collection = await self._collection(key)
        if collection is None:
            return Batch()
        of_type = (collection, key.resource_type)
        try:
            return await self._reads.run(to_stamp(at), lookups.fetch, of_type, ids, at=at)
        except BackendUnavailable:
            raise
        except BackendError:
            batches = [await self._fetch_one(of_type, resource_id, at) for resource_id in ids]
            return Batch(
                lines=[line for batch in batches for line in batch.lines],
                damaged=[damaged for batch in batches for damaged in batch.damaged],
            )

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows."""
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
        of_type = (collection, key.resource_type)
        async with self._database.connection() as connection:
            return await lookups.history(connection, of_type, key.id, count=count, before=before)

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of the versions of several types, newest first."""
        collections = await self._collections.find(query.tenant, query.fhir_version, query.types)
        return await self._database.read(
            versions.versions, collections, query, count=count, after=after
        )

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type that has versions."""
        return await self._collections.keys()

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of a search, as of one snapshot of the database."""
        collection = await self._collection(key)
        return await self._database.read(
            searching.search, collection or searching.NOTHING, query, count=count, after=after
        )

    async def _collection(self, key: TypeKey) -> int | None:
        collections = await self._collections.find(
            key.tenant, key.fhir_version, [key.resource_type]
        )
        return collections.get(key.resource_type)

    async def _fetch_one(self, of_type: tuple[int, str], resource_id: str, at: datetime) -> Batch:
        """Return one resource, or report it as damaged if PostgreSQL cannot read it (P6)."""
        try:
            return await self._reads.run(
                to_stamp(at), lookups.fetch, of_type, [resource_id], at=at
            )
        except BackendUnavailable:
            raise
        except BackendError:
            return Batch(damaged=[damage_of(of_type[1], resource_id, None)])

    async def _slice(self, view: ExportView, shard: Shard) -> Slice | None:
        key = TypeKey.of(view.request, shard.resource_type)
        collections = await self._collections.find(
            key.tenant, key.fhir_version, {key.resource_type, "Patient"}
        )
        collection = collections.get(key.resource_type)
        if collection is None:
            stored = await self._database.read(collections_of, key.tenant, key.fhir_version)
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
            seqs=shard_range(collection, shard),
            shown=shown_by(view),
            cohort=cohort,
        )
