"""Drafts: the outcomes of a sequence of changes, and the versions to write for them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

from helios_core import AppliedChange, Decision, Delete, Put, decide, line_hash, to_unsigned
from helios_core.fhir import Resource, from_stamp

Key: TypeAlias = tuple[int, str]
"""A resource: its collection and its id."""

HEAD_FIELDS = {"c": 1, "i": 1, "v": 1, "s": 1, "d": 1, "g": 1, "h": 1, "n": 1, "p": 1}
"""The fields of a newest version that are read."""


class Head(NamedTuple):
    """The newest stored version of a resource, which may be a deletion."""

    seq: int
    since_stamp: int
    content_hash: int
    """As in `Resource.content_hash`, unsigned."""
    version_id: int
    size: int
    line_hash: int
    deleted: bool
    patients: tuple[str, ...]


class Draft(msgspec.Struct, kw_only=True):
    """A version that will be written."""

    key: Key
    version_id: int
    before: "Head | Draft | None"
    """The version that it supersedes, None for the first one."""
    resource: Resource | None
    """None for a deletion."""
    patients: tuple[str, ...]
    """A deletion keeps those of the version before it, so that it reaches the same exports."""
    content_hash: int
    ended: bool = False
    """Whether a later change of the same write supersedes it."""
    seq: int = 0
    line: bytes | None = None
    line_hash: int = 0

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.resource is None

    def stamp(self, instant: datetime) -> None:
        """Set the line and its hash, unless it is a deletion."""
        if self.resource is not None:
            self.line = self.resource.stamped(self.version_id, instant)
            self.line_hash = line_hash(self.line)

    @property
    def size(self) -> int:
        """The length of its content in bytes, 0 for a deletion."""
        return len(self.line or b"")


class Outcome(NamedTuple):
    """The outcome of one change."""

    decision: Decision
    current: Head | Draft | None
    """The version that is current after the change."""

    def applied(self, instant: datetime) -> AppliedChange:
        """Return the outcome for the contract; `instant` is that of the write."""
        last_updated = None
        if isinstance(self.current, Head):
            last_updated = from_stamp(self.current.since_stamp)
        elif self.current is not None:
            last_updated = instant
        return self.decision.applied(last_updated)


class Drafting:
    """Applies changes in order to the newest versions of resources, in memory."""

    def __init__(self, heads: Mapping[Key, Head]) -> None:
        self.drafts: list[Draft] = []
        self._latest: dict[Key, Head | Draft] = dict(heads)

    def apply(self, change: Put | Delete, key: Key) -> Outcome:
        """
        Add the draft that a change results in, if any, and return its outcome.

        Raises:
            VersionConflict: The change's `if_match` is not the current version.
        """
        current = self._latest.get(key)
        decision = decide(change, current)
        if not decision.makes_version:
            return Outcome(decision, current)
        if isinstance(current, Draft):
            current.ended = True
        resource = change.resource if isinstance(change, Put) else None
        before = () if current is None else current.patients
        draft = Draft(
            key=key,
            version_id=decision.version_id,
            before=current,
            resource=resource,
            patients=before if resource is None else resource.patients,
            content_hash=0 if resource is None else resource.content_hash,
        )
        self.drafts.append(draft)
        self._latest[key] = draft
        return Outcome(decision, draft)


def head_of(version: Mapping[str, Any]) -> Head:
    """Return the head of a document of a newest version."""
    return Head(
        seq=version["_id"],
        since_stamp=version["s"],
        content_hash=to_unsigned(version["g"]),
        version_id=version["v"],
        size=version["n"],
        line_hash=version["h"],
        deleted=version["d"],
        patients=tuple(version["p"]),
    )
