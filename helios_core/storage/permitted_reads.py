"""
A data provider that shows what a client may see: the one place where scopes limit reads.

REST, the routes of plugins and the workers of exports read through it. So whatever they make of
resources (files, Bundles, counts, deletions, the results of lookups) is made of permitted ones. A
resource that is not permitted does not exist for them.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from msgspec.structs import replace

from helios_core.errors import (
    Forbidden,
    InvalidParameter,
    UnsupportedParameter,
    VersionConflict,
)
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.references import base_urls
from helios_core.fhir.search import Filter, Prefilter, ValueOrder, compile_query
from helios_core.fhir.search.filters import Condition, all_conditions, any_filter, make_filter
from helios_core.model.exports import ExportRequest, ExportView, Shard
from helios_core.model.scopes import Grant
from helios_core.storage.backends import Backends
from helios_core.storage.changes import decide
from helios_core.storage.data_provider import (
    AppliedChange,
    Batch,
    ChangeResult,
    DataProvider,
    Delete,
    Put,
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsHistory,
    SupportsPrefilter,
    SupportsSearch,
    SupportsTombstones,
    SupportsTypeHistory,
    SupportsWrites,
    VersionPage,
    VersionQuery,
)
from helios_core.storage.integrity import DECODE_ERRORS
from helios_core.storage.ordered_search import (
    FirstMatches,
    SupportsFirstMatches,
    ValuePosition,
)
from helios_core.storage.page_tokens import PageBuilder
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from helios_core.storage.sealed_tokens import TokenSeal

READING: Final = "rs"
"""The letters of scopes, of which either permits an export to read."""
VERSIONS_AT_ONCE: Final = 100
"""How many versions are read at once if a client may not see all of them."""
VERSIONS_PER_PAGE: Final = 2_000
"""After how many versions a page ends even if it is not full, so that it does not take longer."""

Permitted = Callable[[TypeKey, str], Filter | None]
"""
Returns the filter of the resources of a type that are permitted; None if all of them are.

The second argument has letters of scopes; a resource is permitted if one of them grants it.
"""


def usable(version: FHIRVersion, resource_type: str, grant: Grant) -> Grant:
    """Return a grant without the searches that cannot be evaluated for a type."""
    return Grant(
        tuple(
            tuple(query for query in clause if _compiled(version, resource_type, query, (), None))
            for clause in grant.clauses
        )
    )


def permitted_filter(
    version: FHIRVersion,
    resource_type: str,
    grant: Grant,
    *,
    base: str,
    now: datetime | None = None,
) -> Filter | None:
    """
    Return the filter of the resources of a type that a grant permits; None if it permits all.

    A search of the grant that cannot be evaluated, or depends on other resources, permits nothing.
    """
    if grant.is_everything:
        return None
    conditions = list[Condition]()
    for clause in grant.clauses:
        compiled = (
            _compiled(version, resource_type, query, base_urls(base), now) for query in clause
        )
        filters = [filter_ for filter_ in compiled if filter_ is not None]
        if not filters:
            return nothing_of(resource_type)
        conditions.append(any_filter(filters).condition)
    return make_filter(resource_type, all_conditions(conditions))


def nothing_of(resource_type: str) -> Filter:
    """Return the filter that no resource of a type matches."""
    return make_filter(resource_type, _NEVER)


_NEVER = Condition(test=lambda _: False, elements=frozenset())


def _is_nothing(permitted: Filter | None) -> bool:
    return permitted is not None and permitted.condition is _NEVER


def permitted_backends(backends: Backends, request: ExportRequest, at: datetime) -> Backends:
    """Return backends that show an export what its client's scopes allowed at the kick-off."""
    if not request.constraints:
        return backends
    by_type = {
        name: permitted_filter(request.fhir_version, name, granted, base=request.base_url, now=at)
        for name, granted in request.grants().items()
    }
    provider = permitted_reads(
        backends.data_provider, lambda key, _: by_type.get(key.resource_type), READING
    )
    return replace(backends, data_provider=provider)


