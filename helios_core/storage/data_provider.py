"""
Where resources live: the contract of a data provider, and the powers it may add.

A read-only provider over somebody's existing database implements `DataProvider` and nothing else.
Every further power is a protocol of its own. The server checks for it with `isinstance` and offers
the routes and parameters that need it only if the provider has it.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.references import base_urls, decode_links
from helios_core.fhir.resources import Resource
from helios_core.fhir.search import Filter, Prefilter
from helios_core.model.exports import ExportView, Level, Shard
from helios_core.storage.resource_keys import ResourceKey, TypeKey

PAGE_BYTES = 16 * 1024 * 1024
"""Maximum total bytes of the contents on a page of a search, unless the query sets another."""
WHOLE_TYPE = 1 << 62
"""A size of shards in bytes that no type reaches, so that each type is planned as one shard."""


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A stored resource that cannot be read; it becomes one line of an error file."""

    resource_type: str
    id: str
    reason: str
    """What is wrong with the stored bytes, without showing any of them."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Encoded resources read in one go."""

    lines: Sequence[bytes] = ()
    """
    One compact JSON resource each, without the newline.

    `JoinedLines` are passed on without being split; a list is right in all other cases.
    """
    damaged: Sequence[Damaged] = ()
    digests: Sequence[int] | None = None
    """
    The 64-bit XXH3 hash of each line, in the order of `lines`, if the provider has just computed
    or checked them. If None, the core computes them.
    """


class StoredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a resource as it is stored."""

    resource_type: str
    id: str
    version_id: int
    """From 1, growing by one at every change, deletions included."""
    last_updated: datetime
    """When the version became current, in whole microseconds."""
    content: bytes | None
    """Compact JSON with meta.versionId and meta.lastUpdated; None for a deletion."""


class DataProvider(ABC):
    """
    Reads resources at an instant.

    P1  The transaction time comes from the data's clock and is settled: no write committed later
        carries an earlier or equal instant.
    P2  Planning is cheap (no full scan) and yields shards that cover the view exactly once, sized
        by bytes; an empty view yields no shards.
    P3  Reading yields byte-bounded batches of encoded resources, current as of the transaction
        time, in a stable order, even while writers are active; reading a shard again gives the
        same resources.
    P4  A cohort of a million patients works without being sent again for every page, and its
        cost grows with the cohort, not with the store.
    P5  A filter the provider cannot push down is left to the core; one it claims to push down
        gives exactly the core's answer.
    P6  A damaged stored resource is reported in `Batch.damaged`, never skipped and never fatal.
    P7  Nothing of another tenant or of another FHIR version is ever shown.
    P8  Lookups by id (`get`, `missing`, `fetch`, `among`) agree with what reading a view at the
        same instant would show.
    P9  Stored data that is lost or altered is noticed when a view is read: it is reported in
        `Batch.damaged`, with the id `(unknown)` if ids are lost too, or `plan`, `read` or
        `read_deleted` raises BackendError. A view is never silently shorter. A provider over
        tables that others write can answer only for what is in them.
    """

    @abstractmethod
    async def transaction_time(self) -> datetime:
        """
        Return an instant that is settled (P1): about now, or that of the last load by others.

        Raises:
            BackendUnavailable: Writers in flight could not be waited for.
        """

    @abstractmethod
    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """
        Split a view into shards of about `shard_bytes` bytes of NDJSON each (P2).

        Shards are numbered from 0 in the order of `view.request.types`, and `ordinal` counts from
        1 within a type. With `request.since` they also cover the deletions after it.
        """

    @abstractmethod
    def read(self, view: ExportView, shard: Shard, *, batch_bytes: int) -> AsyncIterator[Batch]:
        """
        Read a shard in stable order (P3, P6).

        A batch exceeds `batch_bytes` only when a single resource does. Closing the iterator early
        frees what it holds.
        """

    @abstractmethod
    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """
        Return the version current at an instant (None: now), or None if there never was one.

        A deleted resource is returned as a version whose content is None.

        Raises:
            BackendError: The version is damaged; the message does not show any of it.
        """

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        """
        Return those of `ids` that no live resource of a type has at an instant (None: now).

        This default reads one at a time; a provider that can read many at once overrides it.
        """
        absent = set[str]()
        for resource_id in ids:
            stored = await self._get_or_report(key.resource(resource_id), at)
            if stored is None or (isinstance(stored, StoredVersion) and stored.content is None):
                absent.add(resource_id)
        return absent

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """
        Return the resources of these ids that are live at an instant, in the order of `ids` (P6).

        This default reads one at a time; a provider that can read many at once overrides it.
        """
        lines, damaged = list[bytes](), list[Damaged]()
        for resource_id in ids:
            stored = await self._get_or_report(key.resource(resource_id), at)
            if isinstance(stored, Damaged):
                damaged.append(stored)
            elif stored is not None and stored.content is not None:
                lines.append(stored.content)
        return Batch(lines=lines, damaged=damaged)

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """
        Return those of `ids` that `read` would yield in some shard of the view.

        As in `read`, filters and newcomers play no part. This default asks for one at a time; a
        provider that can ask for many at once overrides it.
        """
        key = TypeKey.of(view.request, resource_type)
        shown = set[str]()
        for resource_id in ids:
            stored = await self._get_or_report(key.resource(resource_id), view.transaction_time)
            if isinstance(stored, StoredVersion) and _shows(view, stored):
                shown.add(resource_id)
        return shown

    async def _get_or_report(
        self, key: ResourceKey, at: datetime | None
    ) -> StoredVersion | Damaged | None:
        """Return a version, or a report if the version is damaged (P6)."""
        try:
            return await self.get(key, at=at)
        except BackendUnavailable:
            raise
        except BackendError as error:
            return Damaged(resource_type=key.resource_type, id=key.id, reason=str(error))


def _shows(view: ExportView, version: StoredVersion) -> bool:
    request, changed = view.request, version.last_updated
    if version.content is None:
        return False
    if request.since is not None and changed <= request.since:
        return False
    if request.until is not None and changed >= request.until:
        return False
    if view.cohort is None and request.level is Level.SYSTEM:
        return True
    resource = decode_links(version.content)
    patients = patients_of(resource, request.fhir_version, base_urls(request.base_url))
    return bool(patients) if view.cohort is None else not view.cohort.patients.isdisjoint(patients)


@runtime_checkable
class SupportsTombstones(Protocol):
    """The provider remembers deletions."""

    def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """
        Read the ids deleted after `view.request.since` and still deleted at the transaction time.

        A deletion counts as a change: one at or after `view.request.until` is left to a later
        export. Without `since` nothing is yielded.

        Only resources that the view would have shown before their deletion are named.
        """
        ...


@runtime_checkable
class SupportsPrefilter(Protocol):
    """The provider has an index that narrows what is read."""

    def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """
        Read like `read`, but at least the resources that satisfy the prefilter (P5).

        Others may be among them: the caller applies the full filter to each resource.
        """
        ...


class ChangeResult(StrEnum):
    """What a change did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """The stored content was already equal: no new version."""
    DELETED = "deleted"
    ABSENT = "absent"
    """There was nothing to delete: no new version."""


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Store a resource under its id, as a new version if it differs from the current one."""

    resource: Resource
    if_match: int | None = None
    """The version that must be current; 0 if there must never have been one, None for any."""

    @property
    def resource_type(self) -> str:
        """The type of the resource, as of a `Delete`."""
        return self.resource.resource_type

    @property
    def id(self) -> str:
        """The id of the resource, as of a `Delete`."""
        return self.resource.id


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Mark a resource as deleted; its versions stay."""

    resource_type: str
    id: str
    if_match: int | None = None
    """The same as `Put.if_match`."""


