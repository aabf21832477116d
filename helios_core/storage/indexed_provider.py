"""A data provider that wraps another one, has the same powers and searches with an index."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import cache
from typing import Any

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import AnyId, Prefilter, ValueOrder
from helios_core.model.exports import ExportView, Shard
from helios_core.storage.data_provider import (
    AppliedChange,
    Batch,
    DataProvider,
    Delete,
    Put,
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsChangeFeed,
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsWrites,
    VersionPage,
    VersionQuery,
)
from helios_core.storage.index_lookups import IndexLookups, IndexUnusable
from helios_core.storage.indexed_search import IndexedSearch, candidate_ids
from helios_core.storage.ordered_search import FirstMatches, ValuePosition
from helios_core.storage.resource_keys import ResourceKey, TypeKey

FEW_CANDIDATES = 1000
"""Up to so many candidates are read by id, even if the shard has fewer resources."""

CACHED_FILTERS = 8
"""For how many filters of exports the candidates are cached."""

_Provider = Any
"""A data provider with any powers."""


def indexed_provider(
    provider: DataProvider,
    lookups: IndexLookups,
    *,
    falls_back: bool = True,
    on_write: Callable[[str, FHIRVersion], None] = lambda _tenant, _version: None,
) -> "_Indexed":
    """
    Return a provider of the same resources that searches with an index; close it before these.

    If the index cannot be used, exports do not use it, and searches fall back to those of
    `provider` if `falls_back` is true and it can search; otherwise they raise BackendUnavailable.
    `on_write` is called after each write with its tenant and FHIR version.

    Raises:
        TypeError: `provider` cannot be indexed.
    """
    implementation = indexed_class(type(provider))
    return implementation(provider, lookups, falls_back=falls_back, on_write=on_write)


def can_be_indexed(implementation: type[DataProvider]) -> bool:
    """Return whether a class of data providers lists the changes that an index must follow."""
    return issubclass(implementation, SupportsChangeFeed) and issubclass(
        implementation, SupportsTombstones
    )


@cache
def indexed_class(implementation: type[DataProvider]) -> "type[_Indexed]":
    """
    Return a class of indexed providers with the powers of a class of data providers.

    Raises:
        TypeError: Data providers of this class cannot be indexed.
    """
    if not can_be_indexed(implementation):
        raise TypeError(
            f"{implementation.__name__} cannot be used with a search index; it must implement "
            "SupportsChangeFeed and SupportsTombstones"
        )
    parts = [part for power, part in _POWERS.items() if issubclass(implementation, power)]
    combined: type[_Indexed] = type("IndexedProvider", (*parts, _Indexed), {})
    return combined


class _Indexed(DataProvider):
    def __init__(
        self,
        provider: _Provider,
        lookups: IndexLookups,
        *,
        falls_back: bool,
        on_write: Callable[[str, FHIRVersion], None],
    ) -> None:
        self._provider = provider
        self._lookups = lookups
        self._falls_back = falls_back
        self._on_write = on_write
        self._cached: OrderedDict[object, asyncio.Future[frozenset[str] | None]]
        self._cached = OrderedDict()
        self._running = set[asyncio.Future[frozenset[str] | None]]()
        """The lookups of candidates that have not ended, even if no export waits for them."""

    async def close(self) -> None:
        """Cancel the running lookups; the provider and the index stay open."""
        for lookup in self._running:
            lookup.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def transaction_time(self) -> datetime:
        now: datetime = await self._provider.transaction_time()
        return now

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        shards: list[Shard] = await self._provider.plan(view, shard_bytes=shard_bytes)
        return shards

    def read(self, view: ExportView, shard: Shard, *, batch_bytes: int) -> AsyncIterator[Batch]:
        batches: AsyncIterator[Batch]
        batches = self._provider.read(view, shard, batch_bytes=batch_bytes)
        return batches

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        stored: StoredVersion | None = await self._provider.get(key, at=at)
        return stored

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        absent: set[str] = await self._provider.missing(key, ids, at=at)
        return absent

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        batch: Batch = await self._provider.fetch(key, ids, at=at)
        return batch

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        shown: set[str] = await self._provider.among(view, resource_type, ids)
        return shown

    async def collections(self) -> Sequence[TypeKey]:
        keys: Sequence[TypeKey] = await self._provider.collections()
        return keys

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        page: VersionPage = await self._provider.versions(query, count=count, after=after)
        return page

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        page: SearchPage
        can_search = isinstance(self._provider, SupportsSearch)
        if can_search and query.filter.prefilter() is None:
            # The index has nothing that would narrow this search.
            page = await self._provider.search(key, query, count=count, after=after)
            return page
        try:
            search = IndexedSearch(self._provider, self._lookups, key, query)
            return await search.page(count=count, after=after)
        except IndexUnusable as error:
            if not can_search or not self._falls_back:
                raise BackendUnavailable(
                    f"the search index cannot be used, {error}; try again later"
                ) from error
        page = await self._provider.search(key, query, count=count, after=after)
        return page

    async def first_matches(
        self,
        key: TypeKey,
        query: SearchQuery,
        order: ValueOrder,
        *,
        count: int,
        after: ValuePosition | None,
    ) -> FirstMatches | None:
        try:
            search = IndexedSearch(self._provider, self._lookups, key, query)
            return await search.first(order, count=count, after=after)
        except IndexUnusable:
            return None


class _Prefiltered(_Indexed):
    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncGenerator[Batch]:
        ids = await self._candidates(view, shard.resource_type, prefilter)
        if ids is not None and len(ids) <= max(FEW_CANDIDATES, shard.resources):
            prefilter = AnyId(ids)
        batches = self._provider.read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)
        async with aclosing(batches):
            async for batch in batches:
                yield batch
                del batch  # or it would be kept while the next one is read

    async def _candidates(
        self, view: ExportView, resource_type: str, prefilter: Prefilter
    ) -> frozenset[str] | None:
        """
        Return the ids of a type that may satisfy a prefilter at the transaction time.

        Return None if the index does not know. The ids are cached for the other shards of the
        export: candidates at an instant stay candidates.
        """
        key = TypeKey.of(view.request, resource_type)
        about = (key, view.transaction_time, prefilter)
        ids = self._cached.get(about)
        if ids is None:
            ids = asyncio.ensure_future(candidate_ids(self._provider, self._lookups, about))
            self._running.add(ids)
            ids.add_done_callback(self._running.discard)
            self._cached[about] = ids
            while len(self._cached) > CACHED_FILTERS:
                self._cached.popitem(last=False)
        try:
            return await asyncio.shield(ids)
        except (IndexUnusable, BackendError):
            # The provider can read without the index, or it raises its own error.
            self._cached.pop(about, None)
            return None


class _Tombstones(_Indexed):
    def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        ids: AsyncIterator[Sequence[str]]
        ids = self._provider.read_deleted(view, shard, batch_rows=batch_rows)
        return ids


class _History(_Indexed):
    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        stored: StoredVersion | None = await self._provider.get_version(key, version_id)
        return stored

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        versions: list[StoredVersion]
        versions = await self._provider.history(key, count=count, before=before)
        return versions


class _Written(_Indexed):
    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        applied: list[AppliedChange]
        applied = await self._provider.write(tenant, fhir_version, changes)
        self._on_write(tenant, fhir_version)
        return applied


_POWERS: dict[type, type[_Indexed]] = {
    SupportsPrefilter: _Prefiltered,
    SupportsTombstones: _Tombstones,
    SupportsHistory: _History,
    SupportsWrites: _Written,
}
