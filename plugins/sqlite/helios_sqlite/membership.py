"""Ask about many resources of one type by their ids: what of them is shown, and their lines."""

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime

import msgspec

from helios_core import (
    Batch,
    Damaged,
    ExportView,
    TypeKey,
    collection_range,
    damage_of,
    line_hash,
    to_unsigned,
)
from helios_core.fhir import to_stamp
from helios_sqlite.scopes import NOWHERE, find_scope
from helios_sqlite.views import filter_of

_AMONG = """
SELECT v.id, v.patients FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.scope = :scope AND v.id = wanted.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at
  AND v.since_stamp > :since AND v.since_stamp < :until
  AND NOT v.deleted AND (:everybody OR v.patients <> '')
"""
_FETCH = """
SELECT v.id, v.size, v.line_hash, v.content FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.scope = :scope AND v.id = wanted.value
WHERE v.since_stamp <= :at AND v.until_stamp > :at AND NOT v.deleted
"""


def among(
    connection: sqlite3.Connection, view: ExportView, resource_type: str, ids: Collection[str]
) -> set[str]:
    """Give those of `ids` that a view shows."""
    scope = find_scope(connection, TypeKey.of(view.request, resource_type))
    if scope is None:
        return set()
    shown = msgspec.structs.asdict(filter_of(view, scope, collection_range(scope)))
    rows = connection.execute(_AMONG, shown | {"ids": json.dumps(list(ids))})
    if view.cohort is None:
        return {resource_id for resource_id, _ in rows}
    strangers = view.cohort.patients.isdisjoint
    return {resource_id for resource_id, patients in rows if not strangers(patients.split())}


def fetch(
    connection: sqlite3.Connection, key: TypeKey, ids: Collection[str], *, at: datetime
) -> Batch:
    """Return those of `ids` that are live at an instant."""
    lines = list[bytes]()
    digests = list[int]()
    damaged = list[Damaged]()
    number = find_scope(connection, key) or NOWHERE
    parameters = {"ids": json.dumps(list(ids)), "scope": number, "at": to_stamp(at)}
    for resource_id, size, stored_hash, line in connection.execute(_FETCH, parameters):
        if line is None or len(line) != size or line_hash(line) != stored_hash:
            damaged.append(damage_of(key.resource_type, resource_id, line))
        else:
            lines.append(line)
            digests.append(to_unsigned(stored_hash))
    return Batch(lines=lines, damaged=damaged, digests=digests)
