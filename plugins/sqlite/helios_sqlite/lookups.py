"""Find single resources and their versions."""

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime

import msgspec

from helios_core import StoredVersion, verified_version
from helios_core.fhir import FOREVER, FHIRVersion, from_stamp, to_stamp
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


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one resource is looked for."""

    tenant: str
    fhir_version: FHIRVersion
    resource_type: str
    id: str


def get(
    connection: sqlite3.Connection, place: Place, *, at: datetime | None
) -> StoredVersion | None:
    """Give the version current at an instant, None for now."""
    stamp = FOREVER if at is None else to_stamp(at)
    key = (_scope(connection, place), place.id, stamp)
    return _one(place.resource_type, connection.execute(_AT, key).fetchone())


def get_version(
    connection: sqlite3.Connection, place: Place, version_id: int
) -> StoredVersion | None:
    """Give one version."""
    key = (_scope(connection, place), place.id, version_id)
    return _one(place.resource_type, connection.execute(_VERSION, key).fetchone())


def history(
    connection: sqlite3.Connection, place: Place, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Give versions below `before`, newest first."""
    below = FOREVER if before is None else before
    key = (_scope(connection, place), place.id, below, count)
    return [stored_version(place.resource_type, row) for row in connection.execute(_HISTORY, key)]


def missing(
    connection: sqlite3.Connection,
    scope: tuple[str, FHIRVersion, str],
    ids: Collection[str],
    *,
    at: datetime | None,
) -> set[str]:
    """Give those of `ids` that no live resource has at an instant."""
    parameters = {
        "ids": json.dumps(list(ids)),
        "scope": find_scope(connection, *scope) or NOWHERE,
        "at": FOREVER if at is None else to_stamp(at),
    }
    return set(ids) - {found for (found,) in connection.execute(_LIVE_AT, parameters)}


def _scope(connection: sqlite3.Connection, place: Place) -> int:
    found = find_scope(connection, place.tenant, place.fhir_version, place.resource_type)
    return found or NOWHERE


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
