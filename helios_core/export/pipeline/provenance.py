"""
Provenance of what is exported.

Without a choice, exports of patients and groups bring every Provenance that targets something in
a compartment they take in (Bulk Data 2.0.0, includeAssociatedData). With `includeAssociatedData`
those of exported resources are added whatever their age: the newest per target, or all of them.
"""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from helios_core.errors import InvalidParameter
from helios_core.export.cohorts import newcomers_view
from helios_core.export.filters import read_filtered
from helios_core.export.membership import ExportMembership, Reference, without_dates
from helios_core.export.pipeline.scratch import ScratchDatabase, scratch_database
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.references import base_urls, split_reference
from helios_core.fhir.search import Filter, compile_query
from helios_core.model.exports import AssociatedData, ExportView, Level, Shard
from helios_core.storage.data_provider import (
    WHOLE_TYPE,
    Batch,
    Damaged,
    DataProvider,
    SupportsPrefilter,
)
from helios_core.storage.keys import TypeKey

PROVENANCE = "Provenance"
REFERENCES_AT_ONCE = 200
"""How many targets an index is asked for in one go."""
WORTH = 2
"""How many times more Provenance than other data makes asking an index worth while."""

_SCHEMA = """
CREATE TABLE newest (
  target TEXT PRIMARY KEY, recorded TEXT NOT NULL, updated TEXT NOT NULL, id TEXT NOT NULL
) WITHOUT ROWID;
"""
_OFFER = """
INSERT INTO newest VALUES (?, ?, ?, ?) ON CONFLICT (target) DO UPDATE
SET recorded = excluded.recorded, updated = excluded.updated, id = excluded.id
WHERE (excluded.recorded, excluded.updated, excluded.id) > (recorded, updated, id)
"""
_WINNERS = "SELECT DISTINCT id FROM newest WHERE id > ? ORDER BY id LIMIT ?"


class _Target(msgspec.Struct):
    reference: str | None = None


class _Meta(msgspec.Struct, rename="camel"):
    last_updated: str = ""


class _Named(msgspec.Struct):
    id: str


class _Statement(msgspec.Struct):
    """As much of a Provenance as is needed."""

    id: str
    target: list[_Target] = msgspec.field(default_factory=list[_Target])
    recorded: str = ""
    meta: _Meta = msgspec.field(default_factory=_Meta)

    @property
    def moment(self) -> str:
        """When it was recorded, in a form that sorts; what cannot be read is oldest."""
        try:
            return date_bounds(self.recorded)[0].astimezone(UTC).isoformat(timespec="microseconds")
        except (InvalidParameter, OverflowError):
            return ""


class _Known(msgspec.Struct):
    """A Provenance, and what of its targets is on this server."""

    statement: _Statement
    targets: list[Reference]

    @property
    def id(self) -> str:
        return self.statement.id


_decode = msgspec.json.Decoder(_Statement).decode


def provenance_view(view: ExportView) -> ExportView:
    """Give the view of all Provenance among which an export looks for its own."""
    request = replace(view.request, level=Level.SYSTEM, types=(PROVENANCE,))
    if request.associated is not None:
        request = replace(request, since=None, until=None)
    elif newcomers_view(view) is not None:
        request = replace(request, since=None)
    return replace(view, request=request, cohort=None, newcomers=None, filters={})