def permitted_reads(
    provider: DataProvider, permitted: Permitted, letters: str, *, seal: TokenSeal | None = None
) -> DataProvider:
    """
    Return a provider with the same powers that shows what one of the letters permits.

    A write needs the letters of its changes: `c` or `u` to store, `d` to delete. `seal` closes the
    tokens of pages of versions, which tell how many the store has; None leaves them as they are.
    """
    powers = frozenset(power for power in _POWERS if isinstance(provider, power))
    return _class_of(powers)(provider, permitted, letters, seal)


def _compiled(
    version: FHIRVersion,
    resource_type: str,
    query: Sequence[tuple[str, str]],
    bases: Sequence[str],
    now: datetime | None,
) -> Filter | None:
    try:
        filter_ = compile_query(version, resource_type, query, base_urls=bases, now=now)
    except (InvalidParameter, UnsupportedParameter):
        return None
    return None if filter_.lookups or filter_.passes_everything else filter_


class _PermittedReads(DataProvider):
    def __init__(
        self,
        provider: Any,  # noqa: ANN401  any powers
        permitted: Permitted,
        letters: str,
        seal: TokenSeal | None,
    ) -> None:
        self._provider = provider
        self._permitted_by = permitted
        self._letters = letters
        self._seal = seal

    def _permitted(self, key: TypeKey) -> Filter | None:
        return self._permitted_by(key, self._letters)

    async def transaction_time(self) -> datetime:
        result: datetime = await self._provider.transaction_time()
        return result

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        shards: list[Shard] = await self._provider.plan(view, shard_bytes=shard_bytes)
        # Neither the number of all resources nor their existence may be revealed.
        return [
            shard if permitted is None else replace(shard, resources=0)
            for shard in shards
            if not _is_nothing(permitted := self._of(view, shard.resource_type))
        ]

    def read(self, view: ExportView, shard: Shard, *, batch_bytes: int) -> AsyncIterator[Batch]:
        batches = self._provider.read(view, shard, batch_bytes=batch_bytes)
        return self._filtered(view, shard, batches)

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        stored: StoredVersion | None = await self._provider.get(key, at=at)
        return await self._shown(key, stored)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        batch: Batch = await self._provider.fetch(key, ids, at=at)
        permitted = self._permitted(key)
        return batch if permitted is None else await asyncio.to_thread(_filter, permitted, batch)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        permitted = self._permitted(key)
        if _is_nothing(permitted):
            return set(ids)
        if permitted is None:
            absent: set[str] = await self._provider.missing(key, ids, at=at)
            return absent
        return await super().missing(key, ids, at=at)  # by `get`

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        permitted = self._of(view, resource_type)
        if _is_nothing(permitted):
            return set()
        shown: set[str] = await self._provider.among(view, resource_type, ids)
        if permitted is None:
            return shown
        key = TypeKey.of(view.request, resource_type)
        return shown - await self.missing(key, shown, at=view.transaction_time)

    def _of(self, view: ExportView, resource_type: str) -> Filter | None:
        return self._permitted(TypeKey.of(view.request, resource_type))

    def _filtered(
        self, view: ExportView, shard: Shard, batches: AsyncIterator[Batch]
    ) -> AsyncIterator[Batch]:
        permitted = self._of(view, shard.resource_type)
        return batches if permitted is None else _filter_all(permitted, batches)

    async def _shown(self, key: ResourceKey, stored: StoredVersion | None) -> StoredVersion | None:
        """Return a version if it is permitted; a deletion is if the deleted version was."""
        return await self._within(self._permitted(key.type), key, stored)

    async def _within(
        self, permitted: Filter | None, key: ResourceKey, stored: StoredVersion | None
    ) -> StoredVersion | None:
        if stored is None or permitted is None:
            return stored
        content = stored.content
        if content is None and isinstance(self._provider, SupportsHistory):
            deleted = await self._provider.get_version(key, stored.version_id - 1)
            content = None if deleted is None else deleted.content
        return stored if content is not None and _matches(permitted, content) else None


