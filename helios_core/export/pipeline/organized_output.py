"""
Organized output: blocks, each of one instance and what belongs to it (Bulk Data 3.0.0).

By Patient, a block holds what is in the patient's compartment, and a shard is a range of patients
whose data have about the size of a part. By any other type, a block holds what refers to the
instance directly, and one shard goes through all there is. What is in several blocks is repeated
in each; what is in none is left out.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.export.filters import read_filtered
from helios_core.export.membership import ExportMembership, chunked, without_dates
from helios_core.export.pipeline.binaries import attachment_rewriter
from helios_core.export.pipeline.blocks import SCHEMA, Block, BlockBuilder, BlockPiece, PlacedLine
from helios_core.export.pipeline.reference_notes import BINARY, SLASH, base_url_pattern
from helios_core.export.pipeline.scratch import scratch_database
from helios_core.export.transforms import DECODE_ERRORS, damaged_json, make_transform
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.references import base_urls
from helios_core.model.exports import Cohort, ExportView, Level, Shard, ShardPurpose
from helios_core.model.jobs import Lease
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import WHOLE_TYPE, Damaged, DataProvider
from helios_core.storage.keys import TypeKey

PATIENT = "Patient"
BLOCKS_AT_ONCE = 100

Ids = Callable[[bytes], Sequence[str]]
"""Gives the ids of the blocks a line belongs to."""


async def organized_shards(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], *, shard_bytes: int
) -> list[Shard]:
    """Give the shards of blocks, and those of deletions where the view has any."""
    heads = await _heads(provider, view, shards, shard_bytes)
    if view.request.since is None:
        return heads
    told = (shard for shard in shards if shard.purpose is ShardPurpose.VIEW)
    return heads + [
        replace(shard, purpose=ShardPurpose.DELETIONS, resources=0, bytes=0) for shard in told
    ]


async def _heads(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], shard_bytes: int
) -> list[Shard]:
    resources = sum(shard.resources for shard in shards)
    total_bytes = sum(shard.bytes for shard in shards)
    organizer = view.request.organize_by
    if not shards or organizer is None:
        return []
    if organizer != PATIENT:
        purpose = ShardPurpose.ORGANIZED
        whole = Shard(number=0, resource_type=organizer, ordinal=1, purpose=purpose)
        return [replace(whole, resources=resources, bytes=total_bytes)]
    instances = instance_view(view)
    whole_plan = await provider.plan(instances, shard_bytes=WHOLE_TYPE)
    of_instances = sum(shard.bytes for shard in whole_plan)
    share = min(1.0, of_instances / max(total_bytes, 1))
    heads = await provider.plan(instances, shard_bytes=max(1, int(shard_bytes * share)))
    return [
        replace(
            shard,
            purpose=ShardPurpose.ORGANIZED,
            resources=resources // len(heads),
            bytes=total_bytes // len(heads),
        )
        for shard in heads
    ]


def instance_view(view: ExportView) -> ExportView:
    """Give the patients that may head a block, whatever their age."""
    request = replace(view.request, types=(PATIENT,))
    return without_dates(replace(view, request=request), view.cohort)


class OrganizedOutput:
    """Gathers and gives the blocks of one shard."""

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
        """What could not be read so far."""
        self._lost = set[str]()

    async def pieces(self) -> AsyncGenerator[BlockPiece]:
        """Give the blocks in pieces, once all of them have been gathered."""
        async with scratch_database(SCHEMA) as room:
            gathering = BlockBuilder(room)
            if self._type == PATIENT:
                await self._gather_compartments(gathering)
            else:
                await self._gather_references(gathering)
            async for blocks in gathering.blocks(BLOCKS_AT_ONCE):
                heads = await self._instances([block.id for block in blocks])
                for block in blocks:
                    head = heads.get(block.id)
                    if head is not None or block.id in self._lost:
                        async for piece in self._pieces(gathering, block, head):
                            yield piece

    async def _pieces(
        self, gathering: BlockBuilder, block: Block, head: bytes | None
    ) -> AsyncGenerator[BlockPiece]:
        header = block_header(self._type, block.id)
        first = [] if head is None else [head]
        piece = BlockPiece(
            header=header,
            lines=first,
            opens=True,
            block_rows=block.rows + len(first),
            block_bytes=block.bytes + sum(len(line) + 1 for line in (header, *first)),
        )
        if first:
            yield piece
        async for lines in gathering.lines(block, self._batch_bytes):
            yield replace(piece, lines=lines, opens=not first)
            first = lines

    async def _gather_compartments(self, gathering: BlockBuilder) -> None:
        ids = await self._patients(gathering)
        request = self._view.request

        def blocks(line: bytes) -> Sequence[str]:
            resource = msgspec.json.decode(line)
            found = patients_of(resource, request.fhir_version, base_urls(request.base_url))
            return [each for each in found if each in ids]

        key = f"{self._lease.job.id}/blocks/{self._lease.shard.number}"
        cohort = Cohort(key=key, patients=frozenset(ids))
        await self._gather(gathering, replace(self._view, cohort=cohort), blocks)
        older = newcomers_view(self._view)
        if older is not None and older.cohort is not None:
            joined = cohort.patients & older.cohort.patients
            newcomers = Cohort(key=f"{key}/older", patients=joined)
            await self._gather(gathering, replace(older, cohort=newcomers), blocks)

    async def _patients(self, gathering: BlockBuilder) -> set[str]:
        """Open a block for every patient of the shard, in the order they are stored in."""
        ids = set[str]()
        batches = self._backends.data_provider.read(
            instance_view(self._view), self._lease.shard, batch_bytes=self._batch_bytes
        )
        async for batch in batches:
            self._lose(batch.damaged)
            found = [each.id for each in batch.damaged]
            found += [each.id for line in batch.lines if (each := _instance(line))]
            if self._view.cohort is not None:  # a patient linked to a member need not be one
                found = [each for each in found if each in self._view.cohort.patients]
            await gathering.open(found)
            ids.update(found)
        return ids

    def _lose(self, damaged: Sequence[Damaged]) -> None:
        """Note which instances cannot be shown, so that at least what is theirs is."""
        self.damaged += [each for each in damaged if each.id not in self._lost]
        self._lost.update(each.id for each in damaged)

    async def _gather_references(self, gathering: BlockBuilder) -> None:
        base = base_url_pattern(self._view.request.base_url)
        named = self._type.encode()
        pattern = re.compile(
            rb'"reference":"%b%b%b([A-Za-z0-9\-.]{1,64})["\\/]' % (base, named, SLASH)
        )

        def blocks(line: bytes) -> Sequence[str]:
            return list(dict.fromkeys(found.decode() for found in pattern.findall(line)))

        await self._gather(gathering, self._view, blocks)
        if (older := newcomers_view(self._view)) is not None:
            await self._gather(gathering, older, blocks)

    async def _gather(self, gathering: BlockBuilder, view: ExportView, blocks: Ids) -> None:
        """Place whatever a view shows."""
        provider = self._backends.data_provider
        for shard in await provider.plan(view, shard_bytes=WHOLE_TYPE):
            if shard.resource_type == BINARY:
                continue
            placing = _Placing(view, shard.resource_type, blocks, self._type)
            found = view.filters.get(shard.resource_type)
            batches = read_filtered(
                provider, view, shard, found=found, batch_bytes=self._batch_bytes
            )
            async for batch in batches:
                placed, shown, damaged = await asyncio.to_thread(placing, batch.lines)
                if shard.resource_type == self._type:
                    self._lose([*batch.damaged, *damaged])
                else:
                    self.damaged += [*batch.damaged, *damaged]
                await gathering.place(placed)
                await gathering.require(shown)

    async def _instances(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Give the instances that head blocks; those of other patients are none of this export."""
        key, heads = TypeKey.of(self._view.request, self._type), dict[str, bytes]()
        transform = make_transform(replace(self._view, filters={}), self._type)
        for some in chunked(await self._presentable(ids), 20):
            batch = await self._backends.data_provider.fetch(
                key, some, at=self._view.transaction_time
            )
            self._lose(batch.damaged)
            lines, damaged = (batch.lines, ()) if transform is None else transform(batch.lines)
            self._lose(damaged)
            for line in self._rewrite(lines):
                if (found := _instance(line)) is not None:
                    heads[found.id] = line
        return heads

    async def _presentable(self, ids: Sequence[str]) -> list[str]:
        if self._view.request.level is Level.SYSTEM:
            return list(ids)
        membership = ExportMembership(self._backends.data_provider, self._view)
        private = await membership.private({(self._type, each) for each in ids})
        foreign = private - await membership.belonging(private)
        return [each for each in ids if (self._type, each) not in foreign]


