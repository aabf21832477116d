"""Find single resources and their versions, and many of them by their ids."""

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
"""How many ids are asked for together."""

LIVE: Document = {"u": FOREVER, "d": False}


async def stored_version(
    database: Database, resource_type: str, version: Document
) -> StoredVersion:
    """
    Return a version as it was written.

    Raises:
        BackendError: It is not what was written.
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
    """Return the version current at an instant, None for now."""
    condition: Document = {"c": collection, "i": resource_id}
    if at is not None:
        condition["s"] = {"$lte": Int64(to_stamp(at))}
    return await database["versions"].find_one(condition, sort=[("v", -1)])


async def history(
    database: Database, collection: int, resource_id: str, *, count: int, before: int | None
) -> list[Document]:
    """Return versions below `before`, newest first."""
    condition: Document = {"c": collection, "i": resource_id}
    if before is not None:
        condition["v"] = {"$lt": Int64(before)}
    # Find takes a limit of 0 for none.
    found = database["versions"].find(condition).sort("v", -1).limit(count)
    return await found.to_list() if count > 0 else []


async def live(
    database: Database, collection: int, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that a live resource has at an instant."""
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
    database: Database, place: tuple[int, str], ids: Collection[str], *, at: datetime
) -> Batch:
    """Return those of `ids` that are live at an instant, in their order."""
    collection, resource_type = place
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
    left = iter(ids)
    while some := list(islice(left, IDS_AT_ONCE)):
        condition = {"c": collection, "i": {"$in": some}} | when
        with translated():
            async for version in database["versions"].find(condition, fields):
                yield version