class _Prefiltered(_PermittedReads):
    def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        batches = self._provider.read_candidates(view, shard, prefilter, batch_bytes=batch_bytes)
        return self._filtered(view, shard, batches)


class _Tombstones(_PermittedReads):
    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncGenerator[Sequence[str]]:
        key = TypeKey.of(view.request, shard.resource_type)
        limited = self._permitted(key) is not None
        async for ids in self._provider.read_deleted(view, shard, batch_rows=batch_rows):
            if not limited:
                yield ids
                continue
            shown = [await self.get(key.resource(i), at=view.transaction_time) for i in ids]
            yield [i for i, version in zip(ids, shown, strict=True) if version is not None]


class _History(_PermittedReads):
    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        return await self._shown(key, await self._provider.get_version(key, version_id))

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        shown = list[StoredVersion]()
        while len(shown) < count:
            versions = await self._provider.history(key, count=count, before=before)
            for version in versions:
                if await self._shown(key, version) is not None:
                    shown.append(version)
            if len(versions) < count:
                break
            before = versions[-1].version_id
        return shown[:count]


class _TypeHistory(_PermittedReads):
    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """
        Return a page of permitted versions, full if there are enough of them.

        It ends with a permitted version, and has a next page only if there are more of them: the
        number of the others and when they were stored may not be revealed either. Only if too many
        others had to be read does a page end among them, perhaps with nothing on it.
        """
        if (seal := self._seal) is None:
            return await self._versions(query, count=count, after=after)
        about = f"{query.tenant}/{query.fhir_version}"
        place = None if after is None else seal.open(after, about)
        page = await self._versions(query, count=count, after=place)
        return page if page.next is None else replace(page, next=seal.close(page.next, about))

    async def _versions(
        self, query: VersionQuery, *, count: int, after: str | None
    ) -> VersionPage:
        keys = {name: TypeKey(query.tenant, query.fhir_version, name) for name in query.types}
        limits = {name: self._permitted(key) for name, key in keys.items()}
        types = tuple(name for name, limit in limits.items() if not _is_nothing(limit))
        query = replace(query, types=types)
        page: VersionPage
        if all(limits[name] is None for name in types):
            page = await self._provider.versions(query, count=count, after=after)
            return page
        builder = PageBuilder(count)
        position, last = after, (after, 0)
        left = VERSIONS_PER_PAGE
        while True:
            page = await self._provider.versions(
                query, count=max(count, VERSIONS_AT_ONCE), after=position
            )
            left -= len(page.versions)
            for number, version in enumerate(page.versions, 1):
                key = keys[version.resource_type].resource(version.id)
                if await self._shown(key, version) is None:
                    continue
                if not builder.add(version):
                    start, taken = last
                    again = await self._provider.versions(query, count=taken, after=start)
                    return VersionPage(versions=builder.found, next=again.next)
                last = (position, number)
            if page.next is None or left <= 0:
                return VersionPage(versions=builder.found, next=page.next)
            position = page.next


class _Searched(_PermittedReads):
    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        permitted = self._permitted(key)
        if _is_nothing(permitted):
            return SearchPage(resources=(), next=None, total=0 if query.counts else None)
        query = _narrowed(query, permitted)
        page: SearchPage = await self._provider.search(key, query, count=count, after=after)
        return page


class _FirstMatches(_PermittedReads):
    async def first_matches(
        self,
        key: TypeKey,
        query: SearchQuery,
        order: ValueOrder,
        *,
        count: int,
        after: ValuePosition | None,
    ) -> FirstMatches | None:
        permitted = self._permitted(key)
        if _is_nothing(permitted):
            return FirstMatches(resources=(), end=None)
        query = _narrowed(query, permitted)
        found: FirstMatches | None = await self._provider.first_matches(
            key, query, order, count=count, after=after
        )
        return found


