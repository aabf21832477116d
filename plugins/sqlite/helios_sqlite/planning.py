"""Planning: shards are cut by the counts of extents; at most a few versions are read."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from helios_core import (
    EXTENT_BITS,
    ExportView,
    Level,
    SeqRun,
    Shard,
    TypeKey,
    ViewSize,
    collection_range,
    cut_shards,
    read_statements,
    total_size,
)
from helios_core.fhir import to_stamp
from helios_sqlite.collections import Collection, all_collections
from helios_sqlite.compartments import may_have_any
from helios_sqlite.errors import is_damage
from helios_sqlite.integrity import check_collections, check_extents, extents_of
from helios_sqlite.views import seqs_of, shown_by

_SQL = read_statements("helios_sqlite", "planning")

S = TypeVar("S")
T = TypeVar("T")

SAMPLE = 64
"""How many patients of a cohort are sampled to estimate its size."""

LOOKED_UP = 2048
"""How many patients or versions are read to find out whether a type has anything to export."""


def plan(connection: sqlite3.Connection, view: ExportView, shard_bytes: int) -> list[Shard]:
    """Return the shards of a view, numbered from 0 in the order of its types (P2)."""
    check_collections(connection)
    collections = all_collections(connection, view.request.tenant, view.request.fhir_version)
    shards: list[Shard] = []
    for resource_type in view.request.types:
        if (collection := collections.get(resource_type)) is not None:
            planned = _Planning(connection, view, collection).shards(shard_bytes)
            shards += (
                msgspec.structs.replace(shard, number=number)
                for number, shard in enumerate(planned, len(shards))
            )
    return shards


class _Planning:
    """The planning of one type of one view."""

    def __init__(
        self, connection: sqlite3.Connection, view: ExportView, collection: Collection
    ) -> None:
        self._connection = connection
        self._view = view
        self._collection = collection
        check_extents(connection, collection.number)
        self._seqs = _unless_damaged(
            lambda: seqs_of(connection, view, collection),
            otherwise=collection_range(collection.number),
        )

    def shards(self, shard_bytes: int) -> Iterator[Shard]:
        runs = list(self._runs())
        size = self._size(runs) if runs else None
        if size is None:
            return
        start = None if self._view.request.since is None else str(self._seqs.first)
        yield from cut_shards(
            self._collection.resource_type, runs, size, shard_bytes=shard_bytes, start=start
        )

    def _runs(self) -> Iterator[SeqRun]:
        seqs = self._seqs
        all_resources = self._view.cohort is None and self._view.request.level is Level.SYSTEM
        for row in self._connection.execute(_SQL["extents"], seqs.extents):
            extent, appended, live, live_bytes, compartment_live, compartment_bytes = row
            first = max(seqs.first, extent << EXTENT_BITS)
            end = min(seqs.end, (extent << EXTENT_BITS) + appended)
            if first < end:
                share = (end - first) / appended
                yield SeqRun(
                    first=first,
                    seqs=end - first,
                    resources=share * (live if all_resources else compartment_live),
                    bytes=share * (live_bytes if all_resources else compartment_bytes),
                )

    def _size(self, runs: Sequence[SeqRun]) -> ViewSize | None:
        """Return the approximate size of a shown type, or None if nothing is shown."""
        counted = total_size(runs)
        return _unless_damaged(lambda: self._size_shown(counted), otherwise=counted)

    def _size_shown(self, size: ViewSize) -> ViewSize | None:
        if self._view.cohort is not None:
            return self._size_of_cohort(self._view.cohort.patients, size)
        request = self._view.request
        bounded = request.since is not None or request.until is not None
        if bounded or self._collection.last_stamp > to_stamp(self._view.transaction_time):
            return size if self._shows_any() else None
        return size if size.resources else None

    def _size_of_cohort(self, patients: frozenset[str], counted: ViewSize) -> ViewSize | None:
        sample = list(islice(patients, SAMPLE))
        if not sample:
            return None
        shown, resources, total_bytes = self._fetch(
            _SQL["shown_of_cohort"], patients=json.dumps(sample)
        )
        if not shown and not self._may_have_any_of(patients, counted):
            return None
        factor = len(patients) / len(sample)
        return ViewSize(resources=resources * factor, bytes=total_bytes * factor)

    def _may_have_any_of(self, patients: frozenset[str], counted: ViewSize) -> bool:
        """
        Return whether the range may have resources of the patients.

        The smaller side is looked up in the other; if both are large, the answer is True.
        """
        if len(patients) <= LOOKED_UP:
            key = TypeKey.of(self._view.request, self._collection.resource_type)
            return may_have_any(self._connection, key, self._seqs, patients) or bool(
                self._fetch(_SQL["any_of_cohort"], patients=json.dumps(list(patients)))[0]
            )
        query = (self._collection.number, LOOKED_UP)
        present = [
            patient for (patient,) in self._connection.execute(_SQL["some_patients"], query)
        ]
        # Every live resource in a compartment has an entry; with fewer, entries are lost.
        lost = len(present) < counted.resources
        return len(present) == LOOKED_UP or lost or not patients.isdisjoint(present)

    def _shows_any(self) -> bool:
        """
        Return whether a first version is shown, or whether there are more than `LOOKED_UP`.

        If versions are damaged, the answer is True: a shard is needed to report them.
        """
        return bool(
            self._fetch(_SQL["any_shown"], looked_up=LOOKED_UP)[0]
            or self._fetch(_SQL["more_than"], looked_up=LOOKED_UP)
            or any(
                extent.count_of_damaged(self._connection) is not None
                for extent in extents_of(self._connection, self._seqs)
            )
        )

    def _fetch(self, query: str, **parameters: object) -> tuple[float, ...]:
        shown = shown_by(self._view, self._collection.number, self._seqs)
        parameters |= msgspec.structs.asdict(shown)
        parameters["deletions"] = self._view.request.since is not None
        return self._connection.execute(query, parameters).fetchone() or ()


def _unless_damaged(read: Callable[[], S], *, otherwise: T) -> S | T:
    """Return the result of a read, or `otherwise` if the file is damaged, which reads report."""
    try:
        return read()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return otherwise
