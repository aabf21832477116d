"""What an export was asked to be: parsed, validated, immutable."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import Filter


class Level(StrEnum):
    """Whose data an export is about (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    SYSTEM = "system"
    PATIENT = "patient"
    GROUP = "group"


class AssociatedData(StrEnum):
    """Which Provenance goes with what it is about (Bulk Data 3.0.0, includeAssociatedData)."""

    LATEST = "LatestProvenanceResources"
    RELEVANT = "RelevantProvenanceResources"


class TypeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """One query of `_typeFilter`; those of one type are OR-ed."""

    resource_type: str
    pairs: tuple[tuple[str, str], ...]
    """Parameter names with modifiers and values as `compile_query` takes them."""


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request, complete enough for any worker to run it later."""

    tenant: str
    url: str
    """The kick-off URL exactly as the client sent it, for the manifest's `request`."""
    base_url: str = ""
    """The server's public base URL; an absolute reference below it points to this server."""
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    """The Group's id at group level, otherwise None."""
    types: tuple[str, ...]
    """
    The resource types to export: an omitted `_type` is spelt out at kick-off.

    Empty only where `handling=lenient` left nothing that may be exported.
    """
    since: datetime | None = None
    """Only resources changed strictly after this instant."""
    until: datetime | None = None
    """Only resources changed strictly before this instant."""
    patients: tuple[str, ...] | None = None
    """Ids of the only patients to export, from the `patient` parameter; None narrows nothing."""
    filters: tuple[TypeFilter, ...] = ()
    """What resources of the filtered types must match; other types pass untouched."""
    elements: tuple[str, ...] = ()
    """The only elements to keep beside the mandatory ones, as `element` or `Type.element`."""
    associated: AssociatedData | None = None
    """None leaves Provenance to the rule for requests that do not choose."""
    organize_by: str | None = None
    """The type whose instances head the blocks of lines, or None for one type a file."""
    partial_manifests: bool = False
    """Whether parts may be shown while the job runs, in manifests linked by pages."""
    separate_status: bool = False
    """Whether a poll answers about itself, and about the job in X-Export-Status."""
    referenced_types: tuple[str, ...] = ()
    """Types of which those referenced from the output are added, at patient and group level."""
    include_newly_added: bool = True
    """Whether members who joined after `since` bring their older data too."""
    max_part_bytes: int | None = None
    """Where a part is cut if not where the server's setting says (draft of version 4)."""
    transforms: tuple[str, ...] = ()
    """Plugins that transform every line, in order; a worker with others leaves the job alone."""
    ignored: tuple[str, ...] = ()
    """One sentence per parameter ignored under `handling=lenient`, reported in an error file."""


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The explicit set of patients an export is about."""

    key: str
    """Equal keys mean equal patients, so that a provider sends a cohort to its database once."""
    patients: frozenset[str]
    """Patient ids, without the type."""


class ExportView(msgspec.Struct, frozen=True, kw_only=True):
    """What of a store one export shows: the request, at an instant, for a cohort."""

    request: ExportRequest
    transaction_time: datetime
    cohort: Cohort | None = None
    """None means everybody: at system level every resource, at patient level every compartment."""
    newcomers: Cohort | None = None
    """Members who joined after `since`: their older data is shown too, or nothing of them."""
    filters: Mapping[str, Filter] = {}
    """By type, what its resources must match; open lookups have been answered."""
    gaps: tuple[str, ...] = ()
    """One sentence per damaged resource that was left out of the answer to a lookup."""


class ShardPurpose(StrEnum):
    """What a shard adds to an export."""

    VIEW = "view"
    """The resources that the view shows."""
    OLDER = "older"
    """What newcomers bring from before `since`."""
    ASSOCIATED = "associated"
    """Provenance of what is exported."""
    REFERENCED = "referenced"
    """What is referenced from what is exported."""
    LINKS = "links"
    """Nothing: only what its resources refer to is noted for later phases."""
    ORGANIZED = "organized"
    """Blocks of resources, each headed by what they are organized by."""
    DELETIONS = "deletions"
    """What the view no longer shows; its resources are in other shards."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One resource type and one key range of a job: the unit of claiming and publishing."""

    number: int
    """Unique in the job, from 0."""
    resource_type: str
    purpose: ShardPurpose = ShardPurpose.VIEW
    phase: int = 0
    """A shard can be claimed once every shard of the earlier phases is complete."""
    ordinal: int
    """The shard's place among those of its type, from 1; it appears in file names."""
    start: str | None = None
    """First key of the range, inclusive; None is the beginning. Opaque but to the provider."""
    end: str | None = None
    """End of the range, exclusive; None is the end. Opaque but to the provider."""
    resources: int = 0
    """How many resources the provider expects, for progress only."""
    bytes: int = 0
    """How many bytes of NDJSON the provider expects, for sizing only."""
    notes: bool = False
    """Whether what its lines refer to is noted for the shards of later phases."""
    attachments: bool = False
    """Whether its lines may point to Binary resources of this server."""
