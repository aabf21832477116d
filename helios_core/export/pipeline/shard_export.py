"""Export one shard: read it from the data provider, write it as parts to the output store."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

import msgspec

from helios_core.export.cohorts import shard_view
from helios_core.export.disclosure import PATIENT, disclosure, reportable
from helios_core.export.filters import last_contents, matching_deletions
from helios_core.export.ndjson import LineCutter, PartCutter, gzip_chunks, read_ahead
from helios_core.export.pipeline.binaries import Rewrite, attachment_rewriter
from helios_core.export.pipeline.blocks import BlockCutter
from helios_core.export.pipeline.error_lines import (
    NAMELESS_GAP,
    NAMELESS_MEMBERS,
    damage_outcome,
    withheld_outcomes,
)
from helios_core.export.pipeline.organized_output import OrganizedOutput
from helios_core.export.pipeline.provenance import withhold_id
from helios_core.export.pipeline.reference_notes import ReferenceNotes
from helios_core.export.pipeline.sources import is_filtered, read_source
from helios_core.export.pipeline.unorganized import UnorganizedCounter
from helios_core.export.reduction import LineReducer, make_reducer
from helios_core.fhir.outcomes import outcome_line
from helios_core.model.completeness import line_digests
from helios_core.model.exports import ExportView, ShardPurpose
from helios_core.model.jobs import Lease
from helios_core.model.parts import Compression, Part, PartKey, PartKind
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import Batch, Damaged, SupportsTombstones
from helios_core.storage.joined_lines import JoinedLines
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import in_thread

DELETIONS_PER_BUNDLE = 1000
"""Maximum number of deletions in one Bundle, which is one line of a deleted file."""


class PartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a batch that is read and of a part that is written."""

    batch_bytes: int = 4 * 1024 * 1024
    """Maximum bytes of a batch, unless a single resource is larger."""
    batch_rows: int = 1000
    """Maximum number of resources processed before other tasks get a turn."""
    part_bytes: int = 128 * 1024 * 1024
    """Maximum size of a part, in bytes of NDJSON before compression."""
    part_rows: int | None = None
    """Maximum number of lines in a part; None is no limit."""
    compression: Compression = Compression.NONE


