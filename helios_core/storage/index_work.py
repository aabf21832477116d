"""Make entries of what is stored, and apply them to an index."""

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
"""How many bytes of resources entries are made of at once."""

APPLIED_BYTES = 4 * BATCH_BYTES
"""
From how many bytes of resources on their entries are applied.

An index has to make visible what is applied, which costs as much for few entries as for many.
"""

SHARD_BYTES = 64 * 1024 * 1024
"""How much is read between two notes of how far a build has come."""

MAX_LISTED = 10_000
"""Of more changes than this, the resources are read as for an export, which is faster."""

VERSIONS_AT_ONCE = 500
"""How many versions or deletions are asked for at once."""

_DELETION_BYTES = 1024
"""What an entry of a deletion counts for."""

_MICROSECOND = timedelta(microseconds=1)
_Provider = Any
"""A data provider with SupportsChangeFeed and SupportsTombstones."""


class IndexWork:
    """The entries of one dataset and epoch that one pass makes and applies."""

    def __init__(  # noqa: PLR0913 - where from, where to, of what, and who is told
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
        """What could not be read."""
        self._known = frozenset(read_note(state).unreadable)
        self._repaired = set[Unreadable]()
        self._provider = provider
        self._index = index
        self._on_applied = on_applied

    @property
    def unreadable(self) -> frozenset[Unreadable]:
        """What cannot be read now, of that which was known before and what was found."""
        return (self._known - self._repaired) | self.damaged

    async def list_changes(self, since: datetime, until: datetime) -> datetime:
        """
        Index what changed after one instant and up to another, version by version.

        Return the instant up to which changes are left, because there are too many or something
        is damaged; `since` if none are.
        """
        query = changes_between(self.dataset, self.types, since, until)
        seen, after, left = set[tuple[str, str]](), None, until
        async with self._applying() as applying:
            while len(seen) <= MAX_LISTED:
                try:
                    page = await self._provider.versions(
                        query, count=VERSIONS_AT_ONCE, after=after
                    )
                except BackendUnavailable:
                    raise
                except BackendError:
                    return left
                # Newest first: what is seen first of a resource is what it is at the end.
                newest = [v for v in page.versions if (v.resource_type, v.id) not in seen]
                seen.update((each.resource_type, each.id) for each in newest)
                made = await asyncio.to_thread(_of_versions, self.dataset.fhir_version, newest)
                await applying.add(*made, sum(len(each.content or b"") for each in newest))
                after = page.next
                if after is None:
                    return since
                left = page.versions[-1].last_updated
        return left

    async def read_changes(self, since: datetime, until: datetime) -> None:
        """Index what changed in a period as an export with that period reads it."""
        for name in self.types:
            async with aclosing(self.read(name, until, since=since)) as shards:
                async for _ in shards:
                    pass

    async def read(
        self, resource_type: str, at: datetime, *, since: datetime | None = None
    ) -> AsyncGenerator[None]:
        """Index a type as an export reads it, and yield after each shard."""
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
            async with self._applying() as applying:
                await self._index_lines(view, shard, applying)
                if since is not None:
                    await self._index_deletions(view, shard, applying)
            yield

    async def _index_lines(self, view: ExportView, shard: Shard, applying: "_Applying") -> None:
        batches = self._provider.read(view, shard, batch_bytes=BATCH_BYTES)
        async with aclosing(batches):
            async for batch in batches:
                made, damaged = await asyncio.to_thread(
                    _of_lines, self.dataset.fhir_version, shard.resource_type, batch.lines
                )
                size = sum(map(len, batch.lines))
                await applying.add(made, [*damaged, *batch.damaged], size)

    async def _index_deletions(
        self, view: ExportView, shard: Shard, applying: "_Applying"
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
                        await applying.add([_deletion(stored)], [], _DELETION_BYTES)

    @asynccontextmanager
    async def _applying(self) -> AsyncIterator["_Applying"]:
        """Yield what takes entries; all are in the index when the block ends without an error."""
        applying = _Applying(self._apply)
        try:
            yield applying
            await applying.flush()
        finally:
            await applying.cancel()

    async def _apply(self, entries: Sequence[IndexEntry], damaged: Sequence[Damaged]) -> None:
        for report in damaged:
            if report.id == UNKNOWN_ID:
                # What is not known to be there cannot be looked up.
                raise BackendError(f"{report.resource_type} is damaged: {report.reason}")
            self.damaged.add(Unreadable(report.resource_type, report.id))
        if entries:
            await self._index.apply(self.dataset, self.epoch, entries)
        self.applied += len(entries)
        self._on_applied(self)
        if self._known:
            names = {Unreadable(each.resource_type, each.id) for each in entries}
            self._repaired |= self._known & names


class _Applying:
    """Entries on their way into an index, while the next ones are made."""

    def __init__(
        self, apply: Callable[[Sequence[IndexEntry], Sequence[Damaged]], Awaitable[None]]
    ) -> None:
        self._apply = apply
        self._entries: list[IndexEntry] = []
        self._damaged: list[Damaged] = []
        self._size = 0
        self._on_their_way: asyncio.Future[None] | None = None

    async def add(
        self, entries: Sequence[IndexEntry], damaged: Sequence[Damaged], size: int
    ) -> None:
        """Take entries of so many bytes, and wait if there are too many of them."""
        self._entries += entries
        self._damaged += damaged
        self._size += size
        if self._size >= APPLIED_BYTES:
            await self._send()

    async def flush(self) -> None:
        """Return when all that was added is in the index."""
        await self._send()
        await self._arrived()

    async def cancel(self) -> None:
        """Forget what is on its way."""
        if self._on_their_way is not None:
            self._on_their_way.cancel()
            await asyncio.gather(self._on_their_way, return_exceptions=True)

    async def _send(self) -> None:
        await self._arrived()
        entries, damaged = self._entries, self._damaged
        self._entries, self._damaged, self._size = [], [], 0
        self._on_their_way = asyncio.ensure_future(self._apply(entries, damaged))

    async def _arrived(self) -> None:
        if self._on_their_way is not None:
            await self._on_their_way


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
    except Exception:  # noqa: BLE001  what cannot be taken apart must not hold up everything else
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
