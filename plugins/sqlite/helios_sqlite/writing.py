"""Write changes: new versions, the ends of old ones, and what planning counts."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import NamedTuple

from helios_core import (
    AppliedChange,
    ChangeResult,
    Delete,
    Put,
    TypeKey,
    VersionConflict,
    extent_of,
    line_hash,
    to_signed,
)
from helios_core.fhir import FOREVER, FHIRVersion, from_stamp, terms_of
from helios_sqlite.clock import next_stamp, remember
from helios_sqlite.extents import Counts, Filler, add_counts
from helios_sqlite.indexing import Postings
from helios_sqlite.scopes import NOWHERE, find_scope, intern_scope

_CURRENT = """
SELECT v.id, v.seq, v.version_id, v.since_stamp, v.deleted, v.content_hash, v.size, v.patients
FROM json_each(:ids) AS wanted
CROSS JOIN versions AS v ON v.seq = (
  SELECT seq FROM versions WHERE scope = :scope AND id = wanted.value
  ORDER BY version_id DESC LIMIT 1
)
"""
_INSERT_VERSION = "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_COMPARTMENT = "INSERT INTO compartments VALUES (?, ?, ?)"
_END_VERSION = "UPDATE versions SET until_stamp = ? WHERE seq = ?"
_TOUCH_SCOPE = "UPDATE scopes SET last_stamp = ? WHERE scope = ?"


class _Current(NamedTuple):
    """The newest version of a resource, a deletion perhaps."""

    seq: int
    version_id: int
    since_stamp: int
    deleted: int
    content_hash: int
    size: int
    patients: str


class _Journal:
    """The rows one transaction is going to write."""

    def __init__(self, stamp: int, fhir_version: FHIRVersion) -> None:
        self.stamp = stamp
        self.fhir_version = fhir_version
        self.instant = from_stamp(stamp)
        self.versions: list[tuple[object, ...]] = []
        self.compartments: list[tuple[int, str, int]] = []
        self.postings = Postings()
        self.ended: list[int] = []
        self.counts: defaultdict[int, Counts] = defaultdict(Counts)

    def store(self, connection: sqlite3.Connection, scopes: Iterable[int]) -> None:
        if not self.versions:
            return
        connection.executemany(_INSERT_VERSION, self.versions)
        self.compartments.sort()  # neighbours in the index follow each other
        connection.executemany(_INSERT_COMPARTMENT, self.compartments)
        self.postings.store(connection)
        connection.executemany(_END_VERSION, zip(repeat(self.stamp), self.ended))
        add_counts(connection, self.stamp, self.counts)
        connection.executemany(_TOUCH_SCOPE, zip(repeat(self.stamp), scopes))
        remember(connection, self.stamp)


class _ScopeWriter:
    """Applies changes within one scope."""

    def __init__(
        self, connection: sqlite3.Connection, scope: int, ids: Sequence[str], journal: _Journal
    ) -> None:
        self._scope = scope
        self._journal = journal
        self._filler = Filler(connection, scope)
        rows = connection.execute(_CURRENT, {"scope": scope, "ids": json.dumps(ids)})
        self._current = {row[0]: _Current._make(row[1:]) for row in rows}

    def apply(self, change: Put | Delete) -> AppliedChange:
        if isinstance(change, Put):
            current = self._current.get(change.resource.id)
            _check(change, current)
            return self._put(change, current)
        current = self._current.get(change.id)
        _check(change, current)
        return self._delete(change, current)

    def _put(self, change: Put, current: _Current | None) -> AppliedChange:
        resource = change.resource
        content_hash = to_signed(resource.content_hash)
        live = current is not None and not current.deleted
        if current is not None and live and current.content_hash == content_hash:
            return _applied(
                ChangeResult.UNCHANGED, current.version_id, from_stamp(current.since_stamp)
            )
        version_id = 1 if current is None else current.version_id + 1
        line = resource.stamped(version_id, self._journal.instant)
        seq = self._append(
            resource.id,
            version_id,
            line=line,
            content_hash=content_hash,
            patients=" ".join(resource.patients),
        )
        self._journal.postings.add(
            seq,
            resource.terms or terms_of(line, self._journal.fhir_version, resource.resource_type),
        )
        outcome = ChangeResult.UPDATED if live else ChangeResult.CREATED
        return _applied(outcome, version_id, self._journal.instant)

    def _delete(self, change: Delete, current: _Current | None) -> AppliedChange:
        if current is None:
            return _applied(ChangeResult.ABSENT, 0, None)
        if current.deleted:
            return _applied(
                ChangeResult.ABSENT, current.version_id, from_stamp(current.since_stamp)
            )
        version_id = current.version_id + 1
        self._append(change.id, version_id, line=None, content_hash=0, patients=current.patients)
        return _applied(ChangeResult.DELETED, version_id, self._journal.instant)

    def _append(
        self,
        resource_id: str,
        version_id: int,
        *,
        line: bytes | None,
        content_hash: int,
        patients: str,
    ) -> int:
        journal, scope = self._journal, self._scope
        deleted = int(line is None)
        size = 0 if line is None else len(line)
        seq = self._filler.next_seq(size)
        stored_hash = 0 if line is None else line_hash(line)
        row = (seq, scope, resource_id, version_id, journal.stamp, FOREVER, deleted, patients)
        journal.versions.append((*row, size, stored_hash, content_hash, line))
        journal.compartments += [(scope, patient, seq) for patient in patients.split()]
        self._end(resource_id)
        counts = journal.counts[self._filler.extent]
        counts.append(size)
        if not deleted:
            counts.begin(size, in_compartment=bool(patients))
        self._current[resource_id] = _Current(
            seq, version_id, journal.stamp, deleted, content_hash, size, patients
        )
        return seq

    def _end(self, resource_id: str) -> None:
        current = self._current.get(resource_id)
        if current is None:
            return
        self._journal.ended.append(current.seq)
        if not current.deleted:
            counts = self._journal.counts[extent_of(current.seq)]
            counts.end(current.size, in_compartment=bool(current.patients))


def write(
    connection: sqlite3.Connection,
    tenant: str,
    fhir_version: FHIRVersion,
    changes: Sequence[Put | Delete],
) -> list[AppliedChange]:
    """
    Apply changes in order, all under one stamp, and tell what became of each.

    Raises:
        VersionConflict: An `if_match` failed; the caller rolls back.
    """
    targets = [_target(change) for change in changes]
    ids: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for resource_type, resource_id in targets:
        ids[resource_type][resource_id] = None
    put = {change.resource.resource_type for change in changes if isinstance(change, Put)}
    scopes = {
        name: intern_scope(connection, TypeKey(tenant, fhir_version, name))
        if name in put
        else find_scope(connection, TypeKey(tenant, fhir_version, name)) or NOWHERE
        for name in ids
    }
    journal = _Journal(next_stamp(connection), fhir_version)
    writers = {
        name: _ScopeWriter(connection, scope, list(ids[name]), journal)
        for name, scope in scopes.items()
    }
    applied = [
        writers[name].apply(change) for (name, _), change in zip(targets, changes, strict=True)
    ]
    journal.store(connection, scopes.values())
    return applied


def _target(change: Put | Delete) -> tuple[str, str]:
    if isinstance(change, Put):
        return change.resource.resource_type, change.resource.id
    return change.resource_type, change.id


def _check(change: Put | Delete, current: _Current | None) -> None:
    version_id = 0 if current is None else current.version_id
    if change.if_match is not None and change.if_match != version_id:
        raise VersionConflict(
            f"version {change.if_match} was expected to be current, but version {version_id} is;"
            " read the resource again and repeat the change"
        )


def _applied(
    outcome: ChangeResult, version_id: int, last_updated: datetime | None
) -> AppliedChange:
    return AppliedChange(outcome=outcome, version_id=version_id, last_updated=last_updated)
