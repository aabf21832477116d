"""Export requests, what they show, and the shards they are divided into."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import Filter
from helios_core.model.scopes import EVERYTHING, Grant, Query


class Level(StrEnum):
    """The level of an export (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    SYSTEM = "system"
    """All resources."""
    PATIENT = "patient"
    """The compartments of all patients."""
    GROUP = "group"
    """The compartments of the patients of a group."""


class AssociatedData(StrEnum):
    """Which Provenance to add to an export (Bulk Data 3.0.0, includeAssociatedData)."""

    LATEST = "LatestProvenanceResources"
    """The newest for each exported resource."""
    RELEVANT = "RelevantProvenanceResources"
    """All of them for each exported resource."""


class TypeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """One query of `_typeFilter`; a resource has to match one of those of its type."""

    resource_type: str
    pairs: tuple[tuple[str, str], ...]
    """Names, with modifiers, and values of search parameters, as `compile_query` takes them."""


class TypeConstraint(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that the scopes of a client set on a type: one of these searches has to match."""

    resource_type: str
    any_of: tuple[Query, ...]


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed and validated request, complete enough for any worker to run it later."""

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
    The resource types to export; without `_type`, all types of the level.

    Empty only if `handling=lenient` ignored a `_typeFilter` of each type: such a type is left out.
    """
    since: datetime | None = None
    """Only resources changed strictly after this instant."""
    until: datetime | None = None
    """Only resources changed strictly before this instant."""
    patients: tuple[str, ...] | None = None
    """Ids of the only patients to export, from `patient`; None is no restriction."""
    filters: tuple[TypeFilter, ...] = ()
    """The queries of `_typeFilter`; types without a query are not filtered."""
    elements: tuple[str, ...] = ()
    """The only elements to keep besides the mandatory ones, as `element` or `Type.element`."""
    associated: AssociatedData | None = None
    """The value of `includeAssociatedData`; None applies the default rule for Provenance."""
    organize_by: str | None = None
    """The type by whose instances output is organized, or None for files of one type each."""
    partial_manifests: bool = False
    """Whether manifests may list parts while the job runs, in linked pages."""
    separate_status: bool = False
    """Whether polls report the status of the job in X-Export-Status, not as their own status."""
    referenced_types: tuple[str, ...] = ()
    """Types that are added when the output refers to them, at patient and group level."""
    include_newly_added: bool = True
    """Whether the older data of members who joined after `since` is exported too."""
    max_part_bytes: int | None = None
    """The maximum size of a part if smaller than the server's (draft of version 4)."""
    transforms: tuple[str, ...] = ()
    """Plugins that transform every line, in order; a worker must have exactly the same ones."""
    ignored: tuple[str, ...] = ()
    """One sentence per ignored parameter, reported in an error file."""
    constraints: tuple[TypeConstraint, ...] = ()
    """The limits set by the scopes of the client; a resource has to meet all those of its type."""

    @property
    def output_types(self) -> tuple[str, ...]:
        """The types of all resources that may be in the output."""
        associated = ("Provenance",) if self.associated else ()
        organizers = (self.organize_by,) if self.organize_by else ()
        types = (*self.types, *self.referenced_types, *associated, *organizers)
        return tuple(dict.fromkeys(types))

    def grant(self, resource_type: str) -> Grant:
        """Return the resources of a type that the scopes allowed; all if they set no limit."""
        return self.grants().get(resource_type, EVERYTHING)

    def grants(self) -> Mapping[str, Grant]:
        """Return by type the resources that the scopes allowed, for each type with a limit."""
        clauses_by_type = defaultdict[str, list[tuple[Query, ...]]](list)
        for constraint in self.constraints:
            clauses_by_type[constraint.resource_type].append(constraint.any_of)
        return {name: Grant(tuple(clauses)) for name, clauses in clauses_by_type.items()}


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The set of patients that an export is limited to."""

    key: str
    """Equal keys mean equal patients, so a provider can send a cohort to its database once."""
    patients: frozenset[str]
    """Patient ids, without the type."""


class ExportView(msgspec.Struct, frozen=True, kw_only=True):
    """The stored resources that an export contains: a request, at an instant, for a cohort."""

    request: ExportRequest
    transaction_time: datetime
    """A settled instant, in whole microseconds: what changed later is not shown."""
    cohort: Cohort | None = None
    """None is no limit: every resource at system level, every compartment at patient level."""
    newcomers: Cohort | None = None
    """
    Members who joined after `since`.

    With `include_newly_added` all their data is exported, otherwise none of it.
    """
    filters: Mapping[str, Filter] = {}
    """The filter of each filtered type, with its lookups resolved."""
    gaps: tuple[str, ...] = ()
    """One sentence per damaged resource that the lookup of a filter could not read."""
    groups: frozenset[str] | None = None
    """The ids of the only Groups to export; None is no limit."""
    former_groups: frozenset[str] = frozenset()
    """The ids of the Groups nested in the exported one at `since`; their deletion is exported."""
    left_out: tuple[str, ...] = ()
    """One sentence per Group and reason why members could not be resolved."""


class ShardPurpose(StrEnum):
    """What the shard adds to the export."""

    VIEW = "view"
    """The resources of the view, and its deletions."""
    OLDER = "older"
    """The older data of newcomers, from before `since`."""
    ASSOCIATED = "associated"
    """Provenance of exported resources."""
    REFERENCED = "referenced"
    """Resources that the output refers to."""
    LINKS = "links"
    """Nothing; it only notes what its resources refer to, for shards of later phases."""
    ORGANIZED = "organized"
    """Blocks of resources, each headed by the instance they are organized by."""
    UNORGANIZED = "unorganized"
    """Nothing; it only counts the resources that are in no patient's block."""
    DELETIONS = "deletions"
    """Only the deletions of the view."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One resource type and one key range of a job: what a worker claims and publishes."""

    number: int
    """Unique in the job, from 0."""
    resource_type: str
    purpose: ShardPurpose = ShardPurpose.VIEW
    phase: int = 0
    """A shard can be claimed once every shard of the earlier phases is complete."""
    ordinal: int
    """The number of the shard among those of its type, from 1; it appears in file names."""
    start: str | None = None
    """First key of the range, inclusive; None is the beginning. Opaque except to the provider."""
    end: str | None = None
    """End of the range, exclusive; None is the end. Opaque except to the provider."""
    resources: int = 0
    """The expected number of resources, for progress only."""
    bytes: int = 0
    """The expected bytes of NDJSON, for sizing only."""
    notes: bool = False
    """Whether the references in its lines are noted for the shards of later phases."""
    attachments: bool = False
    """Whether its lines may link to Binary resources of this server."""
