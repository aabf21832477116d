"""Find single resources and their versions, and many of them by their ids."""

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
from helios_s3.encoding import Found, collection_of
from helios_s3.reading import checked
from helios_s3.rows import Rows, current_at
from helios_s3.views import shown_by


async def get(rows: Rows, key: ResourceKey, *, at: datetime | None) -> StoredVersion | None:
    """Return the version current at an instant, None for now."""
    found = await _current(rows, key.type, [key.id], at)
    return None if not found else (await stored_versions(rows, key.type, found))[0]


async def get_version(rows: Rows, key: ResourceKey, version_id: int) -> StoredVersion | None:
    """Return one version."""
    found = [each for each in await _versions(rows, key) if each.row.version_id == version_id]
    return None if not found else (await stored_versions(rows, key.type, found))[0]


async def history(
    rows: Rows, key: ResourceKey, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Return versions below `before`, newest first."""
    below = FOREVER if before is None else before
    found = [each for each in await _versions(rows, key) if each.row.version_id < below]
    return await stored_versions(rows, key.type, found[::-1][:count])


async def missing(
    rows: Rows, key: TypeKey, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that no live resource has at an instant."""
    found = await _current(rows, key, ids, at)
    return {*ids} - {each.row.id for each in found if not each.row.deleted}


async def among(
    rows: Rows, view: ExportView, resource_type: str, ids: Collection[str]
) -> set[str]:
    """Return those of `ids` that a view shows."""
    shown, key = shown_by(view), TypeKey.of(view.request, resource_type)
    found = await _current(rows, key, ids, view.transaction_time)
    return {each.row.id for each in found if not each.row.deleted and shown.shows(each.row)}


async def fetch(rows: Rows, key: TypeKey, ids: Collection[str], *, at: datetime) -> Batch:
    """Return those of `ids` that are live at an instant, in their order (P6)."""
    found = {
        each.row.id: each for each in await _current(rows, key, ids, at) if not each.row.deleted
    }
    live = [found[resource_id] for resource_id in ids if resource_id in found]
    lines = await rows.lines(collection_of(key), live)
    return await in_thread(checked, key.resource_type, live, lines)


async def stored_versions(rows: Rows, key: TypeKey, found: Sequence[Found]) -> list[StoredVersion]:
    """
    Return versions as they were written, deletions among them.

    Raises:
        BackendError: One is not what was written.
    """
    live = [each for each in found if not each.row.deleted]
    lines = iter(await rows.lines(collection_of(key), live))
    return [
        verified_version(
            StoredVersion(
                resource_type=key.resource_type,
                id=each.row.id,
                version_id=each.row.version_id,
                last_updated=from_stamp(each.row.stamp),
                content=None if each.row.deleted else next(lines),
            ),
            deleted=each.row.deleted,
            stored_hash=each.row.line_hash,
        )
        for each in found
    ]


async def _versions(rows: Rows, key: ResourceKey) -> list[Found]:
    await rows.log.ensure(None)
    return (await rows.find(collection_of(key), [key.id])).get(key.id, [])


async def _current(
    rows: Rows, key: TypeKey, ids: Collection[str], at: datetime | None
) -> list[Found]:
    """Return of each id the row current at an instant, deletions included."""
    stamp = None if at is None else to_stamp(at)
    await rows.log.ensure(stamp)
    versions = await rows.find(collection_of(key), ids)
    last = FOREVER if stamp is None else stamp
    return [each for found in versions.values() for each in current_at(found, last)]
