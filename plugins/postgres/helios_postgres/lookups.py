"""Find single resources and their versions, and many of them by their ids."""

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
    to_unsigned,
    verified_version,
)
from helios_core.fhir import FOREVER, from_stamp, to_stamp
from helios_postgres.connections import Connection
from helios_postgres.views import shown_by

# Current at an instant is the newest version if it is as old as that, or else the first one that
# ended later.
_SEQ_AT = """
  SELECT r.seq FROM resources AS r
  WHERE r.scope = $1 AND r.id = w.id AND r.since_stamp <= $3
  UNION ALL
  (SELECT e.seq FROM endings AS e
  WHERE e.scope = $1 AND e.id = w.id AND e.until_stamp > $3
  ORDER BY e.version_id LIMIT 1)
"""
_AT = f"""
FROM unnest($2::text[]) WITH ORDINALITY AS w (id, place)
CROSS JOIN LATERAL ({_SEQ_AT} LIMIT 1) AS s
JOIN versions AS v ON v.seq = s.seq
WHERE v.since_stamp <= $3
"""
_VERSION = "SELECT v.id, v.version_id, v.since_stamp, v.deleted, v.line_hash, v.content "
_GET = _VERSION + _AT
_LIVE_IDS = "SELECT v.id " + _AT + " AND NOT v.deleted"
_FETCH = "SELECT v.id, v.line_hash, v.content " + _AT + " AND NOT v.deleted ORDER BY w.place"
_AMONG = (
    "SELECT v.id, v.patients "
    + _AT
    + " AND NOT v.deleted AND v.since_stamp > $4 AND v.since_stamp < $5"
    + " AND ($6 OR v.patients <> '')"
)
_ALL_SEQS = """
  SELECT r.seq, r.version_id FROM resources AS r
  WHERE r.scope = $1 AND r.id = $2 AND r.version_id < $3
  UNION ALL
  (SELECT e.seq, e.version_id FROM endings AS e
  WHERE e.scope = $1 AND e.id = $2 AND e.version_id < $3
  ORDER BY e.version_id DESC LIMIT $4)
"""
_HISTORY = f"""
{_VERSION} FROM (SELECT * FROM ({_ALL_SEQS}) AS a ORDER BY version_id DESC LIMIT $4) AS s
JOIN versions AS v ON v.seq = s.seq ORDER BY s.version_id DESC
"""  # noqa: S608 - put together from constants
HIGHEST_VERSION = (1 << 31) - 1

Scope: TypeAlias = tuple[int, str]
"""The number of a scope, and its resource type."""


async def get(
    connection: Connection, scope: Scope, resource_id: str, *, at: datetime | None
) -> StoredVersion | None:
    """Give the version current at an instant, None for now."""
    stamp = FOREVER if at is None else to_stamp(at)
    row = await connection.fetchrow(_GET, scope[0], [resource_id], stamp)
    return None if row is None else stored_version(scope[1], row)


async def history(
    connection: Connection, scope: Scope, resource_id: str, *, count: int, before: int | None
) -> list[StoredVersion]:
    """Give at most `count` versions below `before`, newest first."""
    below = HIGHEST_VERSION if before is None else min(before, HIGHEST_VERSION)
    rows = await connection.fetch(_HISTORY, scope[0], resource_id, below, count)
    return [stored_version(scope[1], row) for row in rows]


async def live(
    connection: Connection, scope: int, ids: Collection[str], *, at: datetime | None
) -> set[str]:
    """Give those of `ids` that are live at an instant."""
    stamp = FOREVER if at is None else to_stamp(at)
    return {found for (found,) in await connection.fetch(_LIVE_IDS, scope, list(ids), stamp)}


async def fetch(
    connection: Connection, scope: Scope, ids: Collection[str], *, at: datetime
) -> Batch:
    """Give those of `ids` that are live at an instant, in the order asked for."""
    lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
    for found, stored_hash, line in await connection.fetch(
        _FETCH, scope[0], list(ids), to_stamp(at)
    ):
        if line is None or line_hash(line) != stored_hash:
            damaged.append(damage_of(scope[1], found, line))
        else:
            lines.append(line)
            digests.append(to_unsigned(stored_hash))
    return Batch(lines=lines, damaged=damaged, digests=digests)


async def among(
    connection: Connection, scope: int, view: ExportView, ids: Collection[str]
) -> set[str]:
    """Give those of `ids` that a view shows."""
    shown = shown_by(view)
    bounds = (shown.at, shown.since, shown.until, shown.everybody)
    rows: Sequence[Record] = await connection.fetch(_AMONG, scope, list(ids), *bounds)
    if view.cohort is None:
        return {found for found, _ in rows}
    strangers = view.cohort.patients.isdisjoint
    return {found for found, patients in rows if not strangers(patients.split())}


def stored_version(resource_type: str, row: Iterable[Any]) -> StoredVersion:
    """
    Give a version as it was written.

    Raises:
        BackendError: It is not what was written.
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
