"""Whom an export is about: patients named in the request, or the members of a Group."""

from datetime import datetime
from typing import Annotated

import msgspec
import xxhash

from helios_core.data_providers import DataProvider
from helios_core.errors import InvalidRequest, ResourceNotFound, UnsupportedParameter
from helios_core.exports import Cohort, ExportRequest, ExportView, Level
from helios_core.fhir.dates import span
from helios_core.fhir.references import bases, split_reference

PATIENT_GROUP_TYPES = frozenset({None, "person", "animal"})
"""The Group.type codes whose members can be Patients."""


class _Period(msgspec.Struct):
    start: str | None = None
    end: str | None = None

    def covers(self, instant: datetime) -> bool:
        if self.start and span(self.start)[0] > instant:
            return False
        return not (self.end and span(self.end)[1] < instant)


class _Entity(msgspec.Struct):
    reference: str | None = None


class _Member(msgspec.Struct):
    entity: _Entity = msgspec.field(default_factory=_Entity)
    inactive: bool = False
    period: _Period = msgspec.field(default_factory=_Period)


class _Group(msgspec.Struct):
    type: Annotated[str | None, "Group.type"] = None
    member: list[_Member] = msgspec.field(default_factory=list[_Member])


async def view_of(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Give what an export shows, with its cohort resolved as of the transaction time.

    The same request at the same instant always gives the same cohort, so a worker can resolve it
    again long after the kick-off.

    Raises:
        ResourceNotFound: The group, or a group nested in it, does not exist.
        UnsupportedParameter: The group is not one of patients.
    """
    cohort = await _cohort(provider, request, transaction_time)
    return ExportView(request=request, transaction_time=transaction_time, cohort=cohort)


async def _cohort(provider: DataProvider, request: ExportRequest, at: datetime) -> Cohort | None:
    named = None if request.patients is None else frozenset(request.patients)
    if request.level is Level.GROUP:
        members = await _members(provider, request, at)
        chosen = members if named is None else members & named
    elif named is not None:
        chosen = named
    else:
        return None
    return Cohort(key=_key(request, at), patients=chosen)


def _key(request: ExportRequest, at: datetime) -> str:
    narrowed = xxhash.xxh3_128_hexdigest("\n".join(request.patients or ()).encode())
    group = f"{request.tenant}/{request.fhir_version}/{request.group_id}"
    return f"{group}/{at.isoformat()}/{narrowed}"


async def _members(provider: DataProvider, request: ExportRequest, at: datetime) -> frozenset[str]:
    """Flatten a group and the groups nested in it; a cycle is walked once."""
    patients = set[str]()
    seen = {request.group_id or ""}
    waiting = [request.group_id or ""]
    while waiting:
        group_id = waiting.pop()
        for member in (await _group(provider, request, group_id, at)).member:
            named = split_reference(member.entity.reference or "", bases(request.base_url))
            if named is None or member.inactive or not member.period.covers(at):
                continue
            resource_type, resource_id = named
            if resource_type == "Patient":
                patients.add(resource_id)
            elif resource_type == "Group" and resource_id not in seen:
                seen.add(resource_id)
                waiting.append(resource_id)
    return frozenset(patients)


async def _group(
    provider: DataProvider, request: ExportRequest, group_id: str, at: datetime
) -> _Group:
    found = await provider.get(request.tenant, request.fhir_version, "Group", group_id, at=at)
    if found is None or found.content is None:
        nested = "" if group_id == request.group_id else f", nested in Group/{request.group_id},"
        raise ResourceNotFound(
            f"Group/{group_id}{nested} does not exist; export an existing group, or create it."
        )
    try:
        group = msgspec.json.decode(found.content, type=_Group)
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"Group/{group_id} cannot be read as a Group: its members do not have the form the "
            "specification gives them. Store it again, corrected."
        ) from error
    if group.type not in PATIENT_GROUP_TYPES:
        raise UnsupportedParameter(
            f"Group/{group_id} is a group of type {group.type}; only groups of patients (type "
            "person or animal) can be exported."
        )
    return group
