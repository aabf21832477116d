"""One shard, from the data provider to parts in the output store."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from helios_core.cohorts import view_for
from helios_core.data_providers import Damaged, SupportsTombstones
from helios_core.exports import ExportView, Purpose
from helios_core.fhir.outcomes import outcome_line
from helios_core.filters import matching_deletions
from helios_core.leases import Lease
from helios_core.manifests import Compression, Part, PartKey, PartKind
from helios_core.ndjson import Cutter, ahead, gzipped
from helios_core.pipeline.attachments import absolute
from helios_core.pipeline.blocks import BlockCutter
from helios_core.pipeline.notes import Notes
from helios_core.pipeline.organizing import Organized
from helios_core.pipeline.sources import batches_of, filtered
from helios_core.plugins import Backends
from helios_core.threads import in_thread
from helios_core.transforms import transform_of

DELETIONS_PER_BUNDLE = 1000
"""How many deletions one line of a deleted file holds."""


class PartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is read at a time, and where a part ends."""

    batch_bytes: int = 4 * 1024 * 1024
    """The most that is read in one go, unless a single resource is larger."""
    batch_rows: int = 1000
    """The most resources that are handed on in one go, between two looks at other tasks."""
    part_bytes: int = 128 * 1024 * 1024
    """Where a part is cut, in bytes of NDJSON before compression."""
    part_rows: int | None = None
    """Where a part is cut, in lines; None is no limit."""
    compression: Compression = Compression.NONE


