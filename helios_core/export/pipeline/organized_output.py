"""
Organized output: blocks of one instance and the resources that belong to it (Bulk Data 3.0.0).

Organized by Patient, a block holds the resources in the patient's compartment, and a shard is a
range of patients whose data fills about one part. Organized by another type, a block holds the
resources that refer to the instance directly, and a single shard reads everything. A resource that
belongs to several blocks is repeated in each; one that belongs to none is left out.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.export.contents import ExportContents, chunked, without_dates
from helios_core.export.filters import read_filtered
from helios_core.export.pipeline.binaries import attachment_rewriter
from helios_core.export.pipeline.blocks import SCHEMA, Block, BlockBuilder, BlockPiece, PlacedLine
from helios_core.export.pipeline.reference_notes import BINARY, SLASH, base_url_pattern
from helios_core.export.pipeline.scratch import scratch_database
from helios_core.export.reduction import make_reducer
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.references import base_urls, decode_links
from helios_core.model.exports import Cohort, ExportView, Level, Shard, ShardPurpose
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import WHOLE_TYPE, Damaged, DataProvider
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.resource_keys import TypeKey

PATIENT = "Patient"
ERRORS_ONLY = "OperationOutcome"
"""The type of a shard that exports no resources and only writes the error file."""
BLOCKS_PER_PAGE = 100
INSTANCES_PER_FETCH = 20

BlockIds = Callable[[bytes], Sequence[str]]
"""A function that returns the ids of the blocks that a line belongs to."""


async def organized_shards(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], *, shard_bytes: int
) -> list[Shard]:
    """
    Replace the shards of a view by shards of blocks.

    With `since`, the shards of the view remain for their deletions only.
    """
    block_shards = await _block_shards(provider, view, shards, shard_bytes)
    if view.request.since is None:
        return block_shards
    return block_shards + [
        replace(shard, purpose=ShardPurpose.DELETIONS, resources=0, bytes=0)
        for shard in shards
        if shard.purpose is ShardPurpose.VIEW
    ]


async def _block_shards(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], shard_bytes: int
) -> list[Shard]:
    resources = sum(shard.resources for shard in shards)
    total_bytes = sum(shard.bytes for shard in shards)
    # A shard without a number of resources is of a type that the client may see only in part: its
    # size must not be revealed either.
    known_bytes = sum(shard.bytes for shard in shards if shard.resources)
    organizer = view.request.organize_by
    if not shards or organizer is None:
        return []
    if organizer != PATIENT:
        purpose = ShardPurpose.ORGANIZED
        shard = Shard(number=0, resource_type=organizer, ordinal=1, purpose=purpose)
        return [replace(shard, resources=resources, bytes=known_bytes)]
    patients = patient_view(view)
    whole_type = await provider.plan(patients, shard_bytes=WHOLE_TYPE)
    patient_bytes = sum(shard.bytes for shard in whole_type)
    share = min(1.0, patient_bytes / max(total_bytes, 1))
    ranges = await provider.plan(patients, shard_bytes=max(1, int(shard_bytes * share)))
    counting = Shard(
        number=0, resource_type=ERRORS_ONLY, ordinal=1, purpose=ShardPurpose.UNORGANIZED
    )
    return [
        counting,
        *(
            replace(
                shard,
                purpose=ShardPurpose.ORGANIZED,
                resources=resources // len(ranges),
                bytes=known_bytes // len(ranges),
            )
            for shard in ranges
        ),
    ]


def patient_view(view: ExportView) -> ExportView:
    """Return the view of the patients that may head a block, whatever their date."""
    request = replace(view.request, types=(PATIENT,))
    return without_dates(replace(view, request=request), view.cohort)


class OrganizedOutput:
    """Gathers the blocks of one shard, then yields them."""

    def __init__(
        self, backends: Backends, lease: Lease, view: ExportView, *, batch_bytes: int
    ) -> None:
        self._backends = backends
        self._lease = lease
        self._view = view
        self._batch_bytes = batch_bytes
        self._type = lease.shard.resource_type
        self._rewrite = attachment_rewriter(view.request.base_url)
        self.damaged = list[Damaged]()
        """The resources that could not be read so far."""
        self.withheld = Counter[str]()
        """By type, the resources left out so far because they are also about other patients."""
        self.left_out = 0
        """
        The number of resources that belong to no block; complete once `pieces` has ended.

        Organized by Patient it is 0: a shard of another purpose counts them. Binary resources are
        never counted.
        """
        self.has_binaries = False
        """Whether there are Binary resources, which belong to no block."""
        self._damaged_instances = set[str]()

    async def pieces(self) -> AsyncGenerator[BlockPiece]:
        """Yield the blocks in pieces, once all of them have been gathered."""
        async with scratch_database(SCHEMA) as scratch:
            builder = BlockBuilder(scratch)
            if self._type == PATIENT:
                await self._gather_compartments(builder)
            else:
                await self._gather_references(builder)
            async for blocks in builder.blocks(BLOCKS_PER_PAGE):
                ids = [block.id for block in blocks]
                instances = await self._instances(ids)
                key = TypeKey.of(self._view.request, self._type)
                names = await self._backends.transforms.rename(key, ids)
                for block, name in zip(blocks, names, strict=True):
                    instance = instances.get(block.id)
                    if instance is None and block.id not in self._damaged_instances:
                        await builder.drop(block)
                        continue
                    header = block_header(self._type, name)
                    async for piece in self._pieces_of(block, header, instance, builder):
                        yield piece
            if self._type != PATIENT:
                self.left_out += await builder.dropped_lines()

    async def _pieces_of(
        self, block: Block, header: bytes, instance: bytes | None, builder: BlockBuilder
    ) -> AsyncGenerator[BlockPiece]:
        """Yield a block in pieces; the instance comes first, unless it is damaged."""
        first = [] if instance is None else [instance]
        piece = BlockPiece(
            header=header,
            lines=first,
            opens=True,
            block_rows=block.rows + len(first),
            block_bytes=block.bytes + sum(len(line) + 1 for line in (header, *first)),
        )
        if first:
            yield piece
        opens = not first
        async for lines in builder.lines(block, self._batch_bytes):
            yield replace(piece, lines=lines, opens=opens)
            opens = False

    async def _gather_compartments(self, builder: BlockBuilder) -> None:
        ids = await self._open_patient_blocks(builder)
        request = self._view.request

        def block_ids(line: bytes) -> Sequence[str]:
            resource = decode_links(line)
            patients = patients_of(resource, request.fhir_version, base_urls(request.base_url))
            return [patient for patient in patients if patient in ids]

        key = f"{self._lease.job.id}/blocks/{self._lease.shard.number}"
        cohort = Cohort(key=key, patients=frozenset(ids))
        await self._gather(builder, replace(self._view, cohort=cohort), block_ids)
        older = newcomers_view(self._view)
        if older is not None and older.cohort is not None:
            patients = cohort.patients & older.cohort.patients
            newcomers = Cohort(key=f"{key}/older", patients=patients)
            await self._gather(builder, replace(older, cohort=newcomers), block_ids)

    async def _open_patient_blocks(self, builder: BlockBuilder) -> set[str]:
        """Open a block for every patient of the shard, in stored order, and return their ids."""
        ids = set[str]()
        batches = self._backends.data_provider.read(
            patient_view(self._view), self._lease.shard, batch_bytes=self._batch_bytes
        )
        async for batch in batches:
            self._report_damaged_instances(batch.damaged)
            batch_ids = [report.id for report in batch.damaged]
            batch_ids += [patient for patient in map(_id_of, batch.lines) if patient is not None]
            cohort = self._view.cohort
            if cohort is not None:  # a patient linked to a member need not be a member
                batch_ids = [patient for patient in batch_ids if patient in cohort.patients]
            await builder.open(batch_ids)
            ids.update(batch_ids)
        return ids

    def _report_damaged_instances(self, damaged: Sequence[Damaged]) -> None:
        """Report instances that cannot be read, once each; their blocks are still exported."""
        self.damaged += [report for report in damaged if report.id not in self._damaged_instances]
        self._damaged_instances.update(report.id for report in damaged)

    async def _gather_references(self, builder: BlockBuilder) -> None:
        base = base_url_pattern(self._view.request.base_url)
        pattern = re.compile(
            rb'"reference":"%b%b%b([A-Za-z0-9\-.]{1,64})["\\/]'
            % (base, self._type.encode(), SLASH)
        )

        def block_ids(line: bytes) -> Sequence[str]:
            return list(dict.fromkeys(match.decode() for match in pattern.findall(line)))

        await self._gather(builder, self._view, block_ids)
        if (older := newcomers_view(self._view)) is not None:
            await self._gather(builder, older, block_ids)

    async def _gather(self, builder: BlockBuilder, view: ExportView, block_ids: BlockIds) -> None:
        """Place every resource of a view in its blocks."""
        provider = self._backends.data_provider
        for shard in await provider.plan(view, shard_bytes=WHOLE_TYPE):
            if shard.resource_type == BINARY:
                self.has_binaries = True
                continue
            sorter = _LineSorter(view, shard.resource_type, block_ids, organizer=self._type)
            batches = read_filtered(
                provider,
                view,
                shard,
                filter_=view.filters.get(shard.resource_type),
                batch_bytes=self._batch_bytes,
            )
            async for batch in batches:
                placed, instances, damaged = await asyncio.to_thread(sorter.sort, batch.lines)
                self.withheld[shard.resource_type] = sorter.withheld
                placed = await self._apply_plugins(shard.resource_type, placed, damaged)
                if shard.resource_type == self._type:
                    self._report_damaged_instances([*batch.damaged, *damaged])
                else:
                    self.damaged += [*batch.damaged, *damaged]
                if self._type not in (PATIENT, shard.resource_type):
                    self.left_out += sum(not block_ids for block_ids, _ in placed)
                    placed = [line for line in placed if line[0]]
                await builder.place(placed)
                await builder.require(instances)

    async def _apply_plugins(
        self, resource_type: str, placed: Sequence[PlacedLine], damaged: list[Damaged]
    ) -> list[PlacedLine]:
        """Apply the transforms of plugins, after everything else that is done to a line."""
        key = TypeKey.of(self._view.request, resource_type)
        lines = [line for _, line in placed]
        transformed = await self._backends.transforms.apply(key, lines)
        damaged += transformed.damaged
        return [
            (block_ids, line)
            for (block_ids, _), line in zip(placed, transformed.lines, strict=True)
            if line is not None
        ]

    async def _instances(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Return the instances that head blocks, by id; those of other patients are left out."""
        key, instances = TypeKey.of(self._view.request, self._type), dict[str, bytes]()
        reduce = make_reducer(replace(self._view, filters={}), self._type)
        for chunk in chunked(await self._exportable(ids), INSTANCES_PER_FETCH):
            batch = await self._backends.data_provider.fetch(
                key, chunk, at=self._view.transaction_time
            )
            self._report_damaged_instances(batch.damaged)
            lines, damaged = (batch.lines, ()) if reduce is None else reduce(batch.lines)
            self._report_damaged_instances(damaged)
            read = [(_id_of(line), line) for line in self._rewrite(lines)]
            placed = [([instance_id], line) for instance_id, line in read if instance_id]
            failed = list[Damaged]()
            exported = await self._apply_plugins(self._type, placed, failed)
            self._report_damaged_instances(failed)
            instances |= {instance_id: line for [instance_id], line in exported}
        return instances

    async def _exportable(self, ids: Sequence[str]) -> list[str]:
        """Return the ids without those of patients outside of the export."""
        if self._view.request.level is Level.SYSTEM:
            return list(ids)
        membership = ExportContents(self._backends.data_provider, self._view)
        of_others = await membership.of_others({(self._type, i) for i in ids})
        return [instance_id for instance_id in ids if (self._type, instance_id) not in of_others]


