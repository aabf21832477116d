"""Whom and what an export shows, resolved as of its transaction time."""

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
import xxhash

from helios_core.errors import InvalidRequest, ResourceNotFound, UnsupportedParameter
from helios_core.export.filters import resolve_filters
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import Cohort, ExportRequest, ExportView, Level, Shard, ShardPurpose
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.keys import TypeKey

PATIENT_GROUP_TYPES = frozenset({None, "person", "animal"})
"""The Group.type codes whose members can be Patients."""

ALWAYS = datetime.min.replace(tzinfo=UTC)
"""When a member joined who does not say."""

Edge = Callable[[str], datetime]
"""Which instant a date means that is less precise."""


def earliest(text: str) -> datetime:
    """Give the first microsecond of a date or dateTime."""
    return date_bounds(text)[0]


def latest(text: str) -> datetime:
    """Give the last microsecond of a date or dateTime."""
    return date_bounds(text)[1]


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


class GroupMembers:
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
                    member.entity.reference or "", base_urls(self._request.base_url)
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
        found = await self._provider.get(
            TypeKey.of(self._request, "Group").resource(group_id), at=at
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


_MICROSECOND = timedelta(microseconds=1)


async def resolve_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """
    Give what an export shows, with its cohort and filters resolved as of the transaction time.

    The same request at the same instant always gives the same view, so a worker can resolve it
    again long after the kick-off.

    Raises:
        ResourceNotFound: The group, or a group nested in it, does not exist.
        UnsupportedParameter: The group is not one of patients.
    """
    view = await resolve_unfiltered_view(provider, request, transaction_time)
    filters, gaps = await resolve_filters(provider, request, transaction_time)
    return msgspec.structs.replace(view, filters=filters, gaps=gaps)


async def resolve_unfiltered_view(
    provider: DataProvider, request: ExportRequest, transaction_time: datetime
) -> ExportView:
    """Give the view without its filters, which may take long to resolve: enough to plan."""
    cohort, newcomers = await _cohorts(provider, request, transaction_time)
    return ExportView(
        request=request, transaction_time=transaction_time, cohort=cohort, newcomers=newcomers
    )


def newcomers_view(view: ExportView) -> ExportView | None:
    """
    Give what newcomers bring from before `since`; None if nobody does.

    Together with the view it shows every resource of theirs, and none twice: what changed after
    `since` is in the view, and the rest is here.
    """
    request = view.request
    if view.newcomers is None or request.since is None or not request.include_newly_added:
        return None
    before = msgspec.structs.replace(request, since=None, until=request.since + _MICROSECOND)
    return msgspec.structs.replace(view, request=before, cohort=view.newcomers, newcomers=None)


def shard_view(view: ExportView, shard: Shard) -> ExportView:
    """Give what of an export a shard is about."""
    older = newcomers_view(view) if shard.purpose is ShardPurpose.OLDER else None
    return older or view


async def _cohorts(
    provider: DataProvider, request: ExportRequest, at: datetime
) -> tuple[Cohort | None, Cohort | None]:
    named = None if request.patients is None else frozenset(request.patients)
    if request.level is not Level.GROUP:
        cohort = None if named is None else Cohort(key=_key(request, at), patients=named)
        return cohort, None
    members, newcomers = await _members(GroupMembers(provider, request), request, at)
    if named is not None:
        members, newcomers = members & named, newcomers & named
    key = _key(request, at)
    return (
        Cohort(key=key, patients=members),
        Cohort(key=f"{key}/newcomers", patients=newcomers) if newcomers else None,
    )


def _key(request: ExportRequest, at: datetime) -> str:
    narrowed = xxhash.xxh3_128_hexdigest("\n".join(request.patients or ()).encode())
    group = f"{request.tenant}/{request.fhir_version}/{request.group_id}"
    since = "" if request.since is None else request.since.isoformat()
    return f"{group}/{at.isoformat()}/{narrowed}/{since}/{request.include_newly_added}"


async def _members(
    groups: GroupMembers, request: ExportRequest, at: datetime
) -> tuple[frozenset[str], frozenset[str]]:
    """Give whose data is shown, and who joined after `since`."""
    since, include = request.since, request.include_newly_added
    if since is None or since >= at:
        return frozenset(await groups.joined(at)), frozenset()
    # In doubt a member brings older data, and in doubt nobody is left out.
    joined = await groups.joined(at, edge=latest if include else earliest)
    members = frozenset(joined)
    newcomers = {patient for patient, instant in joined.items() if instant > since}
    before = await groups.members_before(since)
    if before is not None:
        newcomers |= members - before
    elif include:
        newcomers |= members
    return members if include else members - newcomers, frozenset(newcomers)
