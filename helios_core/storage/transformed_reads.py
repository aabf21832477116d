"""
A data provider as clients may see it: every resource is transformed, and none can be written.

REST routes and the routes of plugins get this in place of the data provider, so that none of them
can show a resource as it is stored.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from operator import itemgetter

from msgspec.structs import replace

from helios_core.errors import BackendError
from helios_core.model.exports import ExportView, Shard
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import (
    Batch,
    DataProvider,
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsHistory,
    SupportsSearch,
    SupportsTypeHistory,
    VersionPage,
    VersionQuery,
)
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from helios_core.storage.transform_chain import Transforms
from helios_core.storage.transforms import RestReads


def visible_backends(backends: Backends) -> Backends:
    """Return backends whose data provider shows what clients may see over REST."""
    provider, transforms = backends.data_provider, backends.transforms.of_reads
    match transforms.rest:
        case RestReads.UNTOUCHED:
            return backends
        case RestReads.WITHHELD:
            return replace(backends, data_provider=WithheldReads(provider, transforms))
        case RestReads.TRANSFORMED:
            return replace(backends, data_provider=transformed_reads(provider, transforms))


def transformed_reads(provider: DataProvider, transforms: Transforms) -> DataProvider:
    """
    Return a read-only provider of transformed resources.

    It has the histories that `provider` has. It can be searched if `provider` can and no transform
    conceals what it removes: a search looks at resources as they are stored.
    """
    reads: list[type[_Reads]] = []
    if isinstance(provider, SupportsHistory):
        reads.append(_History)
    if isinstance(provider, SupportsTypeHistory):
        reads.append(_TypeHistory)
    if isinstance(provider, SupportsSearch) and not transforms.conceals:
        reads.append(_Searched)
    # The powers of a provider are those of its class.
    transformed: type[_Reads] = type("TransformedReads", (*reads, _Reads), {})
    return transformed(provider, transforms)


class _Reads(DataProvider):
    def __init__(self, provider: DataProvider, transforms: Transforms) -> None:
        self._provider = provider
        self._transforms = transforms

    async def transaction_time(self) -> datetime:
        return await self._provider.transaction_time()

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        return await self._provider.plan(view, shard_bytes=shard_bytes)

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        key = TypeKey.of(view.request, shard.resource_type)
        async for batch in self._provider.read(view, shard, batch_bytes=batch_bytes):
            yield await self._batch(key, batch)

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        stored = await self._provider.get(key, at=at)
        return None if stored is None else await self._version(key.type, stored)

    async def missing(
        self, key: TypeKey, ids: Collection[str], *, at: datetime | None = None
    ) -> set[str]:
        return await self._provider.missing(key, ids, at=at)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        return await self._batch(key, await self._provider.fetch(key, ids, at=at))

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        return await self._provider.among(view, resource_type, ids)

    async def _batch(self, key: TypeKey, batch: Batch) -> Batch:
        transformed = await self._transforms.apply(key, batch.lines)
        return Batch(lines=transformed.kept, damaged=[*batch.damaged, *transformed.damaged])

    async def _version(self, key: TypeKey, stored: StoredVersion) -> StoredVersion | None:
        return (await self._versions(key, [stored]))[0]

    async def _versions(
        self, key: TypeKey, versions: Sequence[StoredVersion]
    ) -> list[StoredVersion | None]:
        """
        Return versions of resources of one type as they leave; None for one that does not.

        Raises:
            BackendError: A transform fails: then nothing is shown.
        """
        if not self._transforms.touches(key.resource_type):
            return list(versions)
        ids = await self._transforms.rename(key, [each.id for each in versions])
        lines = iter(await self._lines(key, [each.content for each in versions if each.content]))
        shown = list[StoredVersion | None]()
        for stored, resource_id in zip(versions, ids, strict=True):
            if stored.content is None:
                # It is not known whether the deleted resource would have been shown.
                dropped = self._transforms.drops(key.resource_type)
                shown.append(None if dropped else replace(stored, id=resource_id))
            else:
                line = next(lines)
                kept = line is not None
                shown.append(replace(stored, id=resource_id, content=line) if kept else None)
        return shown

    async def _lines(self, key: TypeKey, lines: Sequence[bytes]) -> Sequence[bytes | None]:
        transformed = await self._transforms.apply(key, lines)
        if transformed.damaged:
            raise BackendError(transformed.damaged[0].reason)
        return transformed.lines


class WithheldReads(_Reads):
    """A provider of resources that leave in exports only, and must not be read over REST."""


class _History(_Reads):
    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        assert isinstance(self._provider, SupportsHistory)  # noqa: S101  see `transformed_reads`
        stored = await self._provider.get_version(key, version_id)
        return None if stored is None else await self._version(key.type, stored)

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        assert isinstance(self._provider, SupportsHistory)  # noqa: S101  see `transformed_reads`
        shown = list[StoredVersion]()
        while len(shown) < count:
            versions = await self._provider.history(key, count=count, before=before)
            left = await self._versions(key.type, versions)
            shown += [version for version in left if version is not None]
            if len(versions) < count:
                break
            before = versions[-1].version_id
        return shown[:count]


class _TypeHistory(_Reads):
    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        assert isinstance(self._provider, SupportsTypeHistory)  # noqa: S101  see `transformed_reads`
        page = await self._provider.versions(query, count=count, after=after)
        shown = dict[int, StoredVersion | None]()
        for name in {stored.resource_type for stored in page.versions}:
            positions = [n for n, v in enumerate(page.versions) if v.resource_type == name]
            key = TypeKey(query.tenant, query.fhir_version, name)
            left = await self._versions(key, [page.versions[n] for n in positions])
            shown |= dict(zip(positions, left, strict=True))
        ordered = (version for _, version in sorted(shown.items(), key=itemgetter(0)))
        return VersionPage(
            versions=[version for version in ordered if version is not None], next=page.next
        )


class _Searched(_Reads):
    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        assert isinstance(self._provider, SupportsSearch)  # noqa: S101  see `transformed_reads`
        page = await self._provider.search(key, query, count=count, after=after)
        shown = await self._versions(key, page.resources)
        # The number of all matches would reveal how many of them are dropped.
        counted = not self._transforms.drops(key.resource_type)
        return SearchPage(
            resources=[version for version in shown if version is not None],
            next=page.next,
            total=page.total if counted else None,
        )
