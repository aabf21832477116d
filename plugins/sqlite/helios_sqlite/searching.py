"""Find single resources, their versions, and pages of a search."""

import json
import re
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from datetime import datetime

import msgspec

from helios_core.data_providers import Bound, Page, Query, StoredVersion
from helios_core.errors import BackendError, InvalidParameter
from helios_core.fhir.versions import FHIRVersion
from helios_sqlite.clock import FOREVER, from_stamp, to_stamp
from helios_sqlite.hashes import line_hash
from helios_sqlite.ranges import Range, scope_range
from helios_sqlite.scopes import NOWHERE, find_scope
from helios_sqlite.views import first_after

_COLUMNS = "SELECT seq, id, version_id, since_stamp, deleted, line_hash, content FROM versions "
_AT = _COLUMNS + "WHERE scope = ? AND id = ? AND since_stamp <= ? ORDER BY version_id DESC LIMIT 1"
_VERSION = _COLUMNS + "WHERE scope = ? AND id = ? AND version_id = ?"
_HISTORY = (
    _COLUMNS + "WHERE scope = ? AND id = ? AND version_id < ? ORDER BY version_id DESC LIMIT ?"
)
_LIVE_AT = """
SELECT wanted.value FROM json_each(:ids) AS wanted
WHERE (
  SELECT NOT deleted FROM versions WHERE scope = :scope AND id = wanted.value
  AND since_stamp <= :at ORDER BY version_id DESC LIMIT 1
)
"""
_MATCHES = f"""
  AND until_stamp = {FOREVER} AND NOT deleted AND since_stamp BETWEEN :low AND :high
"""
_AMONG = "WHERE scope = :scope AND id IN (SELECT value FROM json_each(:ids)) "
_BY_ID = _COLUMNS + "WHERE scope = :scope AND id > :after" + _MATCHES + "ORDER BY id LIMIT :rows"
_BY_ID_AMONG = _COLUMNS + _AMONG + _MATCHES + "ORDER BY id LIMIT :rows"
_BY_SEQ = (
    _COLUMNS
    + "WHERE seq > :after AND seq >= :first AND seq < :end"
    + _MATCHES
    + "ORDER BY seq LIMIT :rows"
)
_COUNT_OF = "SELECT count(*) FROM versions "
_COUNT_AMONG = _COUNT_OF + _AMONG + _MATCHES
_COUNT = "SELECT total(live) FROM extents WHERE extent BETWEEN ? AND ?"

PAGE_BYTES = 16 * 1024 * 1024
"""Where a page ends before it is full, so that large resources do not pile up."""

_TOKEN = re.compile(r"id:([A-Za-z0-9\-.]{1,64})|seq:([0-9]{1,19})")

_Row = tuple[int, str, int, int, int, int, bytes | None]


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
    return [_stored(place.resource_type, row) for row in connection.execute(_HISTORY, key)]


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


def search(
    connection: sqlite3.Connection,
    scope: tuple[str, FHIRVersion, str],
    query: Query,
    *,
    count: int,
    after: str | None,
) -> Page:
    """
    Give a page of a search, by id, or by age where only lastUpdated is asked for.

    Raises:
        InvalidParameter: `after` is not something a page of this query gave.
    """
    searching = _Search(connection, find_scope(connection, *scope) or NOWHERE, query)
    rows = searching.rows(_after(after, by_seq=searching.by_seq), count + 1)
    with closing(rows):
        found, more = _page(query.resource_type, rows, count)
    following = searching.token(found[-1]) if more else None
    return Page(resources=[stored for _, stored in found], next=following, total=searching.total())


class _Search:
    """One query as SQL."""

    def __init__(self, connection: sqlite3.Connection, scope: int, query: Query) -> None:
        self._connection = connection
        self._range = scope_range(scope)
        self._scope = scope
        self._ids = _intersection(query.ids)
        self._low, self._high = _stamps(query.last_updated)
        self._bounded = bool(query.last_updated)
        self.by_seq = self._bounded and self._ids is None

    def rows(self, after: str | int, rows: int) -> sqlite3.Cursor:
        parameters = self._parameters(after) | {"after": after, "rows": rows}
        if self.by_seq:
            seqs = Range(
                first=first_after(self._connection, self._range, self._low - 1),
                end=first_after(self._connection, self._range, self._high),
            )
            return self._connection.execute(_BY_SEQ, parameters | msgspec.structs.asdict(seqs))
        return self._connection.execute(_BY_ID if self._ids is None else _BY_ID_AMONG, parameters)

    def token(self, last: tuple[int, StoredVersion]) -> str:
        return f"seq:{last[0]}" if self.by_seq else f"id:{last[1].id}"

    def total(self) -> int | None:
        """Count where that costs by the answer, not by the store."""
        if self._ids is not None:
            query = self._connection.execute(_COUNT_AMONG, self._parameters())
        elif not self._bounded:
            query = self._connection.execute(_COUNT, self._range.extents)
        else:
            return None
        return int(query.fetchone()[0])

    def _parameters(self, after: str | int = "") -> dict[str, object]:
        ids = json.dumps([each for each in self._ids or () if each > str(after)])
        return {"scope": self._scope, "ids": ids, "low": self._low, "high": self._high}


def _intersection(ids: Iterable[tuple[str, ...]]) -> set[str] | None:
    sets = [set(each) for each in ids]
    return set.intersection(*sets) if sets else None


def _stamps(bounds: Iterable[Bound]) -> tuple[int, int]:
    low, high = 0, FOREVER
    for bound in bounds:
        low = low if bound.low is None else max(low, to_stamp(bound.low))
        high = high if bound.high is None else min(high, to_stamp(bound.high))
    return low, high


def _after(token: str | None, *, by_seq: bool) -> str | int:
    if token is None:
        return -1 if by_seq else ""
    match = _TOKEN.fullmatch(token)
    if match is None or (match[2] is not None) is not by_seq:
        raise InvalidParameter(
            "the page asked for is not one that this search gave; follow its links as they are,"
            " or start again without one"
        )
    return int(match[2]) if by_seq else match[1]


def _page(
    resource_type: str, rows: Iterable[_Row], count: int
) -> tuple[list[tuple[int, StoredVersion]], bool]:
    """Give what fits on a page, and whether there is more."""
    found: list[tuple[int, StoredVersion]] = []
    room = PAGE_BYTES
    for row in rows:
        if len(found) == count or (found and room <= 0):
            return found, True
        found.append((row[0], _stored(resource_type, row)))
        room -= len(row[-1] or b"")
    return found, False


def _scope(connection: sqlite3.Connection, place: Place) -> int:
    found = find_scope(connection, place.tenant, place.fhir_version, place.resource_type)
    return found or NOWHERE


def _one(resource_type: str, row: _Row | None) -> StoredVersion | None:
    return None if row is None else _stored(resource_type, row)


def _stored(resource_type: str, row: _Row) -> StoredVersion:
    _, resource_id, version_id, since_stamp, deleted, stored_hash, content = row
    if not deleted and (content is None or line_hash(content) != stored_hash):
        raise BackendError(
            f"the stored content of {resource_type}/{resource_id}, version {version_id}, is"
            " damaged; restore it from a backup or store the resource again"
        )
    return StoredVersion(
        resource_type=resource_type,
        id=resource_id,
        version_id=version_id,
        last_updated=from_stamp(since_stamp),
        content=content,
    )