class _Written(_PermittedReads):
    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        checked = list[Put | Delete | None]()
        seen = set[ResourceKey]()
        for change in changes:
            key = ResourceKey(tenant, fhir_version, change.resource_type, change.id)
            checked.append(await self._checked(key, change, again=key in seen))
            seen.add(key)
        applied: list[AppliedChange] = await self._provider.write(
            tenant, fhir_version, [change for change in checked if change is not None]
        )
        results = iter(applied)
        return [_ABSENT if change is None else next(results) for change in checked]

    async def _checked(
        self, key: ResourceKey, change: Put | Delete, *, again: bool
    ) -> Put | Delete | None:
        """
        Return a change bound to the version that was checked; None if that may not be seen.

        Raises:
            Forbidden: It would store or replace a resource that is not permitted.
            VersionConflict: The change expects another version than the current one.
        """
        deletes = isinstance(change, Delete)
        replacing = self._permitted_by(key.type, "d" if deletes else "u")
        creating = None if deletes else self._permitted_by(key.type, "cu")
        if replacing is None and creating is None:
            return change
        if again:
            raise _forbidden(key.resource_type, "what another change of the request leaves")
        stored = await self._provider.get(key)
        if deletes and await self._within(replacing, key, stored) is None:
            decide(change, None)
            return None
        live = stored is not None and stored.content is not None
        storing = replacing if live else creating
        if isinstance(change, Put) and storing and not _matches(storing, _content(change)):
            raise _forbidden(key.resource_type, "the resource sent")
        if live and replacing is not None and not _matches(replacing, stored.content):
            seen = self._permitted_by(key.type, READING)
            if not change.if_match or seen is None or _matches(seen, stored.content):
                raise _forbidden(key.resource_type, "the one of this id")
            stored = None  # what names a version creates nothing, and fails as if there was none
        version_id = 0 if stored is None else stored.version_id
        # What somebody deleted whom the client does not see is nothing to it.
        seen_version = version_id if await self._shown(key, stored) is not None else 0
        if change.if_match not in (None, version_id, seen_version):
            raise VersionConflict("Another version is current; read the resource again.")
        return replace(change, if_match=version_id)


_ABSENT = AppliedChange(outcome=ChangeResult.ABSENT, version_id=0, last_updated=None)


def _narrowed(query: SearchQuery, permitted: Filter | None) -> SearchQuery:
    """Return a query for the matches that are permitted; `permitted` is None if all are."""
    if permitted is None:
        return query
    conditions = [query.filter.condition, permitted.condition]
    filter_ = make_filter(query.filter.resource_type, all_conditions(conditions))
    return replace(query, filter=filter_)


def _content(change: Put) -> bytes:
    return change.resource.stamped(1, datetime.now(UTC))


def _forbidden(resource_type: str, which: str) -> Forbidden:
    return Forbidden(
        f"The scopes of the access token are limited to a part of {resource_type}, and {which} is "
        "not in it."
    )


_POWERS: dict[type, type[_PermittedReads]] = {
    SupportsPrefilter: _Prefiltered,
    SupportsTombstones: _Tombstones,
    SupportsHistory: _History,
    SupportsTypeHistory: _TypeHistory,
    SupportsSearch: _Searched,
    SupportsFirstMatches: _FirstMatches,
    SupportsWrites: _Written,
}


@cache
def _class_of(powers: frozenset[type]) -> type[_PermittedReads]:
    """Return the class with these powers, which are recognised by the methods of a class."""
    parts = [part for power, part in _POWERS.items() if power in powers]
    made: type[_PermittedReads] = type("PermittedReads", (*parts, _PermittedReads), {})
    return made


async def _filter_all(permitted: Filter, batches: AsyncIterator[Batch]) -> AsyncGenerator[Batch]:
    try:
        async for batch in batches:
            yield await asyncio.to_thread(_filter, permitted, batch)
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


def _filter(permitted: Filter, batch: Batch) -> Batch:
    """Return the permitted lines of a batch; whether a damaged one is permitted is unknown."""
    return Batch(lines=[line for line in batch.lines if _matches(permitted, line)])


def _matches(permitted: Filter, content: bytes) -> bool:
    try:
        return permitted.matches(content)
    except DECODE_ERRORS:
        return False
