"""Divide an export into shards: those of its view, and those of associated resources."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from helios_core.export.cohorts import newcomers_view
from helios_core.export.contents import without_dates
from helios_core.export.disclosure import disclosure
from helios_core.export.pipeline.organized_output import PATIENT, organized_shards
from helios_core.export.pipeline.provenance import PROVENANCE, provenance_view
from helios_core.export.pipeline.reference_notes import BINARY
from helios_core.export.pipeline.sources import linking_view
from helios_core.fhir.definitions import load_definitions
from helios_core.model.exports import (
    AssociatedData,
    ExportRequest,
    ExportView,
    Level,
    Shard,
    ShardPurpose,
)
from helios_core.storage.data_provider import WHOLE_TYPE, DataProvider


def deciding_types(request: ExportRequest) -> tuple[str, ...]:
    """
    Return the types that affect the output without being in it, besides those of filters.

    Whether any Binary is stored decides whether links to them are made absolute. Which Binary
    resources a system export has depends on the patients' resources that link to them, and which
    Provenance other exports have on those that it is about. Of a group it is reported how many of
    its Patients are not stored.
    """
    of_patients = load_definitions(request.fhir_version).compartment_types("Patient") | {PATIENT}
    if request.level is Level.SYSTEM:
        depends = BINARY in request.types
    else:
        depends = PROVENANCE in request.types and request.associated is None
    if depends:
        return (BINARY, *sorted(of_patients))
    return (BINARY, PATIENT) if request.level is Level.GROUP else (BINARY,)


async def plan_export(
    provider: DataProvider, view: ExportView, *, shard_bytes: int
) -> list[Shard]:
    """Return all shards of an export; none if there is nothing to export."""
    shards = await provider.plan(view, shard_bytes=shard_bytes)
    if (older_view := newcomers_view(view)) is not None:
        older = await provider.plan(older_view, shard_bytes=shard_bytes)
        shards += [replace(shard, purpose=ShardPurpose.OLDER) for shard in older]
    shards = disclosed_shards(view, shards)
    if view.request.organize_by is not None:
        organized = await organized_shards(provider, view, shards, shard_bytes=shard_bytes)
        return number_shards(organized)
    shards = await with_associated_shards(provider, view, shards, shard_bytes=shard_bytes)
    limited = view.request.grants().keys()
    return largest_first(number_shards(shards), sized=lambda name: name not in limited)


def disclosed_shards(view: ExportView, shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards, with no more resources than may be exported; drop those without any."""
    disclosed = list[Shard]()
    counts = Counter[str]()
    for shard in shards:
        limit = disclosure(view, shard.resource_type)
        if limit is None or limit.ids is None:
            disclosed.append(shard)
        elif limit.ids or limit.deleted_ids:
            resources = min(shard.resources, len(limit.ids) - counts[shard.resource_type])
            counts[shard.resource_type] += resources
            size = shard.bytes * resources // max(1, shard.resources)
            disclosed.append(replace(shard, resources=resources, bytes=size))
    return disclosed


def number_shards(shards: Iterable[Shard]) -> list[Shard]:
    """Number the shards of several plans consecutively, and count ordinals within each type."""
    ordinals = Counter[str]()
    numbered = list[Shard]()
    for number, shard in enumerate(shards):
        ordinals[shard.resource_type] += 1
        ordinal = ordinals[shard.resource_type]
        numbered.append(replace(shard, number=number, ordinal=ordinal))
    return numbered


def largest_first(
    shards: Iterable[Shard], *, sized: Callable[[str], bool] = lambda _: True
) -> list[Shard]:
    """
    Renumber shards by phase and descending size, so that no phase ends with a large shard.

    Files are listed in the order of their shards. Shards of a type that is not `sized` come last
    in their phase: their size includes resources that the client may not see.
    """
    by_size = sorted(
        shards,
        key=lambda shard: (shard.phase, -shard.bytes if sized(shard.resource_type) else 0),
    )
    return [replace(shard, number=number) for number, shard in enumerate(by_size)]


