"""Make index entries from stored resources, and apply them to an index."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search import terms_and_values
from helios_core.model.exports import ExportRequest, ExportView, Level, Shard
from helios_core.storage.data_provider import Damaged, StoredVersion, VersionQuery
from helios_core.storage.index_notes import Unreadable, read_note
from helios_core.storage.integrity import DECODE_ERRORS, UNKNOWN_ID, damaged_json
from helios_core.storage.search_index import Dataset, IndexEntry, IndexState, SearchIndex
from helios_core.storage.stamped_lines import stored_line

BATCH_BYTES = 1024 * 1024
"""How many bytes of resources are made into entries at once."""

APPLIED_BYTES = 4 * BATCH_BYTES
"""
After how many bytes of resources their entries are applied.

An index has to make applied entries visible, which costs as much for few of them as for many.
"""

SHARD_BYTES = 64 * 1024 * 1024
"""How many bytes are read between two notes about the progress of a build."""

MAX_LISTED = 10_000
"""If more resources than this have changed, they are read like an export, which is faster."""

VERSIONS_AT_ONCE = 500
"""How many versions or deletions are requested at once."""

_DELETION_BYTES = 1024
"""How many bytes the entry of a deletion counts for."""

_MICROSECOND = timedelta(microseconds=1)
_Provider = Any
"""A data provider with SupportsChangeFeed and SupportsTombstones."""


class IndexWork:
    """One pass that makes entries of one dataset and epoch, and applies them."""

    def __init__(  # noqa: PLR0913 - source, target, dataset and callback
        self,
        provider: _Provider,
        index: SearchIndex,
        dataset: Dataset,
        types: tuple[str, ...],
        state: IndexState,
        *,
        on_applied: Callable[["IndexWork"], None] = lambda _work: None,
    ) -> None:
        self.dataset = dataset
        self.types = types
        self.epoch = state.epoch
        self.applied = 0
        """How many entries were applied."""
        self.damaged = set[Unreadable]()
        """The resources that this pass could not read."""
        self._known = frozenset(read_note(state).unreadable)
        self._repaired = set[Unreadable]()
        self._provider = provider
        self._index = index
        self._on_applied = on_applied

    @property
    def unreadable(self) -> frozenset[Unreadable]:
        """The resources that cannot be read: those known before and not repaired, and new ones."""
        return (self._known - self._repaired) | self.damaged

    async def list_changes(self, since: datetime, until: datetime) -> datetime:
        """
        Index what changed after `since` and up to `until`, version by version, newest first.

        Return the instant up to which changes are still to be indexed, because there are too many
        or something is damaged; `since` if none are.
        """
        query = changes_between(self.dataset, self.types, since, until)
        seen, after, left = set[tuple[str, str]](), None, until
        async with self._buffer() as buffer:
            while len(seen) <= MAX_LISTED:
                try:
                    page = await self._provider.versions(
                        query, count=VERSIONS_AT_ONCE, after=after
                    )
                except BackendUnavailable:
                    raise
                except BackendError:
                    return left
                # Newest first: the first version seen of a resource is its state at `until`.
                newest = [v for v in page.versions if (v.resource_type, v.id) not in seen]
                seen.update((version.resource_type, version.id) for version in newest)
                made = await asyncio.to_thread(_of_versions, self.dataset.fhir_version, newest)
                await buffer.add(*made, sum(len(version.content or b"") for version in newest))
                after = page.next
                if after is None:
                    return since
                left = page.versions[-1].last_updated
        return left

    async def read_changes(self, since: datetime, until: datetime) -> None:
        """Index what changed in a period, reading it like an export of that period."""
        for name in self.types:
            async with aclosing(self.read(name, until, since=since)) as shards:
                async for _ in shards:
                    pass

    async def read(
        self, resource_type: str, at: datetime, *, since: datetime | None = None
    ) -> AsyncGenerator[None]:
        """Index a type, reading it like an export, and yield after each shard."""
        request = ExportRequest(
            tenant=self.dataset.tenant,
            url="",
            fhir_version=self.dataset.fhir_version,
            level=Level.SYSTEM,
            types=(resource_type,),
            since=since,
        )
        view = ExportView(request=request, transaction_time=at)
        for shard in await self._provider.plan(view, shard_bytes=SHARD_BYTES):
            async with self._buffer() as buffer:
                await self._index_lines(view, shard, buffer)
                if since is not None:
                    await self._index_deletions(view, shard, buffer)
            yield

    async def _index_lines(self, view: ExportView, shard: Shard, buffer: "_EntryBuffer") -> None:
        batches = self._provider.read(view, shard, batch_bytes=BATCH_BYTES)
        async with aclosing(batches):
            async for batch in batches:
                made, damaged = await asyncio.to_thread(
                    _of_lines, self.dataset.fhir_version, shard.resource_type, batch.lines
                )
                size = sum(map(len, batch.lines))
                await buffer.add(made, [*damaged, *batch.damaged], size)

    async def _index_deletions(
        self, view: ExportView, shard: Shard, buffer: "_EntryBuffer"
    ) -> None:
        key = self.dataset.type(shard.resource_type)
        deletions = self._provider.read_deleted(view, shard, batch_rows=VERSIONS_AT_ONCE)
        async with aclosing(deletions):
            async for ids in deletions:
                for resource_id in ids:
                    stored = await self._provider.get(
                        key.resource(resource_id), at=view.transaction_time
                    )
                    if stored is not None and stored.content is None:
                        await buffer.add([_deletion(stored)], [], _DELETION_BYTES)

    @asynccontextmanager
    async def _buffer(self) -> AsyncIterator["_EntryBuffer"]:
        """Yield a buffer of entries; all are in the index when the block ends without an error."""
        buffer = _EntryBuffer(self._apply)
        try:
            yield buffer
            await buffer.flush()
        finally:
            await buffer.cancel()

    async def _apply(self, entries: Sequence[IndexEntry], damaged: Sequence[Damaged]) -> None:
        for report in damaged:
            if report.id == UNKNOWN_ID:
                # A resource whose id is lost cannot be a candidate of searches.
                raise BackendError(f"{report.resource_type} is damaged: {report.reason}")
            self.damaged.add(Unreadable(report.resource_type, report.id))
        if entries:
            await self._index.apply(self.dataset, self.epoch, entries)
        self.applied += len(entries)
        self._on_applied(self)
        if self._known:
            names = {Unreadable(entry.resource_type, entry.id) for entry in entries}
            self._repaired |= self._known & names


class _EntryBuffer:
    """A buffer of entries, which applies some while the next ones are made."""

    def __init__(
        self, apply: Callable[[Sequence[IndexEntry], Sequence[Damaged]], Awaitable[None]]
    ) -> None:
        self._apply = apply
        self._entries: list[IndexEntry] = []
        self._damaged: list[Damaged] = []
        self._size = 0
        self._under_way: asyncio.Future[None] | None = None

    async def add(
        self, entries: Sequence[IndexEntry], damaged: Sequence[Damaged], size: int
    ) -> None:
        """Add entries made from `size` bytes of resources; wait if too many are pending."""
        self._entries += entries
        self._damaged += damaged
        self._size += size
        if self._size >= APPLIED_BYTES:
            await self._send()

    async def flush(self) -> None:
        """Return when all that was added is in the index."""
        await self._send()
        await self._wait()

    async def cancel(self) -> None:
        """Cancel the entries that are being applied."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    async def _send(self) -> None:
        await self._wait()
        entries, damaged = self._entries, self._damaged
        self._entries, self._damaged, self._size = [], [], 0
        self._under_way = asyncio.ensure_future(self._apply(entries, damaged))

    async def _wait(self) -> None:
        if self._under_way is not None:
            await self._under_way


