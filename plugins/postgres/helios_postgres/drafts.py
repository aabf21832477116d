"""Drafts: the outcomes of a sequence of changes, and the versions to write for them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

import msgspec

from helios_core import AppliedChange, Decision, Delete, Put, decide
from helios_core.fhir import Resource, from_stamp

Key: TypeAlias = tuple[int, str]
"""A resource: its collection and its id."""


class Head(NamedTuple):
    """The newest stored version of a resource, which may be a deletion."""

    seq: int
    since_stamp: int
    content_hash: int
    """As in `Resource.content_hash`, unsigned."""
    version_id: int
    size: int
    deleted: bool
    in_compartment: bool


class Draft(msgspec.Struct, kw_only=True):
    """A version that will be written."""

    key: Key
    version_id: int
    before: "Head | Draft | None"
    """The version that it supersedes, None for the first one."""
    resource: Resource | None
    """None for a deletion."""
    patients: str | None
    """Ids separated by spaces; None for a deletion until the ids of `before` are looked up."""
    content_hash: int
    in_compartment: bool
    seq: int = 0
    size: int = 0
    line_hash: int = 0

    def row(self, stamp: int) -> tuple[object, ...]:
        """Return the fields that `version_mark` is computed from."""
        return (
            *(self.seq, self.key[1], self.version_id, stamp, int(self.deleted), self.patients),
            *(self.size, self.line_hash),
        )

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.resource is None


class Outcome(NamedTuple):
    """The outcome of one change."""

    decision: Decision
    current: Head | Draft | None
    """The version that is current after the change."""

    def applied(self, instant: datetime | None) -> AppliedChange:
        """Return the outcome; `instant` is that of the write, None if it has no drafts."""
        last_updated = None
        if isinstance(self.current, Head):
            last_updated = from_stamp(self.current.since_stamp)
        elif self.current is not None:
            last_updated = instant
        return self.decision.applied(last_updated)


class Drafting:
    """Applies changes in order to locked heads, in memory."""

    def __init__(self, heads: Mapping[Key, Head]) -> None:
        self.stored = heads
        self.latest: dict[Key, Head | Draft] = dict(heads)
        self.drafts: list[Draft] = []

    def apply(self, change: Put | Delete, key: Key) -> Outcome:
        """
        Add the draft that a change results in, if any, and return its outcome.

        Raises:
            VersionConflict: The change's `if_match` is not the current version.
        """
        current = self.latest.get(key)
        decision = decide(change, current)
        if not decision.makes_version:
            return Outcome(decision, current)
        draft = _draft(change, key, current, decision.version_id)
        self.drafts.append(draft)
        self.latest[key] = draft
        return Outcome(decision, draft)

    @property
    def newest(self) -> list[Draft]:
        """The last draft of every changed resource, in the order in which rows are locked."""
        return [
            draft for _, draft in sorted(self.latest.items(), key=_key) if isinstance(draft, Draft)
        ]


def changes_by_key(
    changes: Sequence[Put | Delete], collections: Mapping[str, int]
) -> list[tuple[Put | Delete, Key]]:
    """
    Return each change with the key of its resource.

    Collection 0 stands for the missing collection of a type.
    """
    return [(change, (collections.get(change.resource_type, 0), change.id)) for change in changes]


def _draft(change: Put | Delete, key: Key, current: Head | Draft | None, version_id: int) -> Draft:
    if isinstance(change, Put):
        resource = change.resource
        return Draft(
            key=key,
            version_id=version_id,
            before=current,
            resource=resource,
            patients=" ".join(resource.patients),
            content_hash=resource.content_hash,
            in_compartment=bool(resource.patients),
        )
    return Draft(
        key=key,
        version_id=version_id,
        before=current,
        resource=None,
        patients=current.patients if isinstance(current, Draft) else None,
        content_hash=0,
        in_compartment=current is not None and current.in_compartment,
    )


def _key(item: tuple[Key, object]) -> Key:
    return item[0]
