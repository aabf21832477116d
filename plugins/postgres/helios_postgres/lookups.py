"""Lookups: single resources and versions, and many resources by their ids."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from asyncpg import Record

from helios_core import (
    Batch,
    Damaged,
    ExportView,
    StoredVersion,
    damage_of,
    line_hash,
    read_statements,
    to_unsigned,
    verified_version,
)
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_postgres.connections import Connection
from helios_postgres.views import shown_by

_SQL = read_statements("helios_postgres", "lookups")

HIGHEST_VERSION = (1 << 31) - 1

Numbered: TypeAlias = tuple[int, str]
"""The number of a collection, and its resource type."""


async def get(
    connection: Connection, collection: Numbered, resource_id: str, *, at: datetime | None
) -> StoredVersion | None:
    """Return the version that was current at an instant (None: now), or None without one."""
    stamp = FOREVER if at is None else to_stamp(at)
    row = await connection.fetchrow(_SQL["get"], collection[0], [resource_id], stamp)
    return None if row is None else stored_version(collection[1], row)


async def history(
    connection: Connection,
    collection: Numbered,
    resource_id: str,
    *,
    count: int,
    before: int | None,
) -> list[StoredVersion]:
    """Return at most `count` versions below `before`, newest first."""
    below = HIGHEST_VERSION if before is None else min(before, HIGHEST_VERSION)
    rows = await connection.fetch(_SQL["history"], collection[0], resource_id, below, count)
    return [stored_version(collection[1], row) for row in rows]


async def live(
    connection: Connection, collection: int, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Return those of `ids` that belong to resources live at an instant (None: now)."""
    stamp = FOREVER if at is None else to_stamp(at)
    return {
        resource_id
        for (resource_id,) in await connection.fetch(
            _SQL["live_ids"], collection, list(ids), stamp
        )
    }


async def fetch(
    connection: Connection, collection: Numbered, ids: Collection[str], *, at: datetime
) -> Batch:
    """Return the resources of `ids` that are live at an instant, in the order of `ids`."""
    lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
    for resource_id, stored_hash, line in await connection.fetch(
        _SQL["fetch"], collection[0], list(ids), to_stamp(at)
    ):
        if line is None or line_hash(line) != stored_hash:
            damaged.append(damage_of(collection[1], resource_id, line))
        else:
            lines.append(line)
            digests.append(to_unsigned(stored_hash))
    return Batch(lines=lines, damaged=damaged, digests=digests)


async def among(
    connection: Connection, collection: int, view: ExportView, ids: Collection[str]
) -> set[str]:
    """Return those of `ids` that a view shows."""
    shown = shown_by(view)
    bounds = (shown.at, shown.since, shown.until, shown.all_resources)
    rows: Sequence[Record] = await connection.fetch(_SQL["among"], collection, list(ids), *bounds)
    if view.cohort is None:
        return {resource_id for resource_id, _ in rows}
    disjoint = view.cohort.patients.isdisjoint
    return {resource_id for resource_id, patients in rows if not disjoint(patients.split())}


def stored_version(resource_type: str, row: Iterable[Any]) -> StoredVersion:
    """
    Return the version of a row.

    Raises:
        BackendError: The content is missing or damaged.
    """
    resource_id, version_id, since_stamp, deleted, stored_hash, content = row
    version = StoredVersion(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        last_updated=from_stamp(since_stamp),
        content=content,
    )
    return verified_version(version, deleted=bool(deleted), stored_hash=stored_hash)
