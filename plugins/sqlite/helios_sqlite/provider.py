"""The data provider in SQLite."""

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
from helios_sqlite import lookups, reading, searching, versions
from helios_sqlite.clock import settled_stamp
from helios_sqlite.collections import collection_keys
from helios_sqlite.databases import Database, unblocked
from helios_sqlite.narrowing import Narrowed
from helios_sqlite.planning import plan
from helios_sqlite.writing import write


class SQLiteDataProvider(DataProvider):
    """
    Keeps every version of every resource in one SQLite file.

    Any number of processes on one machine may have the file open. There is one writer at a time,
    so stamps ascend in the order of commits, and a stamp is settled once it is committed. Reads
    hold no transaction between two batches: the only field of a version that changes is its end,
    so the stamps of a view select the same versions as a snapshot would, and the WAL stays short.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def transaction_time(self) -> datetime:
        """Return an instant that every later write exceeds (P1)."""
        return from_stamp(await self._database.write(settled_stamp))

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut the extents of each type into shards (P2)."""
        return await self._database.read(plan, view, shard_bytes)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard in the order in which its versions were written (P3, P4, P6)."""
        async with self._database.reader(cohort_key=_key(view)) as reader:
            left = await unblocked(reading.begin, reader, view, shard)
            while left is not None:
                batch, left = await unblocked(
                    reading.next_batch, reader.connection, left, batch_bytes
                )
                if batch.lines or batch.damaged:
                    yield batch
                del batch  # or it would stay in memory while the next one is read

    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read the resources of a shard that may match according to the search index (P5)."""
        async with self._database.reader(cohort_key=_key(view)) as reader:
            left = await unblocked(reading.begin, reader, view, shard)
            if left is None:
                return
            narrowed = Narrowed(reader.connection, left, prefilter)
            while (batch := await unblocked(narrowed.next_batch, batch_bytes)) is not None:
                if batch.lines or batch.damaged:
                    yield batch
                del batch  # or it would stay in memory while the next one is read

    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Read the ids deleted after `since`; without `since` there are none."""
        if view.request.since is None:
            return
        async with self._database.reader(cohort_key=_key(view)) as reader:
            left = await unblocked(reading.begin, reader, view, shard)
            if left is not None:
                await unblocked(reading.check_deletions, reader.connection, left)
            while left is not None:
                ids, left = await unblocked(
                    reading.next_deleted, reader.connection, left, batch_rows
                )
                if ids:
                    yield ids

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Return the version that was current at an instant."""
        return await self._database.read(lookups.get, key, at=at)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that belong to no resource live at an instant."""
        return await self._database.read(lookups.missing, key, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return the resources of `ids` that are live at an instant."""
        return await self._database.read(lookups.fetch, key, ids, at=at)

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows."""
        return await self._database.read(lookups.among, view, resource_type, ids)

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """Apply changes in one transaction, under one stamp."""
        return await self._database.write(write, tenant, fhir_version, changes)

    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        """Return one version, or None."""
        return await self._database.read(lookups.get_version, key, version_id)

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        """Return the newest `count` versions below `before`."""
        return await self._database.read(lookups.history, key, count=count, before=before)

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of the versions of several types, newest first."""
        return await self._database.read(versions.versions, query, count=count, after=after)

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type that has versions."""
        return await self._database.read(collection_keys)

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of a search."""
        return await self._database.read(searching.search, key, query, count=count, after=after)


def _key(view: ExportView) -> str | None:
    return None if view.cohort is None else view.cohort.key
