"""The reference data provider: it has every power, and forgets everything with the process."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from helios_core.errors import BackendError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search import Prefilter, satisfies, terms_of
from helios_core.memory import search as searching
from helios_core.memory.versions import (
    MemoryVersion,
    apply_change,
    current_version,
    is_shown,
    version_page,
)
from helios_core.model.exports import ExportView, Shard
from helios_core.storage.data_provider import (
    AppliedChange,
    Batch,
    Damaged,
    DataProvider,
    Delete,
    Put,
    SearchPage,
    SearchQuery,
    StoredVersion,
    VersionPage,
    VersionQuery,
)
from helios_core.storage.resource_keys import ResourceKey, TypeKey


class MemoryDataProvider(DataProvider):
    """
    Keeps every version of every resource, oldest first, in the memory of one process.

    Nothing awaits in the middle of a write, so the event loop makes writes atomic; and versions
    are only ever appended, so a reader needs no lock. Planning looks at every version's size.
    """

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._last = datetime.min.replace(tzinfo=UTC)
        self._collections = defaultdict[TypeKey, dict[str, list[MemoryVersion]]](dict)
        self._counts = Counter[TypeKey]()
        """How many versions of each type were written."""

    async def transaction_time(self) -> datetime:
        """Return now, and ensure that every later write is stamped later (P1)."""
        self._last = max(self._clock(), self._last)
        return self._last

    async def plan(self, view: ExportView, *, shard_bytes: int) -> list[Shard]:
        """Cut each type's ids, in order, into runs of at most `shard_bytes` (P2)."""
        shards: list[Shard] = []
        for resource_type in view.request.types:
            runs = _runs(self._plannable(view, resource_type), shard_bytes)
            shards += _shards(resource_type, runs, first_number=len(shards))
        return shards

    async def read(
        self, view: ExportView, shard: Shard, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read a shard by id, looking up each id's version at the transaction time (P3, P6)."""
        async for batch in _batches(self._changes(view, shard.resource_type, shard), batch_bytes):
            yield batch

    async def read_candidates(
        self, view: ExportView, shard: Shard, prefilter: Prefilter, *, batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Read exactly the resources that satisfy the prefilter, and damaged ones (P5, P6)."""
        changes = self._changes(view, shard.resource_type, shard)
        version = view.request.fhir_version
        candidates = (change for change in changes if _is_candidate(change, version, prefilter))
        async for batch in _batches(candidates, batch_bytes):
            yield batch

    async def read_deleted(
        self, view: ExportView, shard: Shard, *, batch_rows: int
    ) -> AsyncIterator[Sequence[str]]:
        """Read the ids whose current version is a deletion within the view's period."""
        if view.request.since is None:
            return
        changes = self._changes(view, shard.resource_type, shard)
        ids = [change.stored.id for change in changes if change.stored.content is None]
        for start in range(0, len(ids), batch_rows):
            yield ids[start : start + batch_rows]
            await asyncio.sleep(0)

    async def get(self, key: ResourceKey, *, at: datetime | None = None) -> StoredVersion | None:
        """Return the version current at an instant, unless it is damaged (P6)."""
        current = current_version(self._versions(key), at)
        if current is not None and not current.intact:
            raise _damage_error(current.stored)
        return None if current is None else current.stored

    async def get_version(self, key: ResourceKey, version_id: int) -> StoredVersion | None:
        """Return one version, or None."""
        versions = self._versions(key)
        return next((v.stored for v in versions if v.stored.version_id == version_id), None)

    async def history(
        self, key: ResourceKey, *, count: int, before: int | None = None
    ) -> list[StoredVersion]:
        """Return the newest `count` versions below `before`, newest first."""
        stored = [version.stored for version in reversed(self._versions(key))]
        return [v for v in stored if before is None or v.version_id < before][:count]

    async def versions(
        self, query: VersionQuery, *, count: int, after: str | None = None
    ) -> VersionPage:
        """Return a page of versions, after examining all versions of the types."""
        histories = [
            versions
            for name in query.types
            for versions in self._collections.get(
                TypeKey(query.tenant, query.fhir_version, name), {}
            ).values()
        ]
        return version_page(histories, query, count=count, after=after)

    async def collections(self) -> Sequence[TypeKey]:
        """Return the key of every type that was written."""
        return list(self._counts)

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of matches, after examining all resources of the type."""
        current = [versions[-1] for versions in self._collections.get(key, {}).values()]
        live = ((v.stored, _intact_content(v)) for v in current if v.stored.content)
        return searching.search_page(live, query, count=count, after=after)

    async def fetch(self, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
        """Return those of `ids` that are live at an instant (P6)."""
        lines, damaged = list[bytes](), list[Damaged]()
        for resource_id in ids:
            current = current_version(self._versions(key.resource(resource_id)), at)
            if current is None or (line := current.stored.content) is None:
                continue
            if current.intact:
                lines.append(line)
            else:
                damaged.append(_damaged(current.stored))
        return Batch(lines=lines, damaged=damaged)

    async def among(self, view: ExportView, resource_type: str, ids: Collection[str]) -> set[str]:
        """Return those of `ids` that the view shows."""
        key = TypeKey.of(view.request, resource_type)
        shown = set[str]()
        for resource_id in ids:
            versions = self._versions(key.resource(resource_id))
            current = current_version(versions, view.transaction_time)
            if (
                current is not None
                and current.stored.content is not None
                and is_shown(view, current)
            ):
                shown.add(resource_id)
        return shown

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """Apply the changes to copies, and replace the originals once every change has worked."""
        stamp = max(self._clock(), self._last + timedelta(microseconds=1))
        drafts: dict[ResourceKey, list[MemoryVersion]] = {}
        applied: list[AppliedChange] = []
        for change in changes:
            key = ResourceKey(tenant, fhir_version, change.resource_type, change.id)
            versions = drafts.setdefault(key, list(self._versions(key)))
            applied.append(apply_change(change, versions, stamp))
        for key, versions in drafts.items():
            if versions:
                self._counts[key.type] += len(versions) - len(self._versions(key))
                self._collections[key.type][key.id] = versions
        self._last = stamp
        return applied

    def _versions(self, key: ResourceKey) -> Sequence[MemoryVersion]:
        return self._collections.get(key.type, {}).get(key.id, ())

    def _changes(
        self, view: ExportView, resource_type: str, shard: Shard | None = None
    ) -> Iterator[MemoryVersion]:
        """Yield, by id, the versions current at the transaction time that the view shows."""
        key = TypeKey.of(view.request, resource_type)
        self._check(key)
        for resource_id in sorted(self._collections.get(key, ())):
            if shard is not None and not _covers(shard, resource_id):
                continue
            versions = self._versions(key.resource(resource_id))
            current = current_version(versions, view.transaction_time)
            if current is not None and is_shown(view, current):
                yield current

    def _check(self, key: TypeKey) -> None:
        """Raise a BackendError if versions of a type are gone (P9)."""
        present = sum(map(len, self._collections.get(key, {}).values()))
        if present != self._counts[key]:
            raise BackendError(
                f"{present} of {self._counts[key]} versions of {key.resource_type} are left in"
                " memory; load them again"
            )

    def _plannable(self, view: ExportView, resource_type: str) -> Iterator[StoredVersion]:
        for change in self._changes(view, resource_type):
            if change.stored.content is not None or view.request.since is not None:
                yield change.stored


def _covers(shard: Shard, resource_id: str) -> bool:
    started = shard.start is None or shard.start <= resource_id
    return started and (shard.end is None or resource_id < shard.end)


def _runs(changes: Iterable[StoredVersion], shard_bytes: int) -> list[list[StoredVersion]]:
    runs: list[list[StoredVersion]] = []
    bytes_left = shard_bytes
    for change in changes:
        size = len(change.content or b"")
        if not runs or size > bytes_left:
            runs.append([])
            bytes_left = shard_bytes
        runs[-1].append(change)
        bytes_left -= size
    return runs


def _shards(
    resource_type: str, runs: Sequence[Sequence[StoredVersion]], *, first_number: int
) -> list[Shard]:
    inner = [run[0].id for run in runs[1:]]
    bounds = zip([None, *inner], [*inner, None], runs, strict=bool(runs))
    return [
        Shard(
            number=first_number + index,
            resource_type=resource_type,
            ordinal=index + 1,
            start=start,
            end=end,
            resources=sum(change.content is not None for change in run),
            bytes=sum(len(change.content or b"") for change in run),
        )
        for index, (start, end, run) in enumerate(bounds)
    ]


async def _batches(changes: Iterable[MemoryVersion], batch_bytes: int) -> AsyncIterator[Batch]:
    lines: list[bytes] = []
    damaged: list[Damaged] = []
    bytes_left = batch_bytes
    for version in changes:
        line = version.stored.content
        if line is None:
            continue
        if not version.intact:
            damaged.append(_damaged(version.stored))
            continue
        if lines and len(line) > bytes_left:
            yield Batch(lines=lines, damaged=damaged)
            await asyncio.sleep(0)
            lines, damaged, bytes_left = [], [], batch_bytes
        lines.append(line)
        bytes_left -= len(line)
    if lines or damaged:
        yield Batch(lines=lines, damaged=damaged)


def _is_candidate(version: MemoryVersion, fhir_version: FHIRVersion, prefilter: Prefilter) -> bool:
    stored = version.stored
    if stored.content is None or not version.intact:
        return True
    terms = terms_of(stored.content, fhir_version, stored.resource_type)
    updated = to_stamp(stored.last_updated)
    return satisfies(prefilter, terms, resource_id=stored.id, updated=updated)


def _intact_content(version: MemoryVersion) -> bytes:
    stored = version.stored
    if stored.content is None or not version.intact:
        raise _damage_error(stored)
    return stored.content


def _damage_error(stored: StoredVersion) -> BackendError:
    return BackendError(
        f"the stored content of a resource of type {stored.resource_type}, version"
        f" {stored.version_id}, is damaged; store the resource again: an export of its type names"
        " it"
    )


def _damaged(stored: StoredVersion) -> Damaged:
    reason = "the stored bytes do not have the checksum they were written with"
    return Damaged(resource_type=stored.resource_type, id=stored.id, reason=reason)
