"""The patients and resources that an export shows, resolved as of its transaction time."""

import heapq
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import xxhash

from helios_core.errors import InvalidRequest, ResourceNotFound, UnsupportedParameter
from helios_core.export.filters import resolve_filters
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import FOREVER, to_stamp
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import Cohort, ExportRequest, ExportView, Level, Shard, ShardPurpose
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.keys import TypeKey

PATIENT_GROUP_TYPES = frozenset({None, "person", "animal"})
"""The values of Group.type whose members can be Patients."""

_MICROSECOND = timedelta(microseconds=1)
_NO_START = -FOREVER
"""The stamp of when a member without a period start joined."""

Rounding = Callable[[str], int]
"""Which stamp a date of less precision stands for: `first_stamp` or `last_stamp`."""


async def resolve_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Return what an export shows, with its cohort and filters resolved as of the transaction time.

    The same request at the same instant always has the same view, so that a worker can resolve it
    again long after the kick-off.

    Raises:
        ResourceNotFound: The group, or a group nested in it, does not exist.
        InvalidRequest: One of these groups cannot be read.
        UnsupportedParameter: One of these groups is not a group of patients.
    """
    view = await resolve_unfiltered_view(provider, request, transaction_time)
    filters, gaps = await resolve_filters(provider, request, transaction_time)
    return msgspec.structs.replace(view, filters=filters, gaps=gaps)


async def resolve_unfiltered_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Return the view without filters, which may take long to resolve: it is enough for planning.

    Raises:
        ResourceNotFound: As in `resolve_view`; so are InvalidRequest and UnsupportedParameter.
    """
    cohort, newcomers = await _cohorts(provider, request, transaction_time)
    return ExportView(
        request=request, transaction_time=transaction_time, cohort=cohort, newcomers=newcomers
    )


def newcomers_view(view: ExportView) -> ExportView | None:
    """
    Return the view of the resources of newcomers that have not changed since `since`.

    None if there are no newcomers or their older data is not exported. Together with the view it
    shows all resources of newcomers, and none of them twice.
    """
    request = view.request
    if view.newcomers is None or request.since is None or not request.include_newly_added:
        return None
    before = msgspec.structs.replace(request, since=None, until=request.since + _MICROSECOND)
    return msgspec.structs.replace(view, request=before, cohort=view.newcomers, newcomers=None)


def shard_view(view: ExportView, shard: Shard) -> ExportView:
    """Return the view that a shard is a part of."""
    older = newcomers_view(view) if shard.purpose is ShardPurpose.OLDER else None
    return older or view


async def _cohorts(
    provider: DataProvider, request: ExportRequest, at: datetime
) -> tuple[Cohort | None, Cohort | None]:
    """Return the cohort and the newcomers among it, each None if there are none."""
    named = None if request.patients is None else frozenset(request.patients)
    if request.level is not Level.GROUP:
        cohort = None if named is None else Cohort(key=_cohort_key(request, at), patients=named)
        return cohort, None
    members, newcomers = await _members(GroupMembers(provider, request), request, at)
    if named is not None:
        members, newcomers = members & named, newcomers & named
    key = _cohort_key(request, at)
    return (
        Cohort(key=key, patients=members),
        Cohort(key=f"{key}/newcomers", patients=newcomers) if newcomers else None,
    )


def _cohort_key(request: ExportRequest, at: datetime) -> str:
    patients = xxhash.xxh3_128_hexdigest("\n".join(request.patients or ()).encode())
    group = f"{request.tenant}/{request.fhir_version}/{request.group_id}"
    since = "" if request.since is None else request.since.isoformat()
    return f"{group}/{at.isoformat()}/{patients}/{since}/{request.include_newly_added}"