class AppliedChange(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one change."""

    outcome: ChangeResult
    version_id: int
    """The version that is current now, 0 if there is none."""
    last_updated: datetime | None
    """When that version became current."""


@runtime_checkable
class SupportsWrites(Protocol):
    """The provider can be written to."""

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """
        Apply changes atomically, in order, and return the result of each.

        The changes may concern several types. All versions written by one call carry the same
        instant. A resource that appears twice is applied twice.

        Raises:
            VersionConflict: An `if_match` failed; nothing is changed.
            StoreBusy: Another writer is in the way; nothing is changed.
            BackendUnavailable: The store is busy, down or out of space. Nothing is changed, unless
                the response to the commit was lost. A load repeats the write for ten minutes.
        """
        ...


@runtime_checkable
class SupportsHistory(Protocol):
    """The provider keeps earlier versions."""

    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        """Return one version, or None if there is none of that number."""
        ...

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        """Return at most `count` versions, newest first, only those below version `before`."""
        ...


class VersionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request for versions of the resources of several types."""

    tenant: str
    fhir_version: FHIRVersion
    types: tuple[str, ...]
    until: datetime
    """Only versions that became current at or before it; a settled instant (P1)."""
    since: datetime | None = None
    """Only versions that became current at or after it."""
    current_from: datetime | None = None
    """
    Only versions that were current at this instant or later; deletions only from it on.
    """


class VersionPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of versions, newest first."""

    versions: Sequence[StoredVersion]
    next: str | None
    """What to pass as `after` to get the next page; None on the last one. Opaque, without ids."""


@runtime_checkable
class SupportsTypeHistory(Protocol):
    """The provider lists the versions of all resources of a type by their instants."""

    async def transaction_time(self) -> datetime:
        """Return an instant that is settled, as of a `DataProvider`."""
        ...

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """
        Return at most `count` versions, deletions included, from the page `after` on.

        Newest first. Those of one instant are in an order that stays the same, in which the later
        version of a resource comes first. Pages of one query list every version once, whatever is
        written meanwhile.

        Raises:
            InvalidParameter: `after` is not the `next` of a page.
        """
        ...


@runtime_checkable
class SupportsChangeFeed(Protocol):
    """
    The provider lists everything that ever changed, so that an index beside it can follow.

    It is a `SupportsTypeHistory` that also lists which types have versions.
    """

    async def collections(self) -> Sequence[TypeKey]:
        """
        Return the key of every type that has a version, of all tenants and FHIR versions.

        Every type that was written before the call is included; others may be, too. The order does
        not matter.
        """
        ...

    async def transaction_time(self) -> datetime:
        """Return an instant that is settled, as of a `DataProvider`."""
        ...

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of versions, newest first, as of `SupportsTypeHistory`."""
        ...


class SortOrder(StrEnum):
    """How the matches of a search follow each other; equal instants go by id."""

    ID = "_id"
    ID_DESCENDING = "-_id"
    LAST_UPDATED = "_lastUpdated"
    LAST_UPDATED_DESCENDING = "-_lastUpdated"


class SearchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A search within one type; all lookups of its filter have been resolved."""

    filter: Filter
    order: SortOrder = SortOrder.ID
    total: bool | None = False
    """Whether to count all matches; None: only if that costs nothing."""
    max_bytes: int = PAGE_BYTES
    """Maximum total bytes of the contents on a page; a page has at least one match."""

    @property
    def counts(self) -> bool:
        """Whether all matches are counted; counting a whole type costs nothing."""
        return self.filter.passes_everything if self.total is None else self.total


class SearchPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a search, in a stable order."""

    resources: Sequence[StoredVersion]
    next: str | None
    """
    What to pass as `after` to get the next page; None on the last one.

    It is the `make_page_token` of the last resource, so that another store with the same
    resources can continue.
    """
    total: int | None = None
    """How many resources match in all, if that was requested."""


@runtime_checkable
class SupportsSearch(Protocol):
    """The provider can find resources by query."""

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """
        Return at most `count` current resources that match, from the page `after` on.

        A page ends before it has more than `query.max_bytes`, unless its only resource has more.
        `make_page_token` makes the token for the page after a resource, whether or not the
        resource still matches.

        The query's filter was compiled for the key's type.

        Raises:
            InvalidParameter: `after` is not the `next` of a page of this query.
        """
        ...