def changes_between(
    dataset: Dataset, types: tuple[str, ...], since: datetime, until: datetime
) -> VersionQuery:
    """Return the query for what changed after one instant, and up to and including another."""
    return VersionQuery(
        tenant=dataset.tenant,
        fhir_version=dataset.fhir_version,
        types=types,
        since=since + _MICROSECOND,
        until=until,
    )


def _of_versions(
    version: FHIRVersion, stored: Sequence[StoredVersion]
) -> tuple[list[IndexEntry], list[Damaged]]:
    entries, damaged = list[IndexEntry](), list[Damaged]()
    for each in stored:
        if each.content is None:
            entries.append(_deletion(each))
        else:
            _add(entries, damaged, version, each, each.content)
    return entries, damaged


def _of_lines(
    version: FHIRVersion, resource_type: str, lines: Sequence[bytes]
) -> tuple[list[IndexEntry], list[Damaged]]:
    entries, damaged = list[IndexEntry](), list[Damaged]()
    for line in lines:
        try:
            stored = stored_line(resource_type, line)
        except DECODE_ERRORS:
            damaged.append(damaged_json(resource_type, line))
        else:
            _add(entries, damaged, version, stored, line)
    return entries, damaged


def _add(
    entries: list[IndexEntry],
    damaged: list[Damaged],
    version: FHIRVersion,
    stored: StoredVersion,
    line: bytes,
) -> None:
    try:
        terms, values = terms_and_values(line, version, stored.resource_type)
    except Exception:  # noqa: BLE001  one that cannot be indexed must not hold up the others
        reason = "the stored bytes are not a resource that can be indexed"
        damaged.append(Damaged(resource_type=stored.resource_type, id=stored.id, reason=reason))
        return
    entries.append(
        IndexEntry(
            resource_type=stored.resource_type,
            id=stored.id,
            version_id=stored.version_id,
            updated=to_stamp(stored.last_updated),
            terms=terms,
            values=values,
        )
    )


def _deletion(stored: StoredVersion) -> IndexEntry:
    return IndexEntry(
        resource_type=stored.resource_type,
        id=stored.id,
        version_id=stored.version_id,
        updated=to_stamp(stored.last_updated),
        terms=None,
    )
