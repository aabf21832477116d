"""Versions as the memory provider keeps them: which one shows, and how one is added."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import xxhash

from helios_core.errors import VersionConflict
from helios_core.model.exports import ExportView, Level
from helios_core.storage.data_provider import (
    AppliedChange,
    ChangeResult,
    Delete,
    Put,
    StoredVersion,
)


class MemoryVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version with what the provider knows beside it."""

    stored: StoredVersion
    patients: tuple[str, ...]
    """A deletion keeps those of the version it ends, so that it reaches the same exports."""
    content_hash: int | None
    checksum: int
    """Of the line as it was written; a line that no longer agrees is damaged."""

    @property
    def intact(self) -> bool:
        """Whether the content is what was written; a deletion has none."""
        line = self.stored.content
        return line is None or xxhash.xxh3_64_intdigest(line) == self.checksum


def current_version(
    versions: Sequence[MemoryVersion], at: datetime | None
) -> MemoryVersion | None:
    """Give the version current at an instant; None is now."""
    for version in reversed(versions):
        if at is None or version.stored.last_updated <= at:
            return version
    return None


def is_shown(view: ExportView, version: MemoryVersion) -> bool:
    """Whether a view takes in the change that made a version, be it a deletion."""
    since, until = view.request.since, view.request.until
    if since is not None and version.stored.last_updated <= since:
        return False
    if until is not None and version.stored.last_updated >= until:
        return False
    if view.cohort is not None:
        return not view.cohort.patients.isdisjoint(version.patients)
    return view.request.level is Level.SYSTEM or bool(version.patients)


def change_target(change: Put | Delete) -> tuple[str, str]:
    """Give the type and id of the resource a change is about."""
    if isinstance(change, Put):
        return change.resource.resource_type, change.resource.id
    return change.resource_type, change.id


def apply_change(
    change: Put | Delete, versions: list[MemoryVersion], stamp: datetime
) -> AppliedChange:
    """
    Append the version a change makes, if it makes one.

    Raises:
        VersionConflict: The change named another version than the current one.
    """
    _check(change, versions)
    live = bool(versions) and versions[-1].stored.content is not None
    if isinstance(change, Put):
        if live and versions[-1].content_hash == change.resource.content_hash:
            return _applied(ChangeResult.UNCHANGED, versions)
        versions.append(_put(change, versions, stamp))
        return _applied(ChangeResult.UPDATED if live else ChangeResult.CREATED, versions)
    if not live:
        return _applied(ChangeResult.ABSENT, versions)
    versions.append(_deletion(versions[-1], stamp))
    return _applied(ChangeResult.DELETED, versions)


def _check(change: Put | Delete, versions: list[MemoryVersion]) -> None:
    current = versions[-1].stored.version_id if versions else 0
    if change.if_match is not None and change.if_match != current:
        raise VersionConflict(
            f"version {change.if_match} was expected to be current, but it is {current};"
            " read the resource again and repeat the change"
        )


def _put(change: Put, versions: list[MemoryVersion], stamp: datetime) -> MemoryVersion:
    resource = change.resource
    content = resource.stamped(len(versions) + 1, stamp)
    return MemoryVersion(
        stored=StoredVersion(
            resource_type=resource.resource_type,
            id=resource.id,
            version_id=len(versions) + 1,
            last_updated=stamp,
            content=content,
        ),
        patients=resource.patients,
        content_hash=resource.content_hash,
        checksum=xxhash.xxh3_64_intdigest(content),
    )


def _deletion(ended: MemoryVersion, stamp: datetime) -> MemoryVersion:
    stored = msgspec.structs.replace(
        ended.stored,
        version_id=ended.stored.version_id + 1,
        last_updated=stamp,
        content=None,
    )
    return msgspec.structs.replace(ended, stored=stored, content_hash=None)


def _applied(outcome: ChangeResult, versions: list[MemoryVersion]) -> AppliedChange:
    if not versions:
        return AppliedChange(outcome=outcome, version_id=0, last_updated=None)
    current = versions[-1].stored
    return AppliedChange(
        outcome=outcome, version_id=current.version_id, last_updated=current.last_updated
    )
