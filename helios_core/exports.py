"""What an export was asked to be: parsed, validated, immutable."""

from datetime import datetime
from enum import StrEnum

import msgspec

from helios_core.fhir.versions import FHIRVersion


class Level(StrEnum):
    """Whose data an export is about (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    SYSTEM = "system"
    PATIENT = "patient"
    GROUP = "group"


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
    """The resource types to export, never empty: an omitted `_type` is spelt out at kick-off."""
    since: datetime | None = None
    """Only resources changed strictly after this instant."""
    until: datetime | None = None
    """Only resources changed strictly before this instant."""
    patients: tuple[str, ...] | None = None
    """Ids of the only patients to export, from the `patient` parameter; None narrows nothing."""
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


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One resource type and one key range of a job: the unit of claiming and publishing."""

    number: int
    """Unique in the job, from 0."""
    resource_type: str
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