class ShardExport:
    """
    Exports one shard under one lease.

    The parts are durable but not published when `run` returns; `discard` removes what was written
    so far, and is what a failed or superseded attempt owes the output store.
    """

    def __init__(
        self, backends: Backends, lease: Lease, *, view: ExportView, limits: PartLimits
    ) -> None:
        self._backends = backends
        self._lease = lease
        self._view = view_for(view, lease.shard)
        as_is = msgspec.structs.replace(self._view, filters={})
        narrowed = self._view if filtered(view, lease.shard.purpose) else as_is
        self._filter = narrowed.filters.get(lease.shard.resource_type)
        self._transform = transform_of(narrowed, lease.shard.resource_type)
        self._limits = limits
        self._damaged = list[Damaged]()
        self._resources: Cutter | None = None
        self._looked_at = 0
        self.notes = b""
        """What is to be kept for later phases, once `run` has returned."""
        self._notes = Notes(view.request) if lease.shard.notes else None
        self._absolute = absolute(view.request.base_url) if lease.shard.attachments else None
        self._written = list[PartKey]()

    @property
    def resources_done(self) -> int:
        """How many resources have been passed on, or looked at and found not to match."""
        if self._filter is not None:
            return self._looked_at
        return self._resources.total_rows if self._resources else 0

    async def run(self) -> list[Part]:
        """
        Write every part of the shard and give them, not yet published.

        Raises:
            BackendError: The data could not be read or the parts could not be stored.
        """
        parts = await (self._write_blocks() if self._is_organized else self._write_lines())
        async with aclosing(self._deletions()) as lines:
            parts += await self._write(PartKind.DELETED, self._cutter(lines))
        async with aclosing(self._problems()) as lines:
            parts += await self._write(PartKind.ERROR, self._cutter(lines))
        if self._notes is not None:
            self.notes = await in_thread(self._notes.packed)
        return parts

    @property
    def _is_organized(self) -> bool:
        return self._lease.shard.purpose is Purpose.ORGANIZED

    async def _write_lines(self) -> list[Part]:
        async with aclosing(ahead(self._lines(), heavy=self._is_heavy)) as lines:
            self._resources = self._cutter(lines)
            return await self._write(PartKind.OUTPUT, self._resources)

    async def _write_blocks(self) -> list[Part]:
        batch_bytes = self._limits.batch_bytes
        organized = Organized(self._backends, self._lease, self._view, batch_bytes=batch_bytes)
        async with aclosing(organized.pieces()) as pieces:
            limits = self._limits
            self._resources = BlockCutter(
                pieces, max_bytes=self._part_bytes, max_rows=limits.part_rows
            )
            parts = await self._write(PartKind.OUTPUT, self._resources)
        self._damaged += organized.damaged
        return parts

    async def discard(self) -> None:
        """Remove whatever this attempt has stored."""
        for key in self._written:
            await self._backends.outputs.discard(key)

    def _cutter(self, lines: AsyncGenerator[Sequence[bytes]]) -> Cutter:
        return Cutter(lines, max_bytes=self._part_bytes, max_rows=self._limits.part_rows)

    @property
    def _part_bytes(self) -> int:
        limit = self._limits.part_bytes
        return min(self._view.request.max_part_bytes or limit, limit)

    async def _write(self, kind: PartKind, cutter: Cutter) -> list[Part]:
        parts = list[Part]()
        while await cutter.more():
            key = self._key(kind, number=len(parts) + 1)
            self._written.append(key)
            async with aclosing(cutter.part()) as chunks:
                packed = gzipped(chunks) if key.compression is Compression.GZIP else chunks
                async with aclosing(packed) as bytes_at_rest:
                    stored = await self._backends.outputs.put(key, bytes_at_rest)
            parts.append(
                Part(
                    key=key,
                    count=cutter.rows,
                    size=stored.size,
                    plain_size=cutter.bytes,
                    digest=stored.digest,
                    digest_sum=cutter.digest_sum,
                    continues=cutter.continues,
                )
            )
        return parts

    def _key(self, kind: PartKind, *, number: int) -> PartKey:
        job, shard = self._lease.job, self._lease.shard
        return PartKey(
            tenant=job.tenant,
            job_id=job.id,
            kind=kind,
            resource_type=shard.resource_type,
            ordinal=shard.ordinal,
            number=number,
            token=self._lease.token,
            compression=self._limits.compression,
        )

    async def _lines(self) -> AsyncGenerator[Sequence[bytes]]:
        own = self._lease.shard.purpose in (Purpose.VIEW, Purpose.OLDER)
        if own and self._lease.shard.resource_type not in self._view.request.types:
            return  # there is something to report, and nothing to read
        async for lines in self._transformed():
            rows = self._limits.batch_rows
            if len(lines) > rows:
                for start in range(0, len(lines), rows):
                    yield lines[start : start + rows]
            elif lines:
                yield lines
            del lines  # a large resource must not outlive the reading of the next one

    async def _transformed(self) -> AsyncGenerator[Sequence[bytes]]:
        batches = batches_of(
            self._backends, self._lease, self._view, batch_bytes=self._limits.batch_bytes
        )
        async for batch in batches:
            self._looked_at += len(batch.lines)
            lines = batch.lines
            if self._lease.shard.purpose is Purpose.LINKS:
                # What is damaged there is none of this export's.
                self._note(lines)
                continue
            self._damaged += batch.damaged
            if self._transform is not None:
                lines, damaged = await asyncio.to_thread(self._transform, lines)
                self._damaged += damaged
            self._note(lines)
            if self._absolute is not None:
                lines = self._absolute(lines)
            yield lines
            del batch, lines

    def _note(self, lines: Sequence[bytes]) -> None:
        if self._notes is not None:
            self._notes.take(lines)

    def _is_heavy(self, lines: Sequence[bytes]) -> bool:
        """Whether these are one resource larger than a batch: nothing else then gets in there."""
        return len(lines) == 1 and len(lines[0]) > self._limits.batch_bytes

    async def _deletions(self) -> AsyncGenerator[Sequence[bytes]]:
        """Deletions as transaction Bundles (Bulk Data 2.0.0, Complete Status, deleted)."""
        provider = self._backends.provider
        if self._lease.shard.purpose not in (Purpose.VIEW, Purpose.DELETIONS):
            return
        if self._view.request.since is None or not isinstance(provider, SupportsTombstones):
            return
        shard = self._lease.shard
        async for ids in provider.read_deleted(self._view, shard, batch_rows=DELETIONS_PER_BUNDLE):
            named = await matching_deletions(provider, self._view, self._filter, ids)
            if named:
                yield [deletion_bundle(shard.resource_type, named)]

    async def _problems(self) -> AsyncGenerator[Sequence[bytes]]:
        """What the client must know: once a job what it is about, and unreadable resources."""
        lines = [unreadable(damaged) for damaged in self._damaged]
        if self._lease.shard.number == 0:
            ignored, gaps = self._view.request.ignored, self._view.gaps
            lines += [outcome_line("warning", "not-supported", text) for text in ignored]
            lines += [outcome_line("error", "incomplete", text) for text in gaps]
        if lines:
            yield lines
        await asyncio.sleep(0)


def deletion_bundle(resource_type: str, ids: Sequence[str]) -> bytes:
    """Give one line of a deleted file: a transaction Bundle with a DELETE for each id."""
    entries = [
        {"request": {"method": "DELETE", "url": f"{resource_type}/{resource_id}"}}
        for resource_id in ids
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return msgspec.json.encode(bundle)


def unreadable(damaged: Damaged) -> bytes:
    """Give one line of an error file: which resource is missing from the output, and why."""
    return outcome_line(
        "error",
        "incomplete",
        f"{damaged.resource_type}/{damaged.id} could not be exported: {damaged.reason}",
    )