async def with_associated_shards(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], *, shard_bytes: int
) -> list[Shard]:
    """
    Add the shards of Provenance and of referenced resources, and mark shards that note references.

    The result is not numbered yet.
    """
    planned = await _with_provenance(provider, view, shards, shard_bytes)
    if not planned:
        return []
    stored = await _stored_types(provider, view)
    planned = [
        replace(shard, attachments=BINARY in stored and shard.resource_type != "Bundle")
        for shard in planned
    ]
    planned = await _with_binaries_last(provider, view, planned, shard_bytes)
    referenced = [name for name in view.request.referenced_types if name in stored]
    if not referenced:
        return planned
    return [
        *(replace(shard, notes=True) for shard in planned),
        *(_type_shard(name, ShardPurpose.REFERENCED, phase=1) for name in referenced),
    ]


def _type_shard(resource_type: str, purpose: ShardPurpose, *, phase: int = 0) -> Shard:
    return Shard(number=0, resource_type=resource_type, ordinal=1, purpose=purpose, phase=phase)


async def _stored_types(provider: DataProvider, view: ExportView) -> set[str]:
    """Return which of Binary and the referenced types have any resources."""
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
    newest_only = request.associated is AssociatedData.LATEST
    if newest_only:
        planned = _without_provenance(view, planned)
        shard_bytes = WHOLE_TYPE
    scans = await provider.plan(provenance_view(view), shard_bytes=shard_bytes)
    if newest_only:
        if not scans:
            return planned
        shard = _type_shard(PROVENANCE, ShardPurpose.ASSOCIATED)
        return [*planned, replace(shard, bytes=sum(scan.bytes for scan in scans))]
    # Most of it is read but not exported, so counting it would distort the progress.
    scans = [replace(scan, purpose=ShardPurpose.ASSOCIATED, resources=0) for scan in scans]
    return planned + scans


def _without_provenance(view: ExportView, shards: Sequence[Shard]) -> list[Shard]:
    """Drop the shards of Provenance; with `since`, those of the view remain for deletions."""
    kept = [shard for shard in shards if shard.resource_type != PROVENANCE]
    if view.request.since is None:
        return kept
    return kept + [
        replace(shard, purpose=ShardPurpose.DELETIONS, resources=0, bytes=0)
        for shard in shards
        if shard.resource_type == PROVENANCE and shard.purpose is ShardPurpose.VIEW
    ]


async def _with_binaries_last(
    provider: DataProvider, view: ExportView, shards: Sequence[Shard], shard_bytes: int
) -> list[Shard]:
    """
    Move the shards of Binary to the second phase, when it is known which Binary is a patient's.

    Shards of purpose `links` are added to the first phase. They read the resources of patients
    that no other shard reads in full, and note which Binary resources these link to.
    """
    if not any(shard.resource_type == BINARY for shard in shards):
        return list(shards)
    first_phase = [replace(s, notes=True) for s in shards if s.resource_type != BINARY]
    second_phase = [replace(s, phase=1) for s in shards if s.resource_type == BINARY]
    compartment_types = load_definitions(view.request.fhir_version).compartment_types("Patient")
    unread = sorted(compartment_types - _types_read_unchanged(view))
    links_view = linking_view(view)
    request = replace(links_view.request, types=tuple(unread))
    scans = await provider.plan(replace(links_view, request=request), shard_bytes=shard_bytes)
    links = [
        replace(scan, purpose=ShardPurpose.LINKS, notes=True, resources=0, bytes=0)
        for scan in scans
    ]
    return [*first_phase, *links, *second_phase]


def _types_read_unchanged(view: ExportView) -> frozenset[str]:
    """Return the types of which the export outputs every resource, with all its elements."""
    request = view.request
    if request.since or request.until or request.elements:
        return frozenset()
    return frozenset(request.types) - {query.resource_type for query in request.filters}
