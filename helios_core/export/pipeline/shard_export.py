"""One shard, from the data provider to parts in the output store."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

import msgspec

from helios_core.export.cohorts import shard_view
from helios_core.export.filters import matching_deletions
from helios_core.export.ndjson import PartCutter, gzip_chunks, read_ahead
from helios_core.export.pipeline.binaries import Absolute, absolute_attachment_urls
from helios_core.export.pipeline.blocks import BlockCutter
from helios_core.export.pipeline.organized_output import OrganizedOutput
from helios_core.export.pipeline.reference_notes import ReferenceNotes
from helios_core.export.pipeline.sources import is_filtered, read_source
from helios_core.export.transforms import Transform, make_transform
from helios_core.fhir.outcomes import outcome_line
from helios_core.model.completeness import line_digests
from helios_core.model.exports import ExportView, ShardPurpose
from helios_core.model.jobs import Lease
from helios_core.model.parts import Compression, Part, PartKey, PartKind
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch, Damaged, SupportsTombstones
from helios_core.storage.joined_lines import JoinedLines
from helios_core.storage.threads import in_thread

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
        self._view = shard_view(view, lease.shard)
        as_is = msgspec.structs.replace(self._view, filters={})
        narrowed = self._view if is_filtered(view, lease.shard.purpose) else as_is
        self._filter = narrowed.filters.get(lease.shard.resource_type)
        self._transform = make_transform(narrowed, lease.shard.resource_type)
        self._limits = limits
        self._damaged = list[Damaged]()
        self._resources: PartCutter | None = None
        self._looked_at = 0
        self.notes = b""
        """What is to be kept for later phases, once `run` has returned."""
        self._notes = ReferenceNotes(view.request) if lease.shard.notes else None
        self._absolute = (
            absolute_attachment_urls(view.request.base_url) if lease.shard.attachments else None
        )
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
        async with aclosing(self._deletions()) as batches:
            parts += await self._write(PartKind.DELETED, self._cutter(batches))
        async with aclosing(self._problems()) as batches:
            parts += await self._write(PartKind.ERROR, self._cutter(batches))
        if self._notes is not None:
            self.notes = await in_thread(self._notes.packed)
        return parts

    @property
    def _is_organized(self) -> bool:
        return self._lease.shard.purpose is ShardPurpose.ORGANIZED

    async def _write_lines(self) -> list[Part]:
        async with aclosing(read_ahead(self._batches(), heavy=self._is_heavy)) as batches:
            self._resources = self._cutter(batches)
            return await self._write(PartKind.OUTPUT, self._resources)

    async def _write_blocks(self) -> list[Part]:
        batch_bytes = self._limits.batch_bytes
        organized = OrganizedOutput(
            self._backends, self._lease, self._view, batch_bytes=batch_bytes
        )
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
            await self._backends.output_store.discard(key)

    def _cutter(self, batches: AsyncGenerator[Batch]) -> PartCutter:
        return PartCutter(batches, max_bytes=self._part_bytes, max_rows=self._limits.part_rows)

    @property
    def _part_bytes(self) -> int:
        limit = self._limits.part_bytes
        return min(self._view.request.max_part_bytes or limit, limit)

    async def _write(self, kind: PartKind, cutter: PartCutter) -> list[Part]:
        parts = list[Part]()
        while await cutter.more():
            key = self._key(kind, number=len(parts) + 1)
            self._written.append(key)
            async with aclosing(cutter.part()) as chunks:
                packed = gzip_chunks(chunks) if key.compression is Compression.GZIP else chunks
                async with aclosing(packed) as bytes_at_rest:
                    stored = await self._backends.output_store.put(key, bytes_at_rest)
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

    async def _batches(self) -> AsyncGenerator[Batch]:
        own = self._lease.shard.purpose in (ShardPurpose.VIEW, ShardPurpose.OLDER)
        if own and self._lease.shard.resource_type not in self._view.request.types:
            return  # there is something to report, and nothing to read
        async for batch in self._transformed():
            if isinstance(batch.lines, JoinedLines) or len(batch.lines) <= self._limits.batch_rows:
                yield batch
            else:
                for piece in split_batch(batch, self._limits.batch_rows):
                    yield piece
            del batch  # a large resource must not outlive the reading of the next one

    async def _transformed(self) -> AsyncGenerator[Batch]:
        batches = read_source(
            self._backends, self._lease, self._view, batch_bytes=self._limits.batch_bytes
        )
        async for batch in batches:
            self._looked_at += len(batch.lines)
            if self._lease.shard.purpose is ShardPurpose.LINKS:
                # What is damaged there is none of this export's.
                if self._notes is not None:
                    await in_thread(self._notes.take, batch.lines)
                continue
            if not self._leave_as_they_are:
                batch = await in_thread(self._prepared, batch)  # noqa: PLW2901
            self._damaged += batch.damaged
            if batch.lines:
                yield batch
            del batch

    @property
    def _leave_as_they_are(self) -> bool:
        return (self._transform, self._notes, self._absolute) == (None, None, None)

    def _prepared(self, batch: Batch) -> Batch:
        """Give a batch as it leaves, once it is noted what it refers to."""
        if self._transform is not None:
            batch = transform_batch(self._transform, batch)
        if self._notes is not None:
            self._notes.take(batch.lines)
        return batch if self._absolute is None else rewrite_batch(self._absolute, batch)

    def _is_heavy(self, batch: Batch) -> bool:
        """Whether this is one resource larger than a batch: nothing else then gets in there."""
        lines = batch.lines
        return len(lines) == 1 and len(lines[0]) > self._limits.batch_bytes

    async def _deletions(self) -> AsyncGenerator[Batch]:
        """Deletions as transaction Bundles (Bulk Data 2.0.0, Complete Status, deleted)."""
        provider = self._backends.data_provider
        if self._lease.shard.purpose not in (ShardPurpose.VIEW, ShardPurpose.DELETIONS):
            return
        if self._view.request.since is None or not isinstance(provider, SupportsTombstones):
            return
        shard = self._lease.shard
        async for ids in provider.read_deleted(self._view, shard, batch_rows=DELETIONS_PER_BUNDLE):
            named = await matching_deletions(provider, self._view, self._filter, ids)
            if named:
                yield Batch(lines=[deletion_bundle(shard.resource_type, named)])

    async def _problems(self) -> AsyncGenerator[Batch]:
        """What the client must know: once a job what it is about, and unreadable resources."""
        lines = [damage_outcome(damaged) for damaged in self._damaged]
        if self._lease.shard.number == 0:
            ignored, gaps = self._view.request.ignored, self._view.gaps
            lines += [outcome_line("warning", "not-supported", text) for text in ignored]
            lines += [outcome_line("error", "incomplete", text) for text in gaps]
        if lines:
            yield Batch(lines=lines)
        await asyncio.sleep(0)


def transform_batch(transform: Transform, batch: Batch) -> Batch:
    """Give what a transform leaves of a batch, with the digests of what it made."""
    lines, damaged = transform(batch.lines)
    return Batch(lines=lines, damaged=[*batch.damaged, *damaged], digests=line_digests(lines))


def rewrite_batch(rewrite: Absolute, batch: Batch) -> Batch:
    """Give a batch with other lines; the digests are kept only where these are the same."""
    lines = rewrite(batch.lines)
    return batch if lines is batch.lines else Batch(lines=lines, damaged=batch.damaged)


def split_batch(batch: Batch, rows: int) -> Iterator[Batch]:
    """Cut a batch into smaller ones."""
    for start in range(0, len(batch.lines), rows):
        digests = None if batch.digests is None else batch.digests[start : start + rows]
        yield Batch(lines=batch.lines[start : start + rows], digests=digests)


def deletion_bundle(resource_type: str, ids: Sequence[str]) -> bytes:
    """Give one line of a deleted file: a transaction Bundle with a DELETE for each id."""
    entries = [
        {"request": {"method": "DELETE", "url": f"{resource_type}/{resource_id}"}}
        for resource_id in ids
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return msgspec.json.encode(bundle)


def damage_outcome(damaged: Damaged) -> bytes:
    """Give one line of an error file: which resource is missing from the output, and why."""
    return outcome_line(
        "error",
        "incomplete",
        f"{damaged.resource_type}/{damaged.id} could not be exported: {damaged.reason}",
    )