class ProvenanceFinder:
    """Finds, in one shard of the Provenance of a store, what goes with an export."""

    def __init__(self, provider: DataProvider, view: ExportView, *, batch_bytes: int) -> None:
        self._provider = provider
        self._view = view
        self._membership = ExportMembership(provider, view)
        self._older = newcomers_view(view) is not None
        self._bases = base_urls(view.request.base_url)
        self._batch_bytes = batch_bytes

    async def of(self, shard: Shard) -> AsyncGenerator[Batch]:
        """Give the Provenance that a shard of purpose `associated` adds, each once."""
        if self._view.request.associated is AssociatedData.LATEST:
            batches = self._newest(shard)
        else:
            batches = self._all(shard)
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def _all(self, shard: Shard) -> AsyncGenerator[Batch]:
        async for batch, statements in self._scan(shard):
            about = await self._about(statements)
            chosen = {s.id for s in statements if not about.isdisjoint(s.targets)}
            chosen -= await self._given_already(chosen)
            lines = [
                line
                for line, statement in zip(batch.lines, statements, strict=True)
                if statement.id in chosen
            ]
            yield Batch(lines=lines, damaged=batch.damaged)

    async def _newest(self, shard: Shard) -> AsyncGenerator[Batch]:
        """Note the newest of every target where there is room, then fetch those noted."""
        async with scratch_database(_SCHEMA) as room:
            async for batch, statements in self._scan(shard):
                about = await self._about(statements)
                offers = [
                    (
                        f"{target[0]}/{target[1]}",
                        s.statement.moment,
                        s.statement.meta.last_updated,
                        s.id,
                    )
                    for s in statements
                    for target in s.targets
                    if target in about
                ]
                await room.run(_offer, offers)
                yield Batch(damaged=batch.damaged)
            async for batch in self._winners(room):
                yield batch

    async def _winners(self, room: ScratchDatabase) -> AsyncGenerator[Batch]:
        key, last = TypeKey.of(self._view.request, PROVENANCE), ""
        while ids := await room.run(_next_winners, last):
            yield await self._provider.fetch(key, ids, at=self._view.transaction_time)
            last = ids[-1]

    async def _scan(self, shard: Shard) -> AsyncGenerator[tuple[Batch, list[_Known]]]:
        seen = set[str]()
        async for batch in self._batches(shard, seen):
            lines = list[bytes]()
            statements = list[_Known]()
            damaged = [withhold_ids(each) for each in batch.damaged]
            for line in batch.lines:
                try:
                    statement = _decode(line)
                except msgspec.DecodeError:
                    damaged.append(_unreadable())
                    continue
                if statement.id not in seen:
                    statements.append(_Known(statement, self._targets(statement)))
                    lines.append(line)
            yield Batch(lines=lines, damaged=damaged), statements

    async def _batches(self, shard: Shard, seen: set[str]) -> AsyncGenerator[Batch]:
        """Read all of a shard, or for few patients what an index knows to be about theirs."""
        provider, view, limit = self._provider, provenance_view(self._view), self._batch_bytes
        few = await self._few(shard)
        if few is None:
            async for batch in provider.read(view, shard, batch_bytes=limit):
                yield batch
            return
        async for references in few:
            wanted = self._query(references)
            async for batch in read_filtered(
                provider, view, shard, found=wanted, batch_bytes=limit
            ):
                yield batch
                seen.update(filter(None, map(_id_of, batch.lines)))

    async def _few(self, shard: Shard) -> AsyncIterator[Sequence[str]] | None:
        """Give what the export takes in, if that is less than the shard; some at a time."""
        if self._view.cohort is None or not isinstance(self._provider, SupportsPrefilter):
            return None
        view = without_dates(self._view, self._view.cohort)
        types = load_definitions(view.request.fhir_version).compartment_types("Patient")
        view = replace(view, request=replace(view.request, types=tuple(sorted(types))))
        shards = await self._provider.plan(view, shard_bytes=WHOLE_TYPE)
        if sum(each.bytes for each in shards) * WORTH >= shard.bytes:
            return None
        return self._references(view, shards)

    async def _references(
        self, view: ExportView, shards: Sequence[Shard]
    ) -> AsyncGenerator[Sequence[str]]:
        waiting = list[str]()
        for shard in shards:
            batches = self._provider.read(view, shard, batch_bytes=self._batch_bytes)
            async for batch in batches:
                ids = filter(None, map(_id_of, batch.lines))
                waiting += [f"{shard.resource_type}/{each}" for each in ids]
                while len(waiting) >= REFERENCES_AT_ONCE:
                    yield waiting[:REFERENCES_AT_ONCE]
                    del waiting[:REFERENCES_AT_ONCE]
        if waiting:
            yield waiting

    def _query(self, references: Sequence[str]) -> Filter:
        request, at = self._view.request, self._view.transaction_time
        pairs = [("target", ",".join(references))]
        return compile_query(
            request.fhir_version, PROVENANCE, pairs, base_urls=self._bases, now=at
        )

    def _targets(self, statement: _Statement) -> list[Reference]:
        named = (split_reference(t.reference or "", self._bases) for t in statement.target)
        return [target for target in named if target is not None]

    async def _about(self, statements: Sequence[_Known]) -> set[Reference]:
        """Give those of the targets whose Provenance the export is to bring."""
        if self._view.request.associated is not None:
            targets = {t for s in statements for t in s.targets if t[0] != PROVENANCE}
            return await self._membership.exported(targets)
        changed = {t for s in statements if self._in_period(s.statement) for t in s.targets}
        about = await self._membership.belonging(changed)
        if self._older:
            others = {t for s in statements for t in s.targets} - about
            about |= await self._membership.of_newcomers(others)
        return about

    def _in_period(self, statement: _Statement) -> bool:
        since = self._view.request.since
        if since is None:
            return True
        return _instant(statement.meta.last_updated) > since

    async def _given_already(self, ids: set[str]) -> set[str]:
        """Give those of `ids` that the view's own shards bring."""
        if self._view.request.associated is None:
            return await self._membership.shown(PROVENANCE, ids)
        own = await self._membership.exported({(PROVENANCE, each) for each in ids})
        return {resource_id for _, resource_id in own}


def withhold_ids(damaged: Damaged) -> Damaged:
    """Give a report that does not say which one is damaged: it may be none of this export's."""
    return replace(damaged, id="(id withheld)")


def _id_of(line: bytes) -> str | None:
    try:
        return msgspec.json.decode(line, type=_Named).id
    except msgspec.DecodeError:
        return None  # whoever exports it reports it


def _unreadable() -> Damaged:
    reason = "the stored bytes are not a Provenance"
    return Damaged(resource_type=PROVENANCE, id="(id withheld)", reason=reason)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.max.replace(tzinfo=UTC)


def _offer(connection: sqlite3.Connection, offers: Sequence[tuple[str, str, str, str]]) -> None:
    connection.execute("BEGIN")
    connection.executemany(_OFFER, offers)
    connection.execute("COMMIT")


def _next_winners(connection: sqlite3.Connection, last: str) -> list[str]:
    return [found for (found,) in connection.execute(_WINNERS, (last, 100))]