class _Instance(msgspec.Struct):
    id: str


def _id_of(line: bytes) -> str | None:
    """Return the id of a resource, or None if it cannot be read, which is reported elsewhere."""
    try:
        return msgspec.json.decode(line, type=_Instance).id
    except DECODE_ERRORS:
        return None


class _LineSorter:
    """Filters and trims the lines of one type, and finds the blocks they belong to."""

    def __init__(
        self, view: ExportView, resource_type: str, block_ids: BlockIds, *, organizer: str
    ) -> None:
        untrimmed = replace(view, request=replace(view.request, elements=()))
        self._filter = make_reducer(untrimmed, resource_type)
        self._trim = make_reducer(replace(view, filters={}), resource_type)
        self._rewrite = attachment_rewriter(view.request.base_url)
        self._resource_type = resource_type
        self._block_ids = block_ids
        self._organizer = organizer

    @property
    def withheld(self) -> int:
        """The number of lines dropped so far because they are also about other patients."""
        return 0 if self._filter is None else self._filter.withheld

    def sort(self, lines: Sequence[bytes]) -> tuple[list[PlacedLine], list[str], list[Damaged]]:
        """Return lines with their blocks, the ids of instances to export, and unreadable lines."""
        placed, instances, damaged = list[PlacedLine](), list[str](), list[Damaged]()
        if self._filter is not None:
            lines, unreadable = self._filter(lines)
            damaged += unreadable
        for line in lines:
            try:
                block_ids = self._block_ids(line)
                instance_id = (
                    msgspec.json.decode(line, type=_Instance).id
                    if self._resource_type == self._organizer
                    else None
                )
            except DECODE_ERRORS:
                damaged.append(damaged_json(self._resource_type, line))
                continue
            if instance_id is not None and (
                instance_id in block_ids or self._organizer != PATIENT
            ):
                instances.append(instance_id)
            others = [block_id for block_id in block_ids if block_id != instance_id]
            if others or instance_id is None:
                placed += [(others, output_line) for output_line in self._output_lines(line)]
        return placed, instances, damaged

    def _output_lines(self, line: bytes) -> Sequence[bytes]:
        """Return a line as it is exported; nothing if it cannot be trimmed."""
        lines: Sequence[bytes] = [line]
        if self._trim is not None:
            lines, _ = self._trim(lines)
        return lines if self._resource_type == "Bundle" else self._rewrite(lines)


def block_header(resource_type: str, resource_id: str) -> bytes:
    """Return the line that heads a block (Bulk Data 3.0.0, Resource Organization)."""
    reference = {"reference": f"{resource_type}/{resource_id}"}
    parameters = {
        "resourceType": "Parameters",
        "parameter": [{"name": "header", "valueReference": reference}],
    }
    return msgspec.json.encode(parameters)
