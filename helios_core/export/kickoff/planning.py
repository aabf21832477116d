"""Divide an export into shards, whatever they are for."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.export.membership import without_dates
from helios_core.export.pipeline.organized_output import organized_shards
from helios_core.export.pipeline.provenance import PROVENANCE, provenance_view
from helios_core.export.pipeline.reference_notes import BINARY
from helios_core.export.pipeline.sources import linking_view
from helios_core.fhir.definitions import load_definitions
from helios_core.model.exports import AssociatedData, ExportView, Level, Shard, ShardPurpose
from helios_core.storage.data_provider import WHOLE_TYPE, DataProvider


async def plan_export(
    provider: DataProvider, view: ExportView, *, shard_bytes: int
) -> list[Shard]:
    """Give the shards of a whole export; none if there is nothing to export."""
    shards = await provider.plan(view, shard_bytes=shard_bytes)
    if (older := newcomers_view(view)) is not None:
        brought = await provider.plan(older, shard_bytes=shard_bytes)
        shards += [msgspec.structs.replace(shard, purpose=ShardPurpose.OLDER) for shard in brought]
    if view.request.organize_by is not None:
        blocks = await organized_shards(provider, view, shards, shard_bytes=shard_bytes)
        return number_shards(blocks)
    shards = await with_associated_shards(provider, view, shards, shard_bytes=shard_bytes)
    return largest_first(number_shards(shards))


def number_shards(shards: Iterable[Shard]) -> list[Shard]:
    """Number shards of several plans through, and the ordinals within each type."""
    ordinals = Counter[str]()
    result = list[Shard]()
    for number, shard in enumerate(shards):
        ordinals[shard.resource_type] += 1
        ordinal = ordinals[shard.resource_type]
        result.append(msgspec.structs.replace(shard, number=number, ordinal=ordinal))
    return result


def largest_first(shards: Iterable[Shard]) -> list[Shard]:
    """Number shards anew, so that in no phase a large one is begun last and waited for."""
    by_size = sorted(shards, key=lambda shard: (shard.phase, -shard.bytes))
    return [msgspec.structs.replace(shard, number=number) for number, shard in enumerate(by_size)]


async def with_associated_shards(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], *, shard_bytes: int
) -> list[Shard]:
    """Give the shards of a view and those of what goes along with it, not yet numbered."""
    planned = await _with_provenance(provider, view, shards, shard_bytes)
    if not planned:
        return []
    stored = await _stored(provider, view)
    planned = [
        replace(shard, attachments=BINARY in stored and shard.resource_type != "Bundle")
        for shard in planned
    ]
    planned = await _binaries_later(provider, view, planned, shard_bytes)
    context = [each for each in view.request.referenced_types if each in stored]
    if not context:
        return planned
    return [
        *(replace(shard, notes=True) for shard in planned),
        *(_whole(each, ShardPurpose.REFERENCED) for each in context),
    ]


def _whole(resource_type: str, purpose: ShardPurpose) -> Shard:
    phase = int(purpose is ShardPurpose.REFERENCED)
    return Shard(number=0, resource_type=resource_type, ordinal=1, purpose=purpose, phase=phase)


async def _stored(provider: DataProvider, view: ExportView) -> set[str]:
    """Give those types that matter here and of which there is something in the store."""
    types = (BINARY, *view.request.referenced_types)
    request = replace(view.request, level=Level.SYSTEM, types=types)
    everything = without_dates(replace(view, request=request), None)
    shards = await provider.plan(everything, shard_bytes=WHOLE_TYPE)
    return {shard.resource_type for shard in shards}


async def _with_provenance(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], shard_bytes: int
) -> list[Shard]:
    request, planned = view.request, list(shards)
    if request.associated is None and (
        request.level is Level.SYSTEM or PROVENANCE not in request.types
    ):
        return planned
    if request.associated is not None and not planned:
        return planned
    newest = request.associated is AssociatedData.LATEST
    if newest:
        planned = _without_provenance(view, planned)
        shard_bytes = WHOLE_TYPE
    scans = await provider.plan(provenance_view(view), shard_bytes=shard_bytes)
    if newest:
        whole = replace(
            _whole(PROVENANCE, ShardPurpose.ASSOCIATED), bytes=sum(each.bytes for each in scans)
        )
        return [*planned, whole] if scans else planned
    # Most of it is only looked at, so that its number says nothing about the progress.
    scans = [replace(each, purpose=ShardPurpose.ASSOCIATED, resources=0) for each in scans]
    return planned + scans


def _without_provenance(view: ExportView, shards: Sequence[Shard]) -> list[Shard]:
    """Leave the Provenance of the view out, but not the deletions of some."""
    kept = [shard for shard in shards if shard.resource_type != PROVENANCE]
    if view.request.since is None:
        return kept
    return kept + [
        replace(shard, purpose=ShardPurpose.DELETIONS, resources=0, bytes=0)
        for shard in shards
        if shard.resource_type == PROVENANCE and shard.purpose is ShardPurpose.VIEW
    ]


async def _binaries_later(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], shard_bytes: int
) -> list[Shard]:
    """Export Binary resources once it is known which of them are patients'."""
    if not any(shard.resource_type == BINARY for shard in shards):
        return list(shards)
    first = [replace(each, notes=True) for each in shards if each.resource_type != BINARY]
    later = [replace(each, phase=1) for each in shards if each.resource_type == BINARY]
    unread = sorted(
        load_definitions(view.request.fhir_version).compartment_types("Patient") - _read(view)
    )
    linking = linking_view(view)
    request = replace(linking.request, types=tuple(unread))
    scans = await provider.plan(replace(linking, request=request), shard_bytes=shard_bytes)
    links = [
        replace(each, purpose=ShardPurpose.LINKS, notes=True, resources=0, bytes=0)
        for each in scans
    ]
    return [*first, *links, *later]


def _read(view: ExportView) -> frozenset[str]:
    """Give the types whose every resource leaves as it is, so that its links are seen."""
    request = view.request
    if request.since or request.until or request.elements:
        return frozenset()
    return frozenset(request.types) - {each.resource_type for each in request.filters}
