"""Extents: numbered runs of a collection's versions, with counts and sums of each."""

import sqlite3
from collections.abc import Mapping

import msgspec

from helios_core import (
    EXTENT_BITS,
    EXTENT_BYTES,
    EXTENT_ROWS,
    SUM_MASK,
    collection_range,
    read_statements,
)

_SQL = read_statements("helios_sqlite", "extents")

WEIGHTS = (3, 5, 7, 11, 13, 17)
"""The factors of an extent's counts in its `check_sum`."""


class Counts(msgspec.Struct):
    """The changes of an extent's counts and sums by one transaction."""

    appended: int = 0
    appended_bytes: int = 0
    live: int = 0
    live_bytes: int = 0
    compartment_live: int = 0
    compartment_bytes: int = 0
    live_hash: int = 0
    compartment_hash: int = 0
    row_sum: int = 0

    def append(self, size: int, mark: int) -> None:
        """Count a new version, which may be a deletion."""
        self.appended += 1
        self.appended_bytes += size
        self.row_sum += mark

    def begin(self, size: int, stored_hash: int, *, in_compartment: bool) -> None:
        """Count a version that became current."""
        self._change(1, size, stored_hash, in_compartment=in_compartment)

    def end(self, size: int, stored_hash: int, *, in_compartment: bool) -> None:
        """Count a version that stopped being current."""
        self._change(-1, -size, -stored_hash, in_compartment=in_compartment)

    def row(self) -> tuple[int, ...]:
        """Return the columns of a row of `extents` after `first_stamp`."""
        counts = msgspec.structs.astuple(self)
        sums = tuple(value & SUM_MASK for value in counts[len(WEIGHTS) :])
        check_sum = sum(weight * count for weight, count in zip(WEIGHTS, counts, strict=False))
        return (*counts[: len(WEIGHTS)], *sums, check_sum)

    def _change(
        self, resources: int, size: int, stored_hash: int, *, in_compartment: bool
    ) -> None:
        self.live += resources
        self.live_bytes += size
        self.live_hash += stored_hash
        if in_compartment:
            self.compartment_live += resources
            self.compartment_bytes += size
            self.compartment_hash += stored_hash


class Filler:
    """Assigns the seqs of a collection in ascending order, extent by extent."""

    def __init__(self, connection: sqlite3.Connection, collection: int) -> None:
        first, last = collection_range(collection).extents
        row: tuple[int, int, int] | None = connection.execute(
            _SQL["last"], (first, last)
        ).fetchone()
        self.extent, self._rows, self._bytes = row or (first, 0, 0)

    def next_seq(self, size: int) -> int:
        """Return the seq for a version of `size` bytes; `extent` is then the extent it is in."""
        full = self._rows == EXTENT_ROWS or self._bytes + size > EXTENT_BYTES
        if full and self._rows:
            self.extent, self._rows, self._bytes = self.extent + 1, 0, 0
        seq = (self.extent << EXTENT_BITS) + self._rows
        self._rows += 1
        self._bytes += size
        return seq


def add_counts(connection: sqlite3.Connection, stamp: int, counts: Mapping[int, Counts]) -> None:
    """Store the changes of a transaction; new extents begin at its stamp."""
    connection.executemany(
        _SQL["add"],
        [(extent, stamp, *change.row()) for extent, change in counts.items()],
    )
