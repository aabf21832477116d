"""
Provenance of what is exported.

Without `includeAssociatedData`, exports of patients and groups contain every Provenance with a
target in an exported compartment (Bulk Data 2.0.0, includeAssociatedData). With it, they contain
the Provenance of exported resources, whatever its date: the newest for each target, or all.
"""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from helios_core.errors import InvalidParameter
from helios_core.export.cohorts import newcomers_view
from helios_core.export.contents import ExportContents, Reference, without_dates
from helios_core.export.disclosure import ID_WITHHELD, disclosure
from helios_core.export.filters import read_filtered
from helios_core.export.pipeline.scratch import ScratchDatabase, scratch_database
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.instants import FOREVER
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
from helios_core.storage.resource_keys import TypeKey

PROVENANCE = "Provenance"
TARGETS_PER_SEARCH = 200
"""Maximum number of targets in one search by the `target` parameter."""
SEARCH_THRESHOLD = 2
"""A shard is searched by target if it has more than this many times the bytes of the targets."""

_SCHEMA = """
CREATE TABLE newest (
  target TEXT PRIMARY KEY, recorded INTEGER NOT NULL, updated TEXT NOT NULL, id TEXT NOT NULL
) WITHOUT ROWID;
"""
_KEEP_NEWEST = """
INSERT INTO newest VALUES (?, ?, ?, ?) ON CONFLICT (target) DO UPDATE
SET recorded = excluded.recorded, updated = excluded.updated, id = excluded.id
WHERE (excluded.recorded, excluded.updated, excluded.id) > (recorded, updated, id)
"""
_NEWEST_IDS = "SELECT DISTINCT id FROM newest WHERE id > ? ORDER BY id LIMIT ?"


def provenance_view(view: ExportView) -> ExportView:
    """Return the view of all Provenance that an export may contain."""
    request = replace(view.request, level=Level.SYSTEM, types=(PROVENANCE,))
    if request.associated is not None:
        request = replace(request, since=None, until=None)
    elif newcomers_view(view) is not None:
        request = replace(request, since=None)
    return replace(view, request=request, cohort=None, newcomers=None, filters={})


class _Target(msgspec.Struct):
    reference: str | None = None


class _Meta(msgspec.Struct, rename="camel"):
    last_updated: str = ""


class _Provenance(msgspec.Struct):
    """The elements of a Provenance that decide whether it is exported."""

    id: str
    target: list[_Target] = msgspec.field(default_factory=list[_Target])
    recorded: str = ""
    meta: _Meta = msgspec.field(default_factory=_Meta)

    @property
    def recorded_at(self) -> int:
        """The stamp of when it was recorded; before all others if that cannot be read."""
        try:
            return date_bounds(self.recorded)[0]
        except InvalidParameter:
            return -FOREVER


class _Candidate(msgspec.Struct):
    """A Provenance that was read, with its targets on this server."""

    provenance: _Provenance
    targets: list[Reference]

    @property
    def id(self) -> str:
        return self.provenance.id


class _Identified(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Provenance).decode


