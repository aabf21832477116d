"""Lookups: single resources and versions, and many resources by their ids."""

from collections.abc import Collection, Sequence
from datetime import datetime

from helios_core import (
    Batch,
    ExportView,
    ResourceKey,
    StoredVersion,
    TypeKey,
    in_thread,
    verified_version,
)
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_s3.encoding import StoredRow, collection_of
from helios_s3.reading import checked
from helios_s3.rows import Rows, current_at
from helios_s3.views import shown_by


async def get(rows: Rows, key: ResourceKey, *, at: datetime | None) -> StoredVersion | None:
    """Return the version that was current at an instant (None: now), or None without one."""
    found = await _current(rows, key.type, [key.id], at)
    return None if not found else (await stored_versions(rows, key.type, found))[0]


async def get_version(rows: Rows, key: ResourceKey, version_id: int) -> StoredVersion | None:
    """Return one version, or None."""
    found = [
        stored for stored in await _versions(rows, key) if stored.row.version_id == version_id
    ]
    return None if not found else (await stored_versions(rows, key.type, found))[0]


async def history(
    rows: Rows, key: ResourceKey, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Return at most `count` versions below `before`, newest first."""
    below = FOREVER if before is None else before
    found = [stored for stored in await _versions(rows, key) if stored.row.version_id < below]
    return await stored_versions(rows, key.type, found[::-1][:count])


async def missing(
    rows: Rows, key: TypeKey, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that belong to no resource live at an instant (None: now)."""
    found = await _current(rows, key, ids, at)
    return {*ids} - {stored.row.id for stored in found if not stored.row.deleted}


async def among(
    rows: Rows, view: ExportView, resource_type: str, ids: Collection[str]
) -> set[str]:
    """Return those of `ids` that a view shows."""
    shown, key = shown_by(view), TypeKey.of(view.request, resource_type)
    found = await _current(rows, key, ids, view.transaction_time)
    return {
        stored.row.id for stored in found if not stored.row.deleted and shown.shows(stored.row)
    }


async def fetch(rows: Rows, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
    """Return the resources of `ids` that are live at an instant, in the order of `ids` (P6)."""
    found = {
        stored.row.id: stored
        for stored in await _current(rows, key, ids, at)
        if not stored.row.deleted
    }
    live = [found[resource_id] for resource_id in ids if resource_id in found]
    lines = await rows.lines(collection_of(key), live)
    return await in_thread(checked, key.resource_type, live, lines)


async def stored_versions(
    rows: Rows, key: TypeKey, found: Sequence[StoredRow]
) -> list[StoredVersion]:
    """
    Return the versions of rows, with their contents.

    Raises:
        BackendError: A version is damaged.
    """
    live = [stored for stored in found if not stored.row.deleted]
    lines = iter(await rows.lines(collection_of(key), live))
    return [
        verified_version(
            StoredVersion(
                resource_type=key.resource_type,
                id=stored.row.id,
                version_id=stored.row.version_id,
                last_updated=from_stamp(stored.row.stamp),
                content=None if stored.row.deleted else next(lines),
            ),
            deleted=stored.row.deleted,
            stored_hash=stored.row.line_hash,
        )
        for stored in found
    ]


async def _versions(rows: Rows, key: ResourceKey) -> list[StoredRow]:
    await rows.log.ensure(None)
    return (await rows.find(collection_of(key), [key.id])).get(key.id, [])


async def _current(
    rows: Rows, key: TypeKey, ids: Collection[str], at: datetime | None
) -> list[StoredRow]:
    """Return the row of stored id that was current at an instant, deletions included."""
    stamp = None if at is None else to_stamp(at)
    await rows.log.ensure(stamp)
    versions = await rows.find(collection_of(key), ids)
    last = FOREVER if stamp is None else stamp
    return [stored for found in versions.values() for stored in current_at(found, last)]
