"""The members of a Group at an instant."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from helios_core.errors import (
    InvalidParameter,
    InvalidRequest,
    ResourceNotFound,
    UnsupportedParameter,
)
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import FOREVER, to_stamp
from helios_core.fhir.references import base_urls, split_reference
from helios_core.model.exports import ExportRequest
from helios_core.storage.data_provider import DataProvider
from helios_core.storage.resource_keys import TypeKey

PATIENT_GROUP_TYPES = frozenset({None, "person", "animal"})
"""The values of Group.type whose members can be Patients."""

DEFINITIONS = frozenset({"definitional", "conceptual"})
"""The values of Group.membership (R5 and R6) of groups that do not list their members."""

MAX_NUMBERS = 50
"""The maximum number of omitted members that a sentence lists by their numbers."""

MAX_LOOKUPS = 1000
"""The maximum number of missing Patients of which it is checked whether they were deleted."""

_UNDECLARED = (
    "has no members, and neither actual (true) nor membership (enumerated) says that it is meant "
    "to list them"
)

_NO_START = -FOREVER
"""The joining stamp of a member whose period has no start."""

Rounding = Callable[[str], int]
"""Returns the stamp of a date, which may cover a day or more: `first_stamp` or `last_stamp`."""


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
        """
        Return whether a stamp lies within the period.

        Raises:
            InvalidParameter: The start or the end is no date.
        """
        first = first_stamp(self.start) if self.start else _NO_START
        last = last_stamp(self.end) if self.end else FOREVER
        return first <= stamp <= last


class _Unresolvable(Exception):
    """A member is left out; the message is the predicate of a sentence that begins with "they"."""


class _Entity(msgspec.Struct):
    reference: str | None = None
    identifier: object = None

    @property
    def problem(self) -> str:
        """Why the entity is not a Patient or Group of this server."""
        if self.reference:
            return "are not on this server: their reference is not Patient/[id] or Group/[id]"
        return "are given by an identifier only" if self.identifier else "have no reference"


class _Member(msgspec.Struct, rename="camel"):
    entity: _Entity = msgspec.field(default_factory=_Entity)
    inactive: bool = False
    period: _Period = msgspec.field(default_factory=_Period)
    modifier_extension: object = None

    def join_stamp(self, rounding: Rounding) -> int:
        return rounding(self.period.start) if self.period.start else _NO_START


class _Group(msgspec.Struct, rename="camel"):
    type: Annotated[str | None, "Group.type"] = None
    actual: Annotated[object, "Group.actual, up to R4B"] = None
    membership: Annotated[object, "Group.membership, from R5"] = None
    characteristic: object = None
    modifier_extension: object = None
    quantity: Annotated[object, "how many members there are"] = None
    member: list[_Member] = msgspec.field(default_factory=list[_Member])

    @property
    def is_definition(self) -> bool:
        """Whether the Group describes its members instead of listing them."""
        return self.actual is False or self.membership in DEFINITIONS

    def unresolvable(self) -> str | None:
        """Return why the members of the Group cannot be determined, or None if they can."""
        if self.modifier_extension:
            return (
                "has a modifierExtension, which may change who its members are and is not "
                "supported"
            )
        if self.member:
            return None
        if self.is_definition:
            return "defines its members (actual is false) instead of listing them"
        if self.characteristic:
            return "describes its members by characteristics instead of listing them"
        if self.unlisted:
            return f"has {self.unlisted} members by its quantity but lists none"
        return None if self.is_list else _UNDECLARED

    @property
    def is_list(self) -> bool:
        """Whether a Group without members states that it has none."""
        declared = self.actual is True or self.membership == "enumerated"
        return declared or (type(self.quantity) is int and self.quantity == 0)

    @property
    def unlisted(self) -> int:
        """The number of members by which `quantity` exceeds the list, 0 if it does not."""
        quantity = self.quantity if type(self.quantity) is int else 0
        return max(0, quantity - len(self.member))


class Membership(msgspec.Struct, kw_only=True):
    """The patients who belong to a Group or to a Group nested in it."""

    joined: dict[str, int]
    """The stamp of when each patient joined, by id; the earliest if there are several ways."""
    groups: frozenset[str]
    """The ids of the Group and of those nested in it."""
    left_out: tuple[str, ...]
    """One sentence per Group and reason for which some members could not be resolved."""


class GroupMembers:
    """The members of the group of one export, those of nested groups included."""

    def __init__(self, provider: DataProvider, request: ExportRequest) -> None:
        self._provider = provider
        self._request = request
        self._root = request.group_id or ""
        self._base_urls = base_urls(request.base_url)

    async def resolve(self, at: datetime, *, rounding: Rounding = first_stamp) -> Membership:
        """
        Return the members at an instant, with the stamp of when each joined.

        A group that contains itself is read once. A member who cannot be resolved is left out and
        counted in `left_out`.

        Raises:
            ResourceNotFound: The group, or a group nested in it, does not exist.
            InvalidRequest: One of these groups cannot be read.
            UnsupportedParameter: One of these groups is not a group of patients, or does not list
                its members.
        """
        patients, left_out = dict[str, int](), list[str]()
        seen, with_nested = set[str](), set[str]()
        waiting = [(_NO_START, self._root)]
        while waiting:  # in the order of joining, so that each group is read only once
            since, group_id = heapq.heappop(waiting)
            if group_id in seen:
                continue
            seen.add(group_id)
            group = await self._group(group_id, at)
            numbers_by_reason = defaultdict[str, list[int]](list)
            for number, member in enumerate(group.member, 1):
                try:
                    resolved = self._resolve_member(member, to_stamp(at), rounding)
                except _Unresolvable as error:
                    numbers_by_reason[str(error)].append(number)
                    continue
                if resolved is None:
                    continue
                resource_type, resource_id, stamp = resolved
                joined = max(since, stamp)
                if resource_type == "Patient":
                    patients[resource_id] = min(joined, patients.get(resource_id, joined))
                else:
                    with_nested.add(group_id)
                    heapq.heappush(waiting, (joined, resource_id))
            left_out += _left_out(group_id, group, numbers_by_reason)
        if not patients and not left_out and seen == with_nested:
            raise UnsupportedParameter(
                f"Group/{self._root} and the groups nested in it only contain each other, so that "
                "nobody is a member; list the members in one of them."
            )
        return Membership(joined=patients, groups=frozenset(seen), left_out=tuple(left_out))

    async def resolve_earlier(self, at: datetime) -> Membership | None:
        """Return the membership at an earlier instant, or None if it cannot be resolved."""
        try:
            return await self.resolve(at)
        except (ResourceNotFound, InvalidRequest):
            return None

    async def not_stored(self, patients: Collection[str], at: datetime) -> tuple[str, ...]:
        """
        Return a sentence about the members who were never stored up to an instant, or nothing.

        Deleted Patients do not count: their group is not wrong. A client that may not read every
        Patient gets no sentence.
        """
        key = TypeKey.of(self._request, "Patient")
        if not self._request.grant("Patient").is_everything:
            return ()
        absent = sorted(await self._provider.missing(key, patients, at=at))
        looked_up = [
            await self._provider.get(key.resource(patient), at=at)
            for patient in absent[:MAX_LOOKUPS]
        ]
        if not (count := looked_up.count(None)):
            return ()
        number = f"At least {count}" if len(absent) > MAX_LOOKUPS else f"{count}"
        sentence = (
            f"{number} of {len(patients)} members of Group/{self._root}, those of nested groups "
            "included, are not stored on this server, so there is no Patient to export for them."
        )
        return (sentence,)

    def _resolve_member(
        self, member: _Member, at: int, rounding: Rounding
    ) -> tuple[str, str, int] | None:
        """
        Return the type and id of a member and when it joined.

        Return None if it does not belong to the group at the instant.

        Raises:
            _Unresolvable: The identity of the member, or whether it belongs, cannot be determined.
        """
        if member.inactive:
            return None
        try:
            if not member.period.covers(at):
                return None
        except InvalidParameter as error:
            raise _Unresolvable("have a period whose start or end is not a date") from error
        if member.modifier_extension:
            raise _Unresolvable("have a modifierExtension, which is not supported")
        reference = split_reference(member.entity.reference or "", self._base_urls)
        if reference is None:
            raise _Unresolvable(member.entity.problem)
        if reference[0] not in ("Patient", "Group"):
            raise _Unresolvable(f"are of type {reference[0]}, not Patient or Group")
        return *reference, member.join_stamp(rounding)

    async def _group(self, group_id: str, at: datetime) -> _Group:
        nested = "" if group_id == self._root else f", nested in Group/{self._root},"
        stored = await self._provider.get(
            TypeKey.of(self._request, "Group").resource(group_id), at=at
        )
        if stored is None or stored.content is None:
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
        if (reason := group.unresolvable()) is not None:
            raise UnsupportedParameter(
                f"Group/{group_id}{nested} {reason}; only groups that list their members can be "
                "exported."
            )
        return group


def _left_out(
    group_id: str, group: _Group, numbers_by_reason: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """Yield a sentence for each reason for which the export lacks members of a Group."""
    for reason, numbers in numbers_by_reason.items():
        more = len(numbers) - MAX_NUMBERS
        listed = ", ".join(map(str, numbers[:MAX_NUMBERS])) + (f" and {more} more" * (more > 0))
        yield (
            f"{len(numbers)} of {len(group.member)} members of Group/{group_id} were left out, "
            f"because they {reason}: number {listed} in the order of Group.member."
        )
    if group.is_definition:
        yield (
            f"Group/{group_id} is a definition; members that it describes without listing them "
            "are not known and were left out."
        )
    if group.unlisted:
        yield (
            f"Group/{group_id} has {group.unlisted} members more by its quantity than it lists; "
            "these were left out."
        )
