"""Make entries of what is stored, and apply them to an index."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search import terms_of
from helios_core.model.exports import ExportRequest, ExportView, Level
from helios_core.storage.data_provider import Batch, Damaged, StoredVersion, VersionQuery
from helios_core.storage.index_notes import Unreadable, read_note
from helios_core.storage.integrity import DECODE_ERRORS, UNKNOWN_ID, damaged_json
from helios_core.storage.search_index import IndexEntry, IndexScope, IndexState, SearchIndex
from helios_core.storage.stamped_lines import stored_line

BATCH_BYTES = 1024 * 1024
"""How many bytes of resources make the entries that are applied together."""

SHARD_BYTES = 64 * 1024 * 1024
"""How much is read between two notes of how far a build has come."""

MAX_LISTED = 10_000
"""Of more changes than this, the resources are read as for an export, which is faster."""

VERSIONS_AT_ONCE = 500
"""How many versions or deletions are asked for at once."""

_MICROSECOND = timedelta(microseconds=1)
_Provider = Any
"""A data provider with SupportsChangeFeed and SupportsTombstones."""


class IndexWork:
    """The entries of one scope and epoch that one pass makes and applies."""

    def __init__(
        self,
        provider: _Provider,
        index: SearchIndex,
        scope: IndexScope,
        types: tuple[str, ...],
        state: IndexState,
    ) -> None:
        self.scope = scope
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

    @property
    def unreadable(self) -> frozenset[Unreadable]:
        """What cannot be read now, of that which was known before and what was found."""
        return (self._known - self._repaired) | self.damaged

    async def list_changes(self, since: datetime, until: datetime) -> bool:
        """
        Index what changed after one instant and up to another, version by version.

        Return False, and be content with a part, if there is too much or something is damaged.
        """
        query = changes_between(self.scope, self.types, since, until)
        seen, after = set[tuple[str, str]](), None
        while True:
            try:
                page = await self._provider.versions(query, count=VERSIONS_AT_ONCE, after=after)
            except BackendUnavailable:
                raise
            except BackendError:
                return False
            # Newest first: what is seen first of a resource is what it is at the later instant.
            newest = [v for v in page.versions if (v.resource_type, v.id) not in seen]
            seen.update((each.resource_type, each.id) for each in newest)
            made = await asyncio.to_thread(_of_versions, self.scope.fhir_version, newest)
            await self._apply(*made)
            after = page.next
            if after is None:
                return True
            if len(seen) > MAX_LISTED:
                return False

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
            tenant=self.scope.tenant,
            url="",
            fhir_version=self.scope.fhir_version,
            level=Level.SYSTEM,
            types=(resource_type,),
            since=since,
        )
        view = ExportView(request=request, transaction_time=at)
        for shard in await self._provider.plan(view, shard_bytes=SHARD_BYTES):
            async with aclosing(
                self._provider.read(view, shard, batch_bytes=BATCH_BYTES)
            ) as batches:
                await self._index_batches(resource_type, batches)
            if since is not None:
                async with aclosing(
                    self._provider.read_deleted(view, shard, batch_rows=VERSIONS_AT_ONCE)
                ) as deletions:
                    async for ids in deletions:
                        await self._index_deletions(resource_type, ids, at)
            yield

    async def _index_batches(self, resource_type: str, batches: AsyncIterator[Batch]) -> None:
        applying: asyncio.Future[None] | None = None
        try:
            async for batch in batches:
                made = await asyncio.to_thread(
                    _of_lines, self.scope.fhir_version, resource_type, batch.lines
                )
                if applying is not None:
                    await applying
                # The next entries are made while these are on their way.
                damaged = [*made[1], *batch.damaged]
                applying = asyncio.ensure_future(self._apply(made[0], damaged))
            if applying is not None:
                await applying
        finally:
            if applying is not None and not applying.done():
                applying.cancel()
                await asyncio.wait([applying])

    async def _index_deletions(self, resource_type: str, ids: Sequence[str], at: datetime) -> None:
        key = self.scope.type(resource_type)
        entries = list[IndexEntry]()
        for resource_id in ids:
            stored = await self._provider.get(key.resource(resource_id), at=at)
            if stored is not None and stored.content is None:
                entries.append(_deletion(stored))
        await self._apply(entries, [])

    async def _apply(self, entries: Sequence[IndexEntry], damaged: Sequence[Damaged]) -> None:
        for report in damaged:
            if report.id == UNKNOWN_ID:
                # What is not known to be there cannot be looked up.
                raise BackendError(f"{report.resource_type} is damaged: {report.reason}")
            self.damaged.add(Unreadable(report.resource_type, report.id))
        if entries:
            await self._index.apply(self.scope, self.epoch, entries)
        self.applied += len(entries)
        if self._known:
            names = {Unreadable(each.resource_type, each.id) for each in entries}
            self._repaired |= self._known & names


def changes_between(
    scope: IndexScope, types: tuple[str, ...], since: datetime, until: datetime
) -> VersionQuery:
    """Return the query for what changed after one instant, and up to and including another."""
    return VersionQuery(
        tenant=scope.tenant,
        fhir_version=scope.fhir_version,
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
        terms = terms_of(line, version, stored.resource_type)
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
