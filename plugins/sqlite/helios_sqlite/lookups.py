"""Find single resources and their versions."""

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime

from helios_core import ResourceKey, StoredVersion, TypeKey, verified_version
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_sqlite.scopes import NOWHERE, find_scope

COLUMNS = "SELECT seq, id, version_id, since_stamp, deleted, line_hash, content FROM versions "
"""What `stored_version` makes a version of."""

_AT = COLUMNS + "WHERE scope = ? AND id = ? AND since_stamp <= ? ORDER BY version_id DESC LIMIT 1"
_VERSION = COLUMNS + "WHERE scope = ? AND id = ? AND version_id = ?"
_HISTORY = (
    COLUMNS + "WHERE scope = ? AND id = ? AND version_id < ? ORDER BY version_id DESC LIMIT ?"
)
_LIVE_AT = """
SELECT wanted.value FROM json_each(:ids) AS wanted
WHERE (
  SELECT NOT deleted FROM versions WHERE scope = :scope AND id = wanted.value
  AND since_stamp <= :at ORDER BY version_id DESC LIMIT 1
)
"""
Row = tuple[int, str, int, int, int, int, bytes | None]


def get(
    connection: sqlite3.Connection, key: ResourceKey, *, at: datetime | None
) -> StoredVersion | None:
    """Return the version current at an instant, None for now."""
    stamp = FOREVER if at is None else to_stamp(at)
    parameters = (_scope(connection, key.type), key.id, stamp)
    return _one(key.resource_type, connection.execute(_AT, parameters).fetchone())


def get_version(
    connection: sqlite3.Connection, key: ResourceKey, version_id: int
) -> StoredVersion | None:
    """Return one version."""
    parameters = (_scope(connection, key.type), key.id, version_id)
    return _one(key.resource_type, connection.execute(_VERSION, parameters).fetchone())


def history(
    connection: sqlite3.Connection, key: ResourceKey, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Return versions below `before`, newest first."""
    below = FOREVER if before is None else before
    rows = connection.execute(_HISTORY, (_scope(connection, key.type), key.id, below, count))
    return [stored_version(key.resource_type, row) for row in rows]


def missing(
    connection: sqlite3.Connection, key: TypeKey, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that no live resource has at an instant."""
    parameters = {
        "ids": json.dumps(list(ids)),
        "scope": _scope(connection, key),
        "at": FOREVER if at is None else to_stamp(at),
    }
    return set(ids) - {found for (found,) in connection.execute(_LIVE_AT, parameters)}


def _scope(connection: sqlite3.Connection, key: TypeKey) -> int:
    return find_scope(connection, key) or NOWHERE


def _one(resource_type: str, row: Row | None) -> StoredVersion | None:
    return None if row is None else stored_version(resource_type, row)


def stored_version(resource_type: str, row: Row) -> StoredVersion:
    """
    Give a version as it was written.

    Raises:
        BackendError: It is not what was written.
    """
    _, resource_id, version_id, since_stamp, deleted, stored_hash, content = row
    version = StoredVersion(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        last_updated=from_stamp(since_stamp),
        content=content,
    )
    return verified_version(version, deleted=bool(deleted), stored_hash=stored_hash)
