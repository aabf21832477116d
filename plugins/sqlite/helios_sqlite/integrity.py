"""Compare what is in the file with what it says there must be, extent by extent."""

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
def one_state(connection: sqlite3.Connection) -> Iterator[None]:
    """Compare what there is with what there must be on one state of the database."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


class Extent(NamedTuple):
    """What must be in an extent."""

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
        """All seqs that the extent can have."""
        first = self.number << EXTENT_BITS
        return SeqRange(first=first, end=first + EXTENT_ROWS)

    def current(self, *, everybody: bool) -> ResourceSums:
        """Return what is current in the extent, of everybody or only in compartments."""
        if everybody:
            return ResourceSums(self.live, self.live_bytes, self.live_hash)
        return ResourceSums(self.compartment_live, self.compartment_bytes, self.compartment_hash)

    def count_of_damaged(self, connection: sqlite3.Connection) -> int | None:
        """Return None if all versions are as they were written, else how many can be read."""
        try:
            rows = rows_of_extent(connection, self)
            return None if self.holds(rows) else len(rows)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return 0

    def holds(self, rows: list[_Row]) -> bool:
        """Return whether versions are all those of the extent, as they were written."""
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
    Add the sums of extents from before there were any, one extent in memory at a time.

    Extents whose counts do not agree with what is in them are left as they are: what reading says
    of them stays true.
    """
    last = -1
    while row := connection.execute(_SQL["unsummed"], (last,)).fetchone():
        extent = Extent(*row)
        last = extent.number
        if extent.count_of_damaged(connection) is not None:
            continue
        rows = rows_of_extent(connection, extent)
        live = [each for each in rows if each[8] == FOREVER and not each[4]]
        sums = (
            sum(each[7] for each in live),
            sum(each[7] for each in live if each[5]),
            _row_sum(rows),
        )
        connection.execute(_SQL["set_sums"], (last, *(each & SUM_MASK for each in sums)))


def rows_of_sound_extent(connection: sqlite3.Connection, extent: Extent) -> list[_Row]:
    """
    Return all versions of an extent, as they were written.

    Raises:
        BackendError: They are not.
    """
    rows = rows_of_extent(connection, extent)
    if not extent.holds(rows):
        raise damaged("versions of an extent are missing or altered")
    return rows


def lacks(connection: sqlite3.Connection, extent: Extent, seqs: SeqRange) -> bool:
    """Return whether versions of a range within an extent are not found from its start on."""
    end = min(seqs.end, extent.seqs.first + extent.appended)
    found = connection.execute(_SQL["count"], (seqs.first, end)).fetchone()[0]
    return bool(found != max(end - seqs.first, 0))


def rows_of_extent(connection: sqlite3.Connection, extent: Extent) -> list[_Row]:
    """Return all versions of an extent, as they are stored."""
    seqs = extent.seqs
    return connection.execute(_SQL["rows"], (seqs.first, seqs.end - 1)).fetchall()


def next_extent(connection: sqlite3.Connection, seqs: SeqRange) -> Extent | None:
    """Return the first extent of a range."""
    row = connection.execute(_SQL["next_extent"], seqs.extents).fetchone()
    return None if row is None else Extent(*row)


def extents_of(connection: sqlite3.Connection, seqs: SeqRange) -> Iterator[Extent]:
    """Yield the extents of a range in order."""
    while seqs.first < seqs.end and (extent := next_extent(connection, seqs)) is not None:
        yield extent
        seqs = SeqRange(first=extent.seqs.end, end=seqs.end)


def extent_at(connection: sqlite3.Connection, number: int) -> Extent:
    """
    Return an extent.

    Raises:
        BackendError: There is none.
    """
    seqs = SeqRange(first=number << EXTENT_BITS, end=(number + 1) << EXTENT_BITS)
    extent = next_extent(connection, seqs)
    if extent is None:
        raise damaged("an extent is missing")
    return extent


def members_of(
    connection: sqlite3.Connection, extent: Extent, patients: frozenset[str]
) -> list[int]:
    """Return the seqs of the versions of an extent in the compartments of some patients."""
    rows = rows_of_extent(connection, extent)
    return [row[0] for row in rows if not patients.isdisjoint(row[5].split())]


def is_there(connection: sqlite3.Connection, seq: int) -> bool:
    """Return whether there is a version, whatever it is."""
    return bool(connection.execute(_SQL["exists"], (seq,)).fetchone()[0])


def check_collections(connection: sqlite3.Connection) -> None:
    """
    Check that all collections are listed, and are found by the index of the list.

    Raises:
        BackendError: It is damaged.
    """
    found = connection.execute("PRAGMA integrity_check(collections)").fetchone()[0]
    if found != "ok" or connection.execute(_SQL["unlisted"]).fetchone()[0]:
        raise damaged("its list of resource types contradicts itself")


def check_extents(connection: sqlite3.Connection, collection: int) -> None:
    """
    Check that all extents of a collection are there, and that their counts add up.

    Raises:
        BackendError: They are not.
    """
    first, last = collection_range(collection).extents
    bounds = {"first": first, "last": last}
    count, lowest, highest, offsets, version = connection.execute(
        _SQL["extents"], bounds
    ).fetchone()
    behind = version is not None and version >> EXTENT_BITS > (-1 if highest is None else highest)
    gaps = count and (lowest != first or highest - first + 1 != count)
    gaps = gaps or offsets != count * (count - 1) // 2
    if behind or gaps:
        raise damaged("some of its extents are missing")
    if connection.execute(_SQL["implausible"], bounds).fetchone()[0]:
        raise damaged("the counts of its extents do not add up")
