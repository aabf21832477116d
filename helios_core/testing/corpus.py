"""Small hand-made resources, views, jobs and parts, which the suites use as examples."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import xxhash

from helios_core import (
    Cohort,
    ExportRequest,
    ExportView,
    Job,
    Lease,
    Level,
    Part,
    PartKey,
    PartKind,
    Shard,
    TypeKey,
)
from helios_core.fhir import FHIRVersion, Resource, parse_resource

TENANT = "clinic"
"""The default tenant."""
OTHER_TENANT = "hospital"
"""A tenant whose resources have the same ids as those of `TENANT`."""
VERSION = FHIRVersion.R4
"""The default FHIR version."""
TYPES = ("Patient", "Observation", "Organization")
"""The types of all resources made here."""
AN_INSTANT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
"""The transaction time of jobs whose data does not matter."""


def type_key(
    resource_type: str, *, tenant: str = TENANT, fhir_version: FHIRVersion = VERSION
) -> TypeKey:
    """Return the key of a type, whose method `resource(id)` returns that of one resource."""
    return TypeKey(tenant, fhir_version, resource_type)


def patient(resource_id: str, *, note: str = "", fhir_version: FHIRVersion = VERSION) -> Resource:
    """Return a Patient, which is in its own compartment."""
    return _resource("Patient", resource_id, {"name": [{"text": note or "a"}]}, fhir_version)


def observation(
    resource_id: str,
    *subjects: str,
    note: str = "",
    fhir_version: FHIRVersion = VERSION,
) -> Resource:
    """Return an Observation in the compartments of the patients with these ids."""
    references = [{"reference": f"Patient/{subject}"} for subject in subjects]
    elements: dict[str, Any] = {"status": "final", "code": {"text": note or "a"}}
    if references:
        elements |= {"subject": references[0], "performer": references[1:] or references}
    return _resource("Observation", resource_id, elements, fhir_version)


def measurement(  # noqa: PLR0913 - what searches evaluate, most of it by keyword
    resource_id: str,
    subject: str,
    *,
    status: str,
    code: str,
    day: str,
    fhir_version: FHIRVersion = VERSION,
) -> Resource:
    """Return an Observation of a patient, with a status, a code and a date to search for."""
    coding = {"system": "https://codes.example.org", "code": code}
    elements: dict[str, Any] = {
        "status": status,
        "code": {"coding": [coding], "text": code},
        "subject": {"reference": f"Patient/{subject}"},
        "effectiveDateTime": day,
    }
    return _resource("Observation", resource_id, elements, fhir_version)


def organization(
    resource_id: str, *, note: str = "", fhir_version: FHIRVersion = VERSION
) -> Resource:
    """Return an Organization, which is in no patient's compartment."""
    return _resource("Organization", resource_id, {"name": note or "a"}, fhir_version)


def mixture(count: int) -> Sequence[Resource]:
    """Return resources of three types, whose sizes are between a hundred and a thousand bytes."""
    makers = (patient, observation, organization)
    return [
        makers[number % 3](f"{number * 7919 % 1009}", note="x" * (number * 37 % 900))
        for number in range(count)
    ]


def name(resource: Resource) -> str:
    """Return `Type/id`, by which the suites identify a resource."""
    return f"{resource.resource_type}/{resource.id}"


def _resource(
    resource_type: str, resource_id: str, elements: dict[str, Any], fhir_version: FHIRVersion
) -> Resource:
    body = {"resourceType": resource_type, "id": resource_id} | elements
    return parse_resource(msgspec.json.encode(body), fhir_version)


def request(  # noqa: PLR0913 - the fields of the request, all by keyword
    *,
    tenant: str = TENANT,
    fhir_version: FHIRVersion = VERSION,
    level: Level = Level.SYSTEM,
    types: Sequence[str] = TYPES,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ExportRequest:
    """Return a request for everything in a tenant, narrowed by the arguments."""
    return ExportRequest(
        tenant=tenant,
        url="https://fhir.example.org/$export",
        fhir_version=fhir_version,
        level=level,
        group_id="g1" if level is Level.GROUP else None,
        types=tuple(types),
        since=since,
        until=until,
    )


def view(
    transaction_time: datetime,
    export_request: ExportRequest | None = None,
    *,
    patients: Collection[str] | None = None,
) -> ExportView:
    """Return the view of a request at an instant, with a cohort if `patients` has ids."""
    return ExportView(
        request=export_request or request(),
        transaction_time=transaction_time,
        cohort=None if patients is None else cohort(patients),
    )


def cohort(patients: Collection[str]) -> Cohort:
    """Return a cohort whose key is derived from its patients."""
    key = xxhash.xxh3_64_hexdigest(msgspec.json.encode(sorted(patients)))
    return Cohort(key=key, patients=frozenset(patients))


def job(job_id: str, *, tenant: str = TENANT) -> Job:
    """Return a new job, as it is before a store adds it."""
    return Job(
        id=job_id,
        request=request(tenant=tenant, since=AN_INSTANT),
        transaction_time=AN_INSTANT,
        owner="https://issuer.example.org somebody",
    )


def shards(count: int, *, resources: int = 10, phases: Sequence[int] = ()) -> list[Shard]:
    """Return shards of Patient for a job, in the given phases or all in the first."""
    return [
        Shard(
            number=number,
            resource_type="Patient",
            phase=phases[number] if phases else 0,
            ordinal=number + 1,
            start=str(number) if number else None,
            end=str(number + 1) if number + 1 < count else None,
            resources=resources,
            bytes=resources * 100,
        )
        for number in range(count)
    ]


def part(
    lease: Lease,
    *,
    kind: PartKind = PartKind.OUTPUT,
    number: int = 1,
    count: int = 10,
    published: int = 0,
) -> Part:
    """Return a part as the holder of a lease publishes it, or as a store returns it later."""
    key = PartKey(
        tenant=lease.job.tenant,
        job_id=lease.job.id,
        kind=kind,
        resource_type=lease.shard.resource_type,
        ordinal=lease.shard.ordinal,
        number=number,
        token=lease.token,
    )
    return Part(
        key=key,
        count=count,
        size=count * 40,
        plain_size=count * 100,
        digest="0f" * 16,
        digest_sum=2**64 - number,
        published=published,
    )
