"""Who is a member of a Group, and since when."""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from helios_core.data_providers import DataProvider
from helios_core.errors import InvalidRequest, ResourceNotFound, UnsupportedParameter
from helios_core.exports import ExportRequest
from helios_core.fhir.dates import span
from helios_core.fhir.references import bases, split_reference

PATIENT_GROUP_TYPES = frozenset({None, "person", "animal"})
"""The Group.type codes whose members can be Patients."""

ALWAYS = datetime.min.replace(tzinfo=UTC)
"""When a member joined who does not say."""

Edge = Callable[[str], datetime]
"""Which instant a date means that is less precise."""


def earliest(text: str) -> datetime:
    """Give the first microsecond of a date or dateTime."""
    return span(text)[0]


def latest(text: str) -> datetime:
    """Give the last microsecond of a date or dateTime."""
    return span(text)[1]


class _Period(msgspec.Struct):
    start: str | None = None
    end: str | None = None

    def covers(self, instant: datetime) -> bool:
        if self.start and earliest(self.start) > instant:
            return False
        return not (self.end and latest(self.end) < instant)


class _Entity(msgspec.Struct):
    reference: str | None = None


class _Member(msgspec.Struct):
    entity: _Entity = msgspec.field(default_factory=_Entity)
    inactive: bool = False
    period: _Period = msgspec.field(default_factory=_Period)

    def counts(self, instant: datetime) -> bool:
        return not self.inactive and self.period.covers(instant)

    def joined(self, edge: Edge) -> datetime:
        return edge(self.period.start) if self.period.start else ALWAYS


class _Group(msgspec.Struct):
    type: Annotated[str | None, "Group.type"] = None
    member: list[_Member] = msgspec.field(default_factory=list[_Member])


class Groups:
    """The groups of one export."""

    def __init__(self, provider: DataProvider, request: ExportRequest) -> None:
        self._provider = provider
        self._request = request
        self._root = request.group_id or ""

    async def joined(self, at: datetime, *, edge: Edge = earliest) -> dict[str, datetime]:
        """
        Give the members at an instant, those of nested groups included, and when they joined.

        Who is a member in several ways joined when the first of them began. A cycle is walked
        once.

        Raises:
            ResourceNotFound: The group, or a group nested in it, does not exist.
            UnsupportedParameter: One of them is no group of patients.
        """
        patients = dict[str, datetime]()
        seen = set[str]()
        waiting = [(ALWAYS, self._root)]
        while waiting:  # the group that was joined first comes first, so it is walked but once
            since, group_id = heapq.heappop(waiting)
            if group_id in seen:
                continue
            seen.add(group_id)
            for member in (await self._group(group_id, at)).member:
                named = split_reference(
                    member.entity.reference or "", bases(self._request.base_url)
                )
                if named is None or not member.counts(at):
                    continue
                resource_type, resource_id = named
                joined = max(since, member.joined(edge))
                if resource_type == "Patient":
                    patients[resource_id] = min(joined, patients.get(resource_id, joined))
                elif resource_type == "Group":
                    heapq.heappush(waiting, (joined, resource_id))
        return patients

    async def members_before(self, at: datetime) -> frozenset[str] | None:
        """Give who was a member at an earlier instant; None if the store cannot tell."""
        try:
            return frozenset(await self.joined(at))
        except (ResourceNotFound, InvalidRequest):
            return None

    async def _group(self, group_id: str, at: datetime) -> _Group:
        request = self._request
        found = await self._provider.get(
            request.tenant, request.fhir_version, "Group", group_id, at=at
        )
        if found is None or found.content is None:
            nested = "" if group_id == self._root else f", nested in Group/{self._root},"
            raise ResourceNotFound(
                f"Group/{group_id}{nested} does not exist; export an existing group, or create it."
            )
        try:
            group = msgspec.json.decode(found.content, type=_Group)
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"Group/{group_id} cannot be read as a Group: its members do not have the form "
                "the specification gives them. Store it again, corrected."
            ) from error
        if group.type not in PATIENT_GROUP_TYPES:
            raise UnsupportedParameter(
                f"Group/{group_id} is a group of type {group.type}; only groups of patients "
                "(type person or animal) can be exported."
            )
        return group