async def _members(
    group: "GroupMembers", request: ExportRequest, at: datetime
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the members whose data is exported, and those who joined after `since`."""
    since, include = request.since, request.include_newly_added
    if since is None or since >= at:
        return frozenset(await group.join_times(at)), frozenset()
    # An imprecise start is read in the client's favour. If older data of newcomers is exported,
    # the member counts as a newcomer; if newcomers are left out, the member does not.
    joined = await group.join_times(at, rounding=last_stamp if include else first_stamp)
    members = frozenset(joined)
    newcomers = {patient for patient, stamp in joined.items() if stamp > to_stamp(since)}
    before = await group.members_before(since)
    if before is not None:
        newcomers |= members - before
    elif include:
        newcomers |= members
    return members if include else members - newcomers, frozenset(newcomers)


def first_stamp(text: str) -> int:
    """Return the first microsecond of a date or dateTime."""
    return date_bounds(text)[0]


def last_stamp(text: str) -> int:
    """Return the last microsecond of a date or dateTime."""
    return date_bounds(text)[1]


class _Period(msgspec.Struct):
    start: str | None = None
    end: str | None = None

    def covers(self, stamp: int) -> bool:
        if self.start and first_stamp(self.start) > stamp:
            return False
        return not (self.end and last_stamp(self.end) < stamp)


class _Entity(msgspec.Struct):
    reference: str | None = None


class _Member(msgspec.Struct):
    entity: _Entity = msgspec.field(default_factory=_Entity)
    inactive: bool = False
    period: _Period = msgspec.field(default_factory=_Period)

    def is_active(self, at: int) -> bool:
        return not self.inactive and self.period.covers(at)

    def join_time(self, rounding: Rounding) -> int:
        return rounding(self.period.start) if self.period.start else _NO_START


class _Group(msgspec.Struct):
    type: Annotated[str | None, "Group.type"] = None
    member: list[_Member] = msgspec.field(default_factory=list[_Member])


class GroupMembers:
    """The members of the group of one export, those of nested groups included."""

    def __init__(self, provider: DataProvider, request: ExportRequest) -> None:
        self._provider = provider
        self._request = request
        self._root = request.group_id or ""

    async def join_times(
        self, at: datetime, *, rounding: Rounding = first_stamp
    ) -> dict[str, int]:
        """
        Return the patients who are members at an instant, with the stamp of when each joined.

        A patient who is a member in several ways joined at the earliest of their times. A group
        that contains itself is read once.

        Raises:
            ResourceNotFound: The group, or a group nested in it, does not exist.
            InvalidRequest: One of these groups cannot be read.
            UnsupportedParameter: One of these groups is not a group of patients.
        """
        patients = dict[str, int]()
        seen = set[str]()
        waiting = [(_NO_START, self._root)]
        while waiting:  # the group that was joined first comes first, so each is read only once
            since, group_id = heapq.heappop(waiting)
            if group_id in seen:
                continue
            seen.add(group_id)
            for member in (await self._group(group_id, at)).member:
                reference = split_reference(
                    member.entity.reference or "", base_urls(self._request.base_url)
                )
                if reference is None or not member.is_active(to_stamp(at)):
                    continue
                resource_type, resource_id = reference
                joined = max(since, member.join_time(rounding))
                if resource_type == "Patient":
                    patients[resource_id] = min(joined, patients.get(resource_id, joined))
                elif resource_type == "Group":
                    heapq.heappush(waiting, (joined, resource_id))
        return patients

    async def members_before(self, at: datetime) -> frozenset[str] | None:
        """Return the members at an earlier instant, or None if they cannot be resolved for it."""
        try:
            return frozenset(await self.join_times(at))
        except (ResourceNotFound, InvalidRequest):
            return None

    async def _group(self, group_id: str, at: datetime) -> _Group:
        stored = await self._provider.get(
            TypeKey.of(self._request, "Group").resource(group_id), at=at
        )
        if stored is None or stored.content is None:
            nested = "" if group_id == self._root else f", nested in Group/{self._root},"
            raise ResourceNotFound(
                f"Group/{group_id}{nested} does not exist; export an existing group, or create it."
            )
        try:
            group = msgspec.json.decode(stored.content, type=_Group)
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"Group/{group_id} cannot be read as a Group: its members do not have the form "
                "that the specification defines. Store a corrected version."
            ) from error
        if group.type not in PATIENT_GROUP_TYPES:
            raise UnsupportedParameter(
                f"Group/{group_id} is a group of type {group.type}; only groups of patients "
                "(type person or animal) can be exported."
            )
        return group
