"""Writing: new versions, the ends of old ones, and the counts of extents."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from helios_core import (
    AppliedChange,
    CompartmentSums,
    Delete,
    Put,
    TypeKey,
    decide,
    ending_mark,
    extent_of,
    line_hash,
    read_statements,
    to_signed,
    to_unsigned,
    version_mark,
)
from helios_core.fhir import FOREVER, FHIRVersion, Resource, from_stamp, terms_of
from helios_sqlite.clock import next_stamp, remember
from helios_sqlite.collections import NOWHERE, find_collection, intern_collection
from helios_sqlite.compartments import add_sums
from helios_sqlite.extents import Counts, Filler, add_counts
from helios_sqlite.indexing import Postings

_SQL = read_statements("helios_sqlite", "writing")


class _Current(NamedTuple):
    """The newest version of a resource, which may be a deletion."""

    seq: int
    version_id: int
    since_stamp: int
    deleted: bool
    content_hash: int
    """As in `Resource.content_hash`, unsigned."""
    size: int
    patients: str
    line_hash: int


class _Journal:
    """The rows that one transaction will write."""

    def __init__(self, stamp: int, fhir_version: FHIRVersion) -> None:
        self.stamp = stamp
        self.fhir_version = fhir_version
        self.instant = from_stamp(stamp)
        self.versions: list[tuple[object, ...]] = []
        self.compartments: list[tuple[int, str, int]] = []
        self.compartment_sums = CompartmentSums()
        self.postings = Postings()
        self.ended: list[int] = []
        self.counts: defaultdict[int, Counts] = defaultdict(Counts)

    def store(self, connection: sqlite3.Connection, collections: Iterable[int]) -> None:
        if not self.versions:
            return
        connection.executemany(_SQL["insert_version"], self.versions)
        self.compartments.sort()  # insert in the order of the index
        connection.executemany(_SQL["insert_compartment"], self.compartments)
        add_sums(connection, self.compartment_sums)
        connection.executemany(_SQL["end_version"], zip(repeat(self.stamp), self.ended))
        add_counts(connection, self.stamp, self.counts)
        self.postings.store(connection)
        connection.executemany(_SQL["touch_collection"], zip(repeat(self.stamp), collections))
        remember(connection, self.stamp)


class _CollectionWriter:
    """Applies changes within one collection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        collection: int,
        ids: Sequence[str],
        journal: _Journal,
    ) -> None:
        self._collection = collection
        self._journal = journal
        self._filler = Filler(connection, collection)
        rows = connection.execute(
            _SQL["current"], {"collection": collection, "ids": json.dumps(ids)}
        )
        self._current = {
            resource_id: _Current(
                seq, version_id, since_stamp, bool(deleted), to_unsigned(stored_hash), *rest
            )
            for resource_id, seq, version_id, since_stamp, deleted, stored_hash, *rest in rows
        }

    def apply(self, change: Put | Delete) -> AppliedChange:
        current = self._current.get(change.id)
        decision = decide(change, current)
        if not decision.makes_version:
            last_updated = None if current is None else from_stamp(current.since_stamp)
        else:
            last_updated = self._journal.instant
            if isinstance(change, Put):
                self._put(change.resource, decision.version_id)
            elif current is not None:
                self._append(change.id, decision.version_id, patients=current.patients)
        return decision.applied(last_updated)

    def _put(self, resource: Resource, version_id: int) -> None:
        journal = self._journal
        line = resource.stamped(version_id, journal.instant)
        seq = self._append(
            resource.id,
            version_id,
            line=line,
            content_hash=resource.content_hash,
            patients=" ".join(resource.patients),
        )
        journal.postings.add(
            seq, resource.terms or terms_of(line, journal.fhir_version, resource.resource_type)
        )

    def _append(
        self,
        resource_id: str,
        version_id: int,
        *,
        patients: str,
        line: bytes | None = None,
        content_hash: int = 0,
    ) -> int:
        journal, collection = self._journal, self._collection
        deleted = line is None
        size = 0 if line is None else len(line)
        seq = self._filler.next_seq(size)
        stored_hash = 0 if line is None else line_hash(line)
        mark = version_mark(
            (
                *(seq, resource_id, version_id, journal.stamp, int(deleted), patients),
                *(size, stored_hash),
            )
        )
        row = (seq, collection, resource_id, version_id, journal.stamp, FOREVER, deleted, patients)
        journal.versions.append((*row, size, stored_hash, to_signed(content_hash), line))
        journal.compartments += [(collection, patient, seq) for patient in patients.split()]
        journal.compartment_sums.add(patients, seq, mark)
        self._end(resource_id)
        counts = journal.counts[self._filler.extent]
        counts.append(size, mark)
        if not deleted:
            counts.begin(size, stored_hash, in_compartment=bool(patients))
        self._current[resource_id] = _Current(
            *(seq, version_id, journal.stamp, deleted, content_hash, size, patients),
            stored_hash,
        )
        return seq

    def _end(self, resource_id: str) -> None:
        current = self._current.get(resource_id)
        if current is None:
            return
        self._journal.ended.append(current.seq)
        mark = ending_mark(current.seq, self._journal.stamp)
        self._journal.compartment_sums.add(current.patients, current.seq, mark)
        counts = self._journal.counts[extent_of(current.seq)]
        counts.row_sum += mark
        if not current.deleted:
            in_compartment = bool(current.patients)
            counts.end(current.size, current.line_hash, in_compartment=in_compartment)


def write(
    connection: sqlite3.Connection,
    tenant: str,
    fhir_version: FHIRVersion,
    changes: Sequence[Put | Delete],
) -> list[AppliedChange]:
    """
    Apply changes in order, under one stamp, and return the outcome of each.

    Raises:
        VersionConflict: An `if_match` failed; the caller rolls back.
    """
    ids: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for change in changes:
        ids[change.resource_type][change.id] = None
    put = {change.resource_type for change in changes if isinstance(change, Put)}
    collections = {
        name: intern_collection(connection, TypeKey(tenant, fhir_version, name))
        if name in put
        else find_collection(connection, TypeKey(tenant, fhir_version, name)) or NOWHERE
        for name in ids
    }
    journal = _Journal(next_stamp(connection), fhir_version)
    writers = {
        name: _CollectionWriter(connection, collection, list(ids[name]), journal)
        for name, collection in collections.items()
    }
    applied = [writers[change.resource_type].apply(change) for change in changes]
    journal.store(connection, collections.values())
    return applied
