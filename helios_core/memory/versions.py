"""Versions as the memory provider keeps them: which one shows, and how one is added."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import xxhash

from helios_core.fhir.resources import Resource
from helios_core.model.exports import ExportView, Level
from helios_core.storage.changes import decide
from helios_core.storage.data_provider import AppliedChange, Delete, Put, StoredVersion


class MemoryVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version with what the provider knows beside it."""

    stored: StoredVersion
    patients: tuple[str, ...]
    """A deletion keeps those of the version it ends, so that it reaches the same exports."""
    content_hash: int
    checksum: int
    """Of the line as it was written; a line that no longer agrees is damaged."""

    @property
    def version_id(self) -> int:
        """Its number."""
        return self.stored.version_id

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.stored.content is None

    @property
    def intact(self) -> bool:
        """Whether the content is what was written; a deletion has none."""
        line = self.stored.content
        return line is None or xxhash.xxh3_64_intdigest(line) == self.checksum


def current_version(
    versions: Sequence[MemoryVersion], at: datetime | None
) -> MemoryVersion | None:
    """Return the version that is current at an instant; None is now."""
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


def apply_change(
    change: Put | Delete, versions: list[MemoryVersion], stamp: datetime
) -> AppliedChange:
    """
    Append the version a change makes, if it makes one.

    Raises:
        VersionConflict: The change named another version than the current one.
    """
    decision = decide(change, versions[-1] if versions else None)
    if decision.makes_version:
        if isinstance(change, Put):
            versions.append(_stored(change.resource, decision.version_id, stamp))
        else:
            versions.append(_deletion(versions[-1], decision.version_id, stamp))
    return AppliedChange(
        outcome=decision.outcome,
        version_id=decision.version_id,
        last_updated=versions[-1].stored.last_updated if versions else None,
    )


def _stored(resource: Resource, version_id: int, stamp: datetime) -> MemoryVersion:
    content = resource.stamped(version_id, stamp)
    return MemoryVersion(
        stored=StoredVersion(
            resource_type=resource.resource_type,
            id=resource.id,
            version_id=version_id,
            last_updated=stamp,
            content=content,
        ),
        patients=resource.patients,
        content_hash=resource.content_hash,
        checksum=xxhash.xxh3_64_intdigest(content),
    )


def _deletion(ended: MemoryVersion, version_id: int, stamp: datetime) -> MemoryVersion:
    stored = msgspec.structs.replace(
        ended.stored, version_id=version_id, last_updated=stamp, content=None
    )
    return msgspec.structs.replace(ended, stored=stored)
