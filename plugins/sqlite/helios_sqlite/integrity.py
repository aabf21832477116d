"""Integrity: comparing the stored versions with the counts and sums of extents (P9)."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from helios_core import (
    EXTENT_BITS,
    EXTENT_ROWS,
    SUM_MASK,
    ResourceSums,
    SeqRange,
    collection_range,
    ending_mark,
    read_statements,
    version_mark,
)
from helios_core.fhir import FOREVER
from helios_sqlite.errors import damaged, is_damage

_SQL = read_statements("helios_sqlite", "integrity")

_Row = tuple[int, str, int, int, int, str, int, int, int]


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read from a single snapshot: in a transaction, a new one unless there is one already."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


class Extent(NamedTuple):
    """The counts and sums of an extent, which show whether something is lost or changed."""

    number: int
    appended: int
    appended_bytes: int
    live: int
    live_bytes: int
    compartment_live: int
    compartment_bytes: int
    live_hash: int | None
    compartment_hash: int | None
    row_sum: int | None

    @property
    def seqs(self) -> SeqRange:
        """The range of all seqs that an extent can have."""
        first = self.number << EXTENT_BITS
        return SeqRange(first=first, end=first + EXTENT_ROWS)

    def current(self, *, all_resources: bool) -> ResourceSums:
        """Return the sums of live resources, of all or only of those in compartments."""
        if all_resources:
            return ResourceSums(self.live, self.live_bytes, self.live_hash)
        return ResourceSums(self.compartment_live, self.compartment_bytes, self.compartment_hash)

    def count_of_damaged(self, connection: sqlite3.Connection) -> int | None:
        """Return how many versions of a damaged extent can be read; None if it is not damaged."""
        try:
            rows = rows_of_extent(connection, self)
            return None if self.agrees_with(rows) else len(rows)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return 0

    def agrees_with(self, rows: list[_Row]) -> bool:
        """Return whether rows agree with the counts and sums of the extent."""
        if [row[0] for row in rows] != list(range(self.seqs.first, self.seqs.first + len(rows))):
            return False
        if len(rows) != self.appended:
            return False
        if self.row_sum is None:
            return self._counts(rows)
        return (_row_sum(rows) - self.row_sum) & SUM_MASK == 0

    def _counts(self, rows: list[_Row]) -> bool:
        live = [row for row in rows if row[8] == FOREVER and not row[4]]
        inside = [row for row in live if row[5]]
        counts = (
            *(sum(row[6] for row in rows), len(live), sum(row[6] for row in live)),
            *(len(inside), sum(row[6] for row in inside)),
        )
        return counts == self[2:7]


def _row_sum(rows: Iterable[_Row]) -> int:
    marks = sum(version_mark(row[:8]) for row in rows)
    endings = sum(ending_mark(row[0], row[8]) for row in rows if row[8] != FOREVER)
    return marks + endings


def sum_extents(connection: sqlite3.Connection) -> None:
    """
    Compute the sums of extents whose schema had none, with one extent in memory at a time.

    Extents whose counts do not agree with their versions remain without sums, so that reading them
    still reports the damage.
    """
    last = -1
    while row := connection.execute(_SQL["unsummed"], (last,)).fetchone():
        extent = Extent(*row)
        last = extent.number
        if extent.count_of_damaged(connection) is not None:
            continue
        rows = rows_of_extent(connection, extent)
        live = [version for version in rows if version[8] == FOREVER and not version[4]]
        sums = (
            sum(version[7] for version in live),
            sum(version[7] for version in live if version[5]),
            _row_sum(rows),
        )
        connection.execute(_SQL["set_sums"], (last, *(total & SUM_MASK for total in sums)))


def rows_of_sound_extent(connection: sqlite3.Connection, extent: Extent) -> list[_Row]:
    """
    Return all versions of an extent.

    Raises:
        BackendError: A version is damaged or missing.
    """
    rows = rows_of_extent(connection, extent)
    if not extent.agrees_with(rows):
        raise damaged("versions of an extent are missing or altered")
    return rows


def lacks(connection: sqlite3.Connection, extent: Extent, seqs: SeqRange) -> bool:
    """Return whether an index scan over a range within an extent misses versions."""
    end = min(seqs.end, extent.seqs.first + extent.appended)
    found = connection.execute(_SQL["count"], (seqs.first, end)).fetchone()[0]
    return bool(found != max(end - seqs.first, 0))


def rows_of_extent(connection: sqlite3.Connection, extent: Extent) -> list[_Row]:
    """Return all stored versions of an extent."""
    seqs = extent.seqs
    return connection.execute(_SQL["rows"], (seqs.first, seqs.end - 1)).fetchall()


def next_extent(connection: sqlite3.Connection, seqs: SeqRange) -> Extent | None:
    """Return the first extent of a range, or None."""
    row = connection.execute(_SQL["next_extent"], seqs.extents).fetchone()
    return None if row is None else Extent(*row)


def extents_of(connection: sqlite3.Connection, seqs: SeqRange) -> Iterator[Extent]:
    """Yield the extents of a range in order."""
    while seqs.first < seqs.end and (extent := next_extent(connection, seqs)) is not None:
        yield extent
        seqs = SeqRange(first=extent.seqs.end, end=seqs.end)


def extent_at(connection: sqlite3.Connection, number: int) -> Extent:
    """
    Return the extent with a number.

    Raises:
        BackendError: The extent is missing.
    """
    seqs = SeqRange(first=number << EXTENT_BITS, end=(number + 1) << EXTENT_BITS)
    extent = next_extent(connection, seqs)
    if extent is None:
        raise damaged("an extent is missing")
    return extent


def members_of(
    connection: sqlite3.Connection, extent: Extent, patients: frozenset[str]
) -> list[int]:
    """Return the seqs of the versions of an extent in the compartments of these patients."""
    rows = rows_of_extent(connection, extent)
    return [row[0] for row in rows if not patients.isdisjoint(row[5].split())]


def exists(connection: sqlite3.Connection, seq: int) -> bool:
    """Return whether there is a version with a seq."""
    return bool(connection.execute(_SQL["exists"], (seq,)).fetchone()[0])


def check_collections(connection: sqlite3.Connection) -> None:
    """
    Check that no collection is missing from the table of collections and its index.

    Raises:
        BackendError: The table or its index is damaged.
    """
    found = connection.execute("PRAGMA integrity_check(collections)").fetchone()[0]
    if found != "ok" or connection.execute(_SQL["unlisted"]).fetchone()[0]:
        raise damaged("its table of resource types contradicts itself")


def check_extents(connection: sqlite3.Connection, collection: int) -> None:
    """
    Check that no extent of a collection is missing, and that their counts add up.

    Raises:
        BackendError: An extent is missing or damaged.
    """
    first, last = collection_range(collection).extents
    bounds = {"first": first, "last": last}
    count, lowest, highest, offsets, version = connection.execute(
        _SQL["extents"], bounds
    ).fetchone()
    beyond_last = version is not None and version >> EXTENT_BITS > (
        -1 if highest is None else highest
    )
    gaps = count and (lowest != first or highest - first + 1 != count)
    gaps = gaps or offsets != count * (count - 1) // 2
    if beyond_last or gaps:
        raise damaged("some of its extents are missing")
    if connection.execute(_SQL["implausible"], bounds).fetchone()[0]:
        raise damaged("the counts of its extents do not add up")
