"""The data provider in a bucket."""

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
from helios_s3 import lookups, reading, searching, versions, writing
from helios_s3.compaction import Compactor
from helios_s3.planning import plan
from helios_s3.rows import Rows


class S3DataProvider(DataProvider):
    """
    Keeps every version of every resource in one bucket.

    Any number of processes on any machines may use the bucket. They write a log of numbered
    commits, each created by one conditional request, and stamps ascend in the order of commits.
    Versions are never changed or removed, only moved by compaction, so the stamps of a view select
    the same versions as a snapshot would.
    """

    def __init__(self, rows: Rows, compactor: Compactor) -> None:
        self._rows = rows
        self._compactor = compactor

    async def transaction_time(self) -> datetime:
        """Return an instant that every later write exceeds (P1)."""
        async with self._rows.log.appending:
            return from_stamp(await writing.settle(self._rows))

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut each type into ranges of ids or patients, by the sizes of its blocks (P2)."""
        return await plan(self._rows, view, shard_bytes)

    def read(self, view: ExportView, shard: Shard, *, batch_bytes: int) -> AsyncIterator[Batch]:
        """Read a shard in the order of ids (P3, P6)."""
        return reading.read(self._rows, view, shard, batch_bytes, None)

    def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read the resources of a shard that may match by id and last change (P5)."""
        return reading.read(self._rows, view, shard, batch_bytes, prefilter)

    def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Read the ids deleted after `since`; without `since` there are none."""
        return reading.read_deleted(self._rows, view, shard, batch_rows)

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Return the version that was current at an instant."""
        return await lookups.get(self._rows, key, at=at)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """Return those of `ids` that belong to no resource live at an instant."""
        return await lookups.missing(self._rows, key, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return the resources of `ids` that are live at an instant."""
        return await lookups.fetch(self._rows, key, ids, at=at)

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows."""
        return await lookups.among(self._rows, view, resource_type, ids)

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """Apply changes in one commit, under one stamp."""
        await self._compactor.relieve()
        async with self._rows.log.appending:
            applied = await writing.write(self._rows, tenant, fhir_version, changes)
        self._compactor.notice()
        return applied

    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        """Return one version, or None."""
        return await lookups.get_version(self._rows, key, version_id)

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        """Return the newest `count` versions below `before`."""
        return await lookups.history(self._rows, key, count=count, before=before)

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of versions, newest first."""
        return await versions.versions(self._rows, query, count=count, after=after)

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type that has versions."""
        return await versions.collections(self._rows)

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of a search."""
        return await searching.search(self._rows, key, query, count=count, after=after)