class ShardExport:
    """
    Exports one shard under one lease.

    When `run` returns, the parts are durable but not published. After a failed or superseded
    attempt, call `discard` to remove what was written.
    """

    def __init__(
        self, backends: Backends, lease: Lease, *, view: ExportView, limits: PartLimits
    ) -> None:
        self._backends = backends
        self._lease = lease
        self._view = shard_view(view, lease.shard)
        output_view = self._view
        if not is_filtered(view, lease.shard.purpose):
            output_view = msgspec.structs.replace(self._view, filters={})
        self._filter = output_view.filters.get(lease.shard.resource_type)
        self._reduce = make_reducer(output_view, lease.shard.resource_type)
        self._key = TypeKey.of(view.request, lease.shard.resource_type)
        self._limits = limits
        self._damaged = list[Damaged]()
        self._withheld = Counter[str]()
        self._unorganized = 0
        self._has_binaries = False
        self._resources: PartCutter | None = None
        self._rows_read = 0
        self.notes = b""
        """The reference notes to store for later phases; complete once `run` has returned."""
        self._notes = ReferenceNotes(view.request) if lease.shard.notes else None
        self._rewrite = (
            attachment_rewriter(view.request.base_url) if lease.shard.attachments else None
        )
        self._written = list[PartKey]()

    @property
    def resources_done(self) -> int:
        """The number of resources written, or of those read if some are dropped by content."""
        drops = self._backends.transforms.drops(self._key.resource_type)
        limit = disclosure(self._view, self._key.resource_type)
        by_content = self._filter is not None or (limit is not None and limit.ids is None)
        if by_content or (drops and not self._is_organized):
            return self._rows_read
        return self._resources.total_rows if self._resources else 0

    async def run(self) -> list[Part]:
        """
        Write every part of the shard, and return the parts; they are not yet published.

        Raises:
            BackendError: The data could not be read or the parts could not be stored.
        """
        if self._lease.shard.purpose is ShardPurpose.UNORGANIZED:
            counter = UnorganizedCounter(
                self._backends, self._view, batch_bytes=self._limits.batch_bytes
            )
            parts, self._unorganized = [], await counter.count()
            self._has_binaries = counter.has_binaries
        else:
            parts = await (self._write_blocks() if self._is_organized else self._write_lines())
        async with aclosing(self._deletions()) as batches:
            parts += await self._write(PartKind.DELETED, self._cutter(batches))
        async with aclosing(self._problems()) as batches:
            parts += await self._write(PartKind.ERROR, self._cutter(batches))
        if self._notes is not None:
            self.notes = await in_thread(self._notes.to_bytes)
        return parts

    async def discard(self) -> None:
        """Remove the parts that this attempt has written."""
        for key in self._written:
            await self._backends.output_store.discard(key)

    @property
    def _is_organized(self) -> bool:
        return self._lease.shard.purpose is ShardPurpose.ORGANIZED

    async def _write_lines(self) -> list[Part]:
        async with aclosing(read_ahead(self._batches(), heavy=self._is_heavy)) as batches:
            self._resources = self._cutter(batches)
            return await self._write(PartKind.OUTPUT, self._resources)

    async def _write_blocks(self) -> list[Part]:
        limits = self._limits
        organized = OrganizedOutput(
            self._backends, self._lease, self._view, batch_bytes=limits.batch_bytes
        )
        async with aclosing(organized.pieces()) as pieces:
            self._resources = BlockCutter(
                pieces, max_bytes=self._part_bytes, max_rows=limits.part_rows
            )
            parts = await self._write(PartKind.OUTPUT, self._resources)
        self._damaged += reportable(self._view, organized.damaged)
        self._withheld += organized.withheld
        self._unorganized = organized.left_out
        self._has_binaries = organized.has_binaries and self._key.resource_type != PATIENT
        return parts

    def _cutter(self, batches: AsyncGenerator[Batch]) -> PartCutter:
        return LineCutter(batches, max_bytes=self._part_bytes, max_rows=self._limits.part_rows)

    @property
    def _part_bytes(self) -> int:
        limit = self._limits.part_bytes
        return min(self._view.request.max_part_bytes or limit, limit)

    async def _write(self, kind: PartKind, cutter: PartCutter) -> list[Part]:
        parts = list[Part]()
        while await cutter.more():
            key = self._part_key(kind, number=len(parts) + 1)
            self._written.append(key)
            async with aclosing(cutter.part()) as chunks:
                gzipped = key.compression is Compression.GZIP
                async with aclosing(gzip_chunks(chunks) if gzipped else chunks) as content:
                    stored = await self._backends.output_store.put(key, content)
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

    def _part_key(self, kind: PartKind, *, number: int) -> PartKey:
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

    @property
    def _reads_resources(self) -> bool:
        match self._lease.shard.purpose:
            case ShardPurpose.DELETIONS:
                return False
            case ShardPurpose.VIEW | ShardPurpose.OLDER:
                # A shard of another type exists only to write the error file.
                return self._lease.shard.resource_type in self._view.request.types
            case _:
                return True

    async def _batches(self) -> AsyncGenerator[Batch]:
        if not self._reads_resources:
            return
        async for batch in self._transformed_batches():
            if isinstance(batch.lines, JoinedLines) or len(batch.lines) <= self._limits.batch_rows:
                yield batch
            else:
                for piece in split_batch(batch, self._limits.batch_rows):
                    yield piece
            del batch  # a large resource must not outlive the reading of the next one

    async def _transformed_batches(self) -> AsyncGenerator[Batch]:
        batches = read_source(
            self._backends, self._lease, self._view, batch_bytes=self._limits.batch_bytes
        )
        async for batch in batches:
            self._rows_read += len(batch.lines)
            if self._lease.shard.purpose is ShardPurpose.LINKS:
                # These resources are not exported, so damaged ones are not reported either.
                if self._notes is not None:
                    await in_thread(self._notes.add, batch.lines)
                continue
            if self._changes_lines or self._notes is not None:
                batch = await in_thread(self._process, batch)  # noqa: PLW2901
            batch = await self._apply_plugins(batch)  # noqa: PLW2901
            self._damaged += reportable(self._view, batch.damaged)
            if batch.lines:
                yield batch
            del batch

    @property
    def _changes_lines(self) -> bool:
        return self._reduce is not None or self._rewrite is not None

    def _process(self, batch: Batch) -> Batch:
        """Filter and trim a batch, note its references, then make its attachment URLs absolute."""
        if self._reduce is not None:
            batch = reduce_batch(self._reduce, batch)
            self._withheld[self._key.resource_type] = self._reduce.withheld
        if self._notes is not None:
            self._notes.add(batch.lines)
        return batch if self._rewrite is None else rewrite_batch(self._rewrite, batch)

    async def _apply_plugins(self, batch: Batch) -> Batch:
        """
        Apply the transforms of plugins, after everything else that is done to a line.

        References are noted before, since later phases look up resources by their stored ids.
        """
        transforms = self._backends.transforms
        if not transforms.touches(self._key.resource_type):
            return batch
        transformed = await transforms.apply(self._key, batch.lines)
        return Batch(lines=transformed.kept, damaged=[*batch.damaged, *transformed.damaged])

    def _is_heavy(self, batch: Batch) -> bool:
        """Return whether a batch is a single resource that is larger than `batch_bytes`."""
        lines = batch.lines
        return len(lines) == 1 and len(lines[0]) > self._limits.batch_bytes

    async def _deletions(self) -> AsyncGenerator[Batch]:
        """Yield deletions as transaction Bundles (Bulk Data 2.0.0, Complete Status, deleted)."""
        provider = self._backends.data_provider
        if self._lease.shard.purpose not in (ShardPurpose.VIEW, ShardPurpose.DELETIONS):
            return
        if self._view.request.since is None or not isinstance(provider, SupportsTombstones):
            return
        shard = self._lease.shard
        async for ids in provider.read_deleted(self._view, shard, batch_rows=DELETIONS_PER_BUNDLE):
            matching = await matching_deletions(
                provider, self._view, shard.resource_type, self._filter, ids
            )
            named = await self._transformed_deletions(matching)
            if named:
                yield Batch(lines=[deletion_bundle(shard.resource_type, named)])

    async def _transformed_deletions(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the exported ids of deleted resources, without those that plugins drop."""
        transforms = self._backends.transforms
        if transforms.drops(self._key.resource_type):
            contents = await last_contents(
                self._backends.data_provider, self._view, self._key.resource_type, ids
            )
            transformed = await transforms.apply(self._key, list(contents.values()))
            ids = [i for i, line in zip(contents, transformed.lines, strict=True) if line]
        return await transforms.rename(self._key, ids)

    async def _problems(self) -> AsyncGenerator[Batch]:
        """Yield the lines of the error file; the first shard also reports on the whole export."""
        nameless = self._backends.transforms.renames
        reports = map(withhold_id, self._damaged) if nameless else self._damaged
        lines = [damage_outcome(damaged) for damaged in reports]
        lines += withheld_outcomes(self._withheld)
        if self._unorganized or self._has_binaries:
            text = (
                f"{self._unorganized} resources belong to no {self._view.request.organize_by} in "
                "the output and were left out, because the output is organized."
            )
            if self._has_binaries:
                text += " So were Binary resources, which are not counted."
            lines.append(outcome_line("information", "informational", text))
        if self._lease.shard.number == 0:
            ignored, gaps = self._view.request.ignored, self._view.gaps
            left_out = self._view.left_out
            if nameless and gaps:
                gaps = (NAMELESS_GAP,)
            if nameless and left_out:
                left_out = (NAMELESS_MEMBERS,)
            lines += [outcome_line("warning", "not-supported", text) for text in ignored]
            lines += [outcome_line("error", "incomplete", text) for text in (*gaps, *left_out)]
        if lines:
            yield Batch(lines=lines)


def reduce_batch(reduce: LineReducer, batch: Batch) -> Batch:
    """Return a batch of the reduced lines, with their digests."""
    lines, damaged = reduce(batch.lines)
    return Batch(lines=lines, damaged=[*batch.damaged, *damaged], digests=line_digests(lines))


def rewrite_batch(rewrite: Rewrite, batch: Batch) -> Batch:
    """Return a batch of the rewritten lines; it keeps its digests only if no line changed."""
    lines = rewrite(batch.lines)
    return batch if lines is batch.lines else Batch(lines=lines, damaged=batch.damaged)


def split_batch(batch: Batch, rows: int) -> Iterator[Batch]:
    """Split a batch into batches of at most `rows` lines."""
    for start in range(0, len(batch.lines), rows):
        digests = None if batch.digests is None else batch.digests[start : start + rows]
        yield Batch(lines=batch.lines[start : start + rows], digests=digests)


def deletion_bundle(resource_type: str, ids: Sequence[str]) -> bytes:
    """Return one line of a deleted file: a transaction Bundle with a DELETE for each id."""
    entries = [
        {"request": {"method": "DELETE", "url": f"{resource_type}/{resource_id}"}}
        for resource_id in ids
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return msgspec.json.encode(bundle)
