"""What a sequence of changes comes to: outcomes, and the versions to write, without stamps."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

import msgspec

from helios_core import AppliedChange, ChangeResult, Delete, Put, VersionConflict, to_signed
from helios_core.fhir import Resource, from_stamp

Key: TypeAlias = tuple[int, str]
"""A resource: its scope and its id."""


class Head(NamedTuple):
    """The newest version of a resource, a deletion perhaps, as it is stored."""

    seq: int
    since_stamp: int
    content_hash: int
    version_id: int
    size: int
    deleted: bool
    in_compartment: bool


class Draft(msgspec.Struct, kw_only=True):
    """A version that is going to be written."""

    key: Key
    version_id: int
    before: "Head | Draft | None"
    """The version it ends."""
    resource: Resource | None
    """None is a deletion."""
    patients: str | None
    """Ids separated by spaces; None for those of a stored version that is yet to be looked up."""
    content_hash: int
    in_compartment: bool
    seq: int = 0
    size: int = 0

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.resource is None


class Result(NamedTuple):
    """What became of one change; an instant of None is that of the write."""

    outcome: ChangeResult
    version_id: int
    last_updated: datetime | None
    new: bool

    def applied(self, instant: datetime | None) -> AppliedChange:
        """Give it with the instant of the write."""
        last_updated = instant if self.new else self.last_updated
        return AppliedChange(
            outcome=self.outcome, version_id=self.version_id, last_updated=last_updated
        )


class Drafting:
    """Applies changes in order to heads that are locked."""

    def __init__(self, heads: Mapping[Key, Head]) -> None:
        self.stored = heads
        self.latest: dict[Key, Head | Draft] = dict(heads)
        self.drafts: list[Draft] = []

    def apply(self, change: Put | Delete, key: Key) -> Result:
        """
        Note what a change makes.

        Raises:
            VersionConflict: It named another version than the current one.
        """
        current = self.latest.get(key)
        _check(change, current)
        return self._put(change, key) if isinstance(change, Put) else self._delete(key)

    @property
    def newest(self) -> list[Draft]:
        """What every changed resource ends up as, in the order in which rows are locked."""
        return [
            draft for _, draft in sorted(self.latest.items(), key=_key) if isinstance(draft, Draft)
        ]

    def _put(self, change: Put, key: Key) -> Result:
        resource, current = change.resource, self.latest.get(key)
        content_hash = to_signed(resource.content_hash)
        live = current is not None and not current.deleted
        if current is not None and live and current.content_hash == content_hash:
            return _unchanged(ChangeResult.UNCHANGED, current)
        self._add(
            Draft(
                key=key,
                version_id=1 if current is None else current.version_id + 1,
                before=current,
                resource=resource,
                patients=" ".join(resource.patients),
                content_hash=content_hash,
                in_compartment=bool(resource.patients),
            )
        )
        return self._changed(ChangeResult.UPDATED if live else ChangeResult.CREATED)

    def _delete(self, key: Key) -> Result:
        current = self.latest.get(key)
        if current is None:
            return Result(ChangeResult.ABSENT, 0, None, new=False)
        if current.deleted:
            return _unchanged(ChangeResult.ABSENT, current)
        self._add(
            Draft(
                key=key,
                version_id=current.version_id + 1,
                before=current,
                resource=None,
                patients=current.patients if isinstance(current, Draft) else None,
                content_hash=0,
                in_compartment=current.in_compartment,
            )
        )
        return self._changed(ChangeResult.DELETED)

    def _add(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.latest[draft.key] = draft

    def _changed(self, outcome: ChangeResult) -> Result:
        return Result(outcome, self.drafts[-1].version_id, None, new=True)


def target(change: Put | Delete) -> tuple[str, str]:
    """Give the type and the id of the resource a change is about."""
    if isinstance(change, Put):
        return change.resource.resource_type, change.resource.id
    return change.resource_type, change.id


def changes_by_key(
    changes: Sequence[Put | Delete], scopes: Mapping[str, int]
) -> list[tuple[Put | Delete, Key]]:
    """Give each change with the resource it is about; 0 is the scope of what cannot be there."""
    targets = ((change, target(change)) for change in changes)
    return [(change, (scopes.get(name, 0), of)) for change, (name, of) in targets]


def _key(item: tuple[Key, object]) -> Key:
    return item[0]


def _unchanged(outcome: ChangeResult, current: Head | Draft) -> Result:
    if isinstance(current, Draft):
        return Result(outcome, current.version_id, None, new=True)
    return Result(outcome, current.version_id, from_stamp(current.since_stamp), new=False)


def _check(change: Put | Delete, current: Head | Draft | None) -> None:
    version_id = 0 if current is None else current.version_id
    if change.if_match is not None and change.if_match != version_id:
        raise VersionConflict(
            f"version {change.if_match} was expected to be current, but version {version_id} is;"
            " read the resource again and repeat the change"
        )