class ProvenanceFinder:
    """Finds the Provenance that belongs to an export, one shard of Provenance at a time."""

    def __init__(self, provider: DataProvider, view: ExportView, *, batch_bytes: int) -> None:
        self._provider = provider
        self._view = view
        self._membership = ExportContents(provider, view)
        self._has_newcomers = newcomers_view(view) is not None
        self._base_urls = base_urls(view.request.base_url)
        self._batch_bytes = batch_bytes

    async def find(self, shard: Shard) -> AsyncGenerator[Batch]:
        """Yield the Provenance that a shard of purpose `associated` adds, each once."""
        if self._view.request.associated is AssociatedData.LATEST:
            batches = self._newest(shard)
        else:
            batches = self._all(shard)
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def _all(self, shard: Shard) -> AsyncGenerator[Batch]:
        async for batch, candidates in self._candidates(shard):
            targets = await self._relevant_targets(candidates)
            ids = {c.id for c in candidates if not targets.isdisjoint(c.targets)}
            ids -= await self._exported_by_others(ids)
            lines = [
                line
                for line, candidate in zip(batch.lines, candidates, strict=True)
                if candidate.id in ids
            ]
            yield Batch(lines=lines, damaged=batch.damaged)

    async def _newest(self, shard: Shard) -> AsyncGenerator[Batch]:
        """Collect the ids of the newest for each target in a scratch database, then fetch them."""
        async with scratch_database(_SCHEMA) as scratch:
            async for batch, candidates in self._candidates(shard):
                candidates = self._disclosed(batch.lines, candidates)  # noqa: PLW2901
                targets = await self._relevant_targets(candidates)
                rows = [
                    (
                        f"{target[0]}/{target[1]}",
                        candidate.provenance.recorded_at,
                        candidate.provenance.meta.last_updated,
                        candidate.id,
                    )
                    for candidate in candidates
                    for target in candidate.targets
                    if target in targets
                ]
                await scratch.run(_keep_newest, rows)
                yield Batch(damaged=batch.damaged)
            async for batch in self._fetch_newest(scratch):
                yield batch

    def _disclosed(
        self, lines: Sequence[bytes], candidates: Sequence[_Candidate]
    ) -> list[_Candidate]:
        """Return the candidates that may be exported; an older one may then be the newest."""
        limit = disclosure(self._view, PROVENANCE)
        pairs = zip(lines, candidates, strict=True)
        return [candidate for line, candidate in pairs if limit is None or limit.allows(line)]

    async def _fetch_newest(self, scratch: ScratchDatabase) -> AsyncGenerator[Batch]:
        key, last = TypeKey.of(self._view.request, PROVENANCE), ""
        while ids := await scratch.run(_newest_ids, last):
            yield await self._provider.fetch(key, ids, at=self._view.transaction_time)
            last = ids[-1]

    async def _candidates(self, shard: Shard) -> AsyncGenerator[tuple[Batch, list[_Candidate]]]:
        """Yield batches of Provenance, with the decoded candidate of each line."""
        seen = set[str]()
        async for batch in self._batches(shard, seen):
            lines = list[bytes]()
            candidates = list[_Candidate]()
            damaged = [withhold_id(report) for report in batch.damaged]
            for line in batch.lines:
                try:
                    provenance = _decode(line)
                except msgspec.DecodeError:
                    damaged.append(_unreadable())
                    continue
                if provenance.id not in seen:
                    candidates.append(_Candidate(provenance, self._targets(provenance)))
                    lines.append(line)
            yield Batch(lines=lines, damaged=damaged), candidates

    async def _batches(self, shard: Shard, seen: set[str]) -> AsyncGenerator[Batch]:
        """
        Read a whole shard, or if that reads less, search it for the targets of the export.

        Several searches may find one resource: after each batch its ids are added to `seen`.
        """
        provider, view, limit = self._provider, provenance_view(self._view), self._batch_bytes
        searches = await self._searches(shard)
        if searches is None:
            async for batch in provider.read(view, shard, batch_bytes=limit):
                yield batch
            return
        async for references in searches:
            filter_ = self._target_filter(references)
            async for batch in read_filtered(
                provider, view, shard, filter_=filter_, batch_bytes=limit
            ):
                yield batch
                seen.update(filter(None, map(_id_of, batch.lines)))

    async def _searches(self, shard: Shard) -> AsyncIterator[Sequence[str]] | None:
        """Return the targets of each search, or None if reading the whole shard is cheaper."""
        if self._view.cohort is None or not isinstance(self._provider, SupportsPrefilter):
            return None
        view = without_dates(self._view, self._view.cohort)
        types = load_definitions(view.request.fhir_version).compartment_types("Patient")
        view = replace(view, request=replace(view.request, types=tuple(sorted(types))))
        shards = await self._provider.plan(view, shard_bytes=WHOLE_TYPE)
        target_bytes = sum(planned.bytes for planned in shards)
        if target_bytes * SEARCH_THRESHOLD >= shard.bytes:
            return None
        return self._references(view, shards)

    async def _references(
        self, view: ExportView, shards: Sequence[Shard]
    ) -> AsyncGenerator[Sequence[str]]:
        """Yield the references to all resources of a view, up to `TARGETS_PER_SEARCH` each."""
        waiting = list[str]()
        for shard in shards:
            batches = self._provider.read(view, shard, batch_bytes=self._batch_bytes)
            async for batch in batches:
                ids = filter(None, map(_id_of, batch.lines))
                waiting += [f"{shard.resource_type}/{resource_id}" for resource_id in ids]
                while len(waiting) >= TARGETS_PER_SEARCH:
                    yield waiting[:TARGETS_PER_SEARCH]
                    del waiting[:TARGETS_PER_SEARCH]
        if waiting:
            yield waiting

    def _target_filter(self, references: Sequence[str]) -> Filter:
        request, at = self._view.request, self._view.transaction_time
        pairs = [("target", ",".join(references))]
        return compile_query(
            request.fhir_version, PROVENANCE, pairs, base_urls=self._base_urls, now=at
        )

    def _targets(self, provenance: _Provenance) -> list[Reference]:
        targets = (split_reference(t.reference or "", self._base_urls) for t in provenance.target)
        return [target for target in targets if target is not None]

    async def _relevant_targets(self, candidates: Sequence[_Candidate]) -> set[Reference]:
        """Return the targets whose Provenance belongs to the export."""
        if self._view.request.associated is not None:
            targets = {t for c in candidates for t in c.targets if t[0] != PROVENANCE}
            return await self._membership.exported(targets)
        changed = {t for c in candidates if self._in_period(c.provenance) for t in c.targets}
        relevant = await self._membership.in_cohort(changed)
        if self._has_newcomers:
            others = {t for c in candidates for t in c.targets} - relevant
            relevant |= await self._membership.of_newcomers(others)
        return relevant

    def _in_period(self, provenance: _Provenance) -> bool:
        since = self._view.request.since
        if since is None:
            return True
        return _instant(provenance.meta.last_updated) > since

    async def _exported_by_others(self, ids: set[str]) -> set[str]:
        """Return those of `ids` that the shards of Provenance in the view export."""
        if self._view.request.associated is None:
            return await self._membership.in_view(PROVENANCE, ids)
        exported = await self._membership.exported({(PROVENANCE, i) for i in ids})
        return {resource_id for _, resource_id in exported}


def withhold_id(damaged: Damaged) -> Damaged:
    """Return a report without the id: the resource may not belong to this export."""
    return replace(damaged, id=ID_WITHHELD)


def _id_of(line: bytes) -> str | None:
    """Return the id of a resource, or None if it cannot be read: its own shard reports that."""
    try:
        return msgspec.json.decode(line, type=_Identified).id
    except msgspec.DecodeError:
        return None


def _unreadable() -> Damaged:
    reason = "the stored bytes are not a Provenance"
    return Damaged(resource_type=PROVENANCE, id=ID_WITHHELD, reason=reason)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.max.replace(tzinfo=UTC)


def _keep_newest(
    connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str, str]]
) -> None:
    connection.execute("BEGIN")
    connection.executemany(_KEEP_NEWEST, rows)
    connection.execute("COMMIT")


def _newest_ids(connection: sqlite3.Connection, after: str) -> list[str]:
    return [resource_id for (resource_id,) in connection.execute(_NEWEST_IDS, (after, 100))]
