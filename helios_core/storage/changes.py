"""The effect of a change on a resource: the one rule for every store that can be written to."""

from datetime import datetime
from typing import Protocol

import msgspec

from helios_core.errors import VersionConflict
from helios_core.storage.data_provider import AppliedChange, ChangeResult, Delete, Put


class CurrentVersion(Protocol):
    """The newest version of a resource as a store keeps it; it may be a deletion."""

    @property
    def version_id(self) -> int:
        """Its number, from 1."""

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""

    @property
    def content_hash(self) -> int:
        """The `Resource.content_hash` of its content; not used for a deletion."""


class Decision(msgspec.Struct, frozen=True):
    """The effect of a change."""

    outcome: ChangeResult
    version_id: int
    """The version that is current after the change, 0 if there is none."""
    makes_version: bool
    """Whether that version has to be written; otherwise nothing changes."""

    def applied(self, last_updated: datetime | None) -> AppliedChange:
        """Return the result of the change; `last_updated` is that of the current version."""
        return AppliedChange(
            outcome=self.outcome, version_id=self.version_id, last_updated=last_updated
        )


def decide(change: Put | Delete, current: CurrentVersion | None) -> Decision:
    """
    Return the effect of a change on a resource.

    `current` is None if the resource has never had a version.

    Raises:
        VersionConflict: `if_match` is not the version that is current.
    """
    version_id = 0 if current is None else current.version_id
    if change.if_match is not None and change.if_match != version_id:
        raise VersionConflict(
            f"{_named(change.if_match)} was expected to be current, but {_named(version_id)} is;"
            " read the resource again and repeat the change"
        )
    live = current is not None and not current.deleted
    if isinstance(change, Delete):
        if not live:
            return Decision(ChangeResult.ABSENT, version_id, makes_version=False)
        return Decision(ChangeResult.DELETED, version_id + 1, makes_version=True)
    if current is None or not live:
        return Decision(ChangeResult.CREATED, version_id + 1, makes_version=True)
    if current.content_hash == change.resource.content_hash:
        return Decision(ChangeResult.UNCHANGED, version_id, makes_version=False)
    return Decision(ChangeResult.UPDATED, version_id + 1, makes_version=True)


def _named(version_id: int) -> str:
    return f"version {version_id}" if version_id else "no version"
