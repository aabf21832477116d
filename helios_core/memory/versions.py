"""Versions as the memory provider stores them: which ones a view shows, and how one is added."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

import msgspec
import xxhash

from helios_core.fhir.instants import to_stamp
from helios_core.fhir.resources import Resource
from helios_core.model.exports import ExportView, Level
from helios_core.storage.changes import decide
from helios_core.storage.data_provider import (
    AppliedChange,
    Delete,
    Put,
    StoredVersion,
    VersionPage,
    VersionQuery,
)
from helios_core.storage.page_tokens import (
    PageBuilder,
    VersionPosition,
    make_version_token,
    parse_version_token,
)


class MemoryVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A stored version with what the provider knows about it."""

    stored: StoredVersion
    patients: tuple[str, ...]
    """A deletion has those of the version that it ends, so that the same exports show it."""
    content_hash: int
    checksum: int
    """The hash of the line when it was written; a line with another one is damaged."""

    @property
    def version_id(self) -> int:
        """The number of the version."""
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


def version_page(
    histories: Iterable[Sequence[MemoryVersion]],
    query: VersionQuery,
    *,
    count: int,
    after: str | None,
) -> VersionPage:
    """
    Return a page of the versions that a query requests, newest first.

    The number in a page's token is how many versions of the same instant come before. All versions
    of one instant were written at once, so that it stays the same.

    Raises:
        InvalidParameter: `after` is not the `next` of a page.
    """
    last = None if after is None else parse_version_token(after)
    requested = [version for versions in histories for version in _requested(versions, query)]
    requested.sort(key=_newest_first)
    page = PageBuilder(count)
    position = VersionPosition(0, 0)
    for stamp, group in groupby(requested, key=lambda stored: to_stamp(stored.last_updated)):
        for number, stored in enumerate(group):
            if last is not None and (-stamp, number) <= (-last.stamp, last.number):
                continue
            if not page.add(stored):
                return VersionPage(versions=page.found, next=make_version_token(position))
            position = VersionPosition(stamp, number)
    return VersionPage(versions=page.found, next=None)


def _requested(versions: Sequence[MemoryVersion], query: VersionQuery) -> Iterator[StoredVersion]:
    """Yield those versions of one resource that a query requests."""
    for index, version in enumerate(versions):
        stored = version.stored
        if stored.last_updated > query.until:
            return
        if query.since is not None and stored.last_updated < query.since:
            continue
        if query.current_from is not None and stored.last_updated < query.current_from:
            following = versions[index + 1 : index + 2]
            ended = any(v.stored.last_updated <= query.current_from for v in following)
            if ended or version.deleted:
                continue
        yield stored


def _newest_first(stored: StoredVersion) -> tuple[int, str, str, int]:
    newest = -to_stamp(stored.last_updated)
    return newest, stored.resource_type, stored.id, -stored.version_id


def is_shown(view: ExportView, version: MemoryVersion) -> bool:
    """Return whether a view covers the change that made a version, which may be a deletion."""
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
    Append the version that a change makes, if it makes one.

    Raises:
        VersionConflict: `if_match` of the change is not the current version.
    """
    decision = decide(change, versions[-1] if versions else None)
    if decision.makes_version:
        if isinstance(change, Put):
            versions.append(_stored(change.resource, decision.version_id, stamp))
        else:
            versions.append(_deletion(versions[-1], decision.version_id, stamp))
    return decision.applied(versions[-1].stored.last_updated if versions else None)


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