class _Instance(msgspec.Struct):
    id: str


def _instance(line: bytes) -> _Instance | None:
    try:
        return msgspec.json.decode(line, type=_Instance)
    except DECODE_ERRORS:
        return None  # the provider did not notice; it is reported where it is placed


class _Placing:
    """Finds the blocks of lines of one type, and makes the lines what they leave as."""

    def __init__(self, view: ExportView, resource_type: str, blocks: Ids, organizer: str) -> None:
        whole = replace(view, request=replace(view.request, elements=()))
        self._filter = make_transform(whole, resource_type)
        self._trim = make_transform(replace(view, filters={}), resource_type)
        self._rewrite = attachment_rewriter(view.request.base_url)
        self._rewrites = resource_type != "Bundle"
        self._resource_type = resource_type
        self._blocks = blocks
        self._organizer = organizer

    def __call__(
        self, lines: Sequence[bytes]
    ) -> tuple[list[PlacedLine], list[str], list[Damaged]]:
        placed, shown, damaged = list[PlacedLine](), list[str](), list[Damaged]()
        if self._filter is not None:
            lines, unread = self._filter(lines)
            damaged += unread
        for line in lines:
            try:
                ids = self._blocks(line)
                own = (
                    msgspec.json.decode(line, type=_Instance).id
                    if self._resource_type == self._organizer
                    else None
                )
            except DECODE_ERRORS:
                damaged.append(damaged_json(self._resource_type, line))
                continue
            if own is not None and (own in ids or self._organizer != PATIENT):
                shown.append(own)
            others = [each for each in ids if each != own]
            if others:
                placed += [(others, left) for left in self._leaving(line)]
        return placed, shown, damaged

    def _leaving(self, line: bytes) -> Sequence[bytes]:
        lines: Sequence[bytes] = [line]
        if self._trim is not None:
            lines, _ = self._trim(lines)
        return self._rewrite(lines) if self._rewrites else lines


def block_header(resource_type: str, resource_id: str) -> bytes:
    """Give the line that heads a block (Bulk Data 3.0.0, Resource Organization)."""
    reference = {"reference": f"{resource_type}/{resource_id}"}
    parameters = {
        "resourceType": "Parameters",
        "parameter": [{"name": "header", "valueReference": reference}],
    }
    return msgspec.json.encode(parameters)
