"""Lookups: single resources and versions, and many resources by their ids."""

from collections.abc import AsyncIterator, Collection, Iterable
from datetime import datetime
from itertools import islice

from bson.int64 import Int64

from helios_core import (
    Batch,
    Damaged,
    ExportView,
    StoredVersion,
    damage_of,
    line_hash,
    to_unsigned,
    verified_version,
)
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_mongodb.contents import content_of
from helios_mongodb.databases import Database, Document
from helios_mongodb.errors import translated
from helios_mongodb.views import live_at, shown_by

IDS_AT_ONCE = 5000
"""How many ids one query has at most."""

LIVE: Document = {"u": FOREVER, "d": False}


async def stored_version(
    database: Database, resource_type: str, version: Document
) -> StoredVersion:
    """
    Return the version of a document, with its content.

    Raises:
        BackendError: The content is missing or damaged.
    """
    content = None if version["d"] else await content_of(database["chunks"], version)
    stored = StoredVersion(
        resource_type=resource_type,
        id=version["i"],
        version_id=version["v"],
        last_updated=from_stamp(version["s"]),
        content=content,
    )
    return verified_version(stored, deleted=version["d"], stored_hash=version["h"])


async def get(
    database: Database, collection: int, resource_id: str, *, at: datetime | None
) -> Document | None:
    """Return the version that was current at an instant (None: now), or None without one."""
    condition: Document = {"c": collection, "i": resource_id}
    if at is not None:
        condition["s"] = {"$lte": Int64(to_stamp(at))}
    return await database["versions"].find_one(condition, sort=[("v", -1)])


async def history(
    database: Database, collection: int, resource_id: str, *, count: int, before: int | None
) -> list[Document]:
    """Return at most `count` versions below `before`, newest first."""
    condition: Document = {"c": collection, "i": resource_id}
    if before is not None:
        condition["v"] = {"$lt": Int64(before)}
    # For `find`, a limit of 0 means no limit.
    found = database["versions"].find(condition).sort("v", -1).limit(count)
    return await found.to_list() if count > 0 else []


async def live(
    database: Database, collection: int, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that belong to resources live at an instant (None: now)."""
    when = LIVE if at is None else live_at(to_stamp(at))
    return {version["i"] async for version in _of_ids(database, collection, ids, when, {"i": 1})}


async def among(
    database: Database, collection: int, view: ExportView, ids: Collection[str]
) -> set[str]:
    """Return those of `ids` that a view shows."""
    found = _of_ids(database, collection, ids, shown_by(view), {"i": 1, "p": 1})
    patients = None if view.cohort is None else view.cohort.patients
    return {
        version["i"]
        async for version in found
        if patients is None or not patients.isdisjoint(version["p"])
    }


async def fetch(
    database: Database, of_type: tuple[int, str], ids: Collection[str], *, at: datetime
) -> Batch:
    """Return the resources of `ids` that are live at an instant, in the order of `ids`."""
    collection, resource_type = of_type
    found = dict[str, tuple[bytes | None, int]]()
    async for version in _of_ids(database, collection, ids, live_at(to_stamp(at)), None):
        with translated():
            content = await content_of(database["chunks"], version)
        found[version["i"]] = (content, version["h"])
    lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
    for resource_id in ids:
        if resource_id not in found:
            continue
        line, stored_hash = found[resource_id]
        if line is None or line_hash(line) != stored_hash:
            damaged.append(damage_of(resource_type, resource_id, line))
        else:
            lines.append(line)
            digests.append(to_unsigned(stored_hash))
    return Batch(lines=lines, damaged=damaged, digests=digests)


async def _of_ids(
    database: Database,
    collection: int,
    ids: Iterable[str],
    when: Document,
    fields: dict[str, int] | None,
) -> AsyncIterator[Document]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, IDS_AT_ONCE)):
        condition = {"c": collection, "i": {"$in": chunk}} | when
        with translated():
            async for version in database["versions"].find(condition, fields):
                yield version
