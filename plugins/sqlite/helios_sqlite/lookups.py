"""Lookups: single resources and versions, and many resources by their ids."""

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime

import msgspec

from helios_core import (
    Batch,
    Damaged,
    ExportView,
    ResourceKey,
    StoredVersion,
    TypeKey,
    collection_range,
    damage_of,
    is_line_of,
    line_hash,
    read_statements,
    to_unsigned,
    verified_version,
)
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_sqlite.collections import NOWHERE, find_collection
from helios_sqlite.errors import damaged
from helios_sqlite.views import shown_by

_SQL = read_statements("helios_sqlite", "lookups")


Row = tuple[int, str, int, int, int, int, bytes | None]


def get(
    connection: sqlite3.Connection, key: ResourceKey, *, at: datetime | None
) -> StoredVersion | None:
    """Return the version that was current at an instant (None: now), or None without one."""
    stamp = FOREVER if at is None else to_stamp(at)
    parameters = (_collection(connection, key.type), key.id, stamp)
    return _one(key.resource_type, connection.execute(_SQL["at"], parameters).fetchone())


def get_version(
    connection: sqlite3.Connection, key: ResourceKey, version_id: int
) -> StoredVersion | None:
    """Return one version, or None."""
    parameters = (_collection(connection, key.type), key.id, version_id)
    return _one(key.resource_type, connection.execute(_SQL["version"], parameters).fetchone())


def history(
    connection: sqlite3.Connection, key: ResourceKey, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Return at most `count` versions below `before`, newest first."""
    below = FOREVER if before is None else before
    rows = connection.execute(
        _SQL["history"], (_collection(connection, key.type), key.id, below, count)
    )
    return [stored_version(key.resource_type, row) for row in rows]


def missing(
    connection: sqlite3.Connection, key: TypeKey, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that belong to no resource live at an instant (None: now)."""
    parameters = {
        "ids": json.dumps(list(ids)),
        "collection": _collection(connection, key),
        "at": FOREVER if at is None else to_stamp(at),
    }
    live = {resource_id for (resource_id,) in connection.execute(_SQL["live_at"], parameters)}
    return set(ids) - live


def among(
    connection: sqlite3.Connection, view: ExportView, resource_type: str, ids: Collection[str]
) -> set[str]:
    """Return those of `ids` that a view shows."""
    collection = find_collection(connection, TypeKey.of(view.request, resource_type))
    if collection is None:
        return set()
    shown = msgspec.structs.asdict(shown_by(view, collection, collection_range(collection)))
    rows = connection.execute(_SQL["among"], shown | {"ids": json.dumps(list(ids))})
    if view.cohort is None:
        return {resource_id for resource_id, _ in rows}
    disjoint = view.cohort.patients.isdisjoint
    return {resource_id for resource_id, patients in rows if not disjoint(patients.split())}


def fetch(
    connection: sqlite3.Connection, key: TypeKey, ids: Collection[str], *, at: datetime
) -> Batch:
    """Return the resources of `ids` that are live at an instant, in the order of `ids`."""
    lines = list[bytes]()
    digests = list[int]()
    damaged = list[Damaged]()
    number = find_collection(connection, key) or NOWHERE
    parameters = {"ids": json.dumps(list(ids)), "collection": number, "at": to_stamp(at)}
    for resource_id, size, stored_hash, line in connection.execute(_SQL["fetch"], parameters):
        if (
            line is None
            or len(line) != size
            or line_hash(line) != stored_hash
            or not is_line_of(line, key.resource_type, resource_id)
        ):
            damaged.append(damage_of(key.resource_type, resource_id, line))
        else:
            lines.append(line)
            digests.append(to_unsigned(stored_hash))
    return Batch(lines=lines, damaged=damaged, digests=digests)


def _collection(connection: sqlite3.Connection, key: TypeKey) -> int:
    return find_collection(connection, key) or NOWHERE


def _one(resource_type: str, row: Row | None) -> StoredVersion | None:
    return None if row is None else stored_version(resource_type, row)


_TYPES = (int, str, int, int, int, int, bytes | None)
"""The types of the columns of a row, which damage may have changed."""


def stored_version(resource_type: str, row: Row) -> StoredVersion:
    """
    Return the version of a row.

    Raises:
        BackendError: The row is damaged.
    """
    _, resource_id, version_id, since_stamp, deleted, stored_hash, content = row
    if not all(map(isinstance, row, _TYPES)):
        raise damaged("columns of a version have wrong types")
    version = StoredVersion(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        last_updated=from_stamp(since_stamp),
        content=content,
    )
    return verified_version(version, deleted=bool(deleted), stored_hash=stored_hash)
