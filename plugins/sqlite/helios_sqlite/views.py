"""Views as parameters of SQL statements."""

import bisect
import sqlite3

import msgspec

from helios_core import EXTENT_BITS, ExportView, Level, SeqRange, collection_range, read_statements
from helios_core.fhir import FOREVER, to_stamp
from helios_sqlite.collections import Collection
from helios_sqlite.errors import damaged
from helios_sqlite.integrity import extent_at

_SQL = read_statements("helios_sqlite", "views")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of a collection that a view shows, without regard to its cohort."""

    at: int
    since: int
    """Versions must have become current after this stamp, exclusive; -1 without `_since`."""
    until: int
    """Versions must have become current before this stamp, exclusive."""
    all_resources: bool
    """Whether resources outside of all compartments are shown."""
    collection: int
    first: int
    end: int


def shown_by(view: ExportView, collection: int, seqs: SeqRange) -> Shown:
    """Return the versions in a range that a view shows, without regard to its cohort."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        all_resources=view.request.level is Level.SYSTEM or view.cohort is not None,
        collection=collection,
        first=seqs.first,
        end=seqs.end,
    )


def seqs_of(connection: sqlite3.Connection, view: ExportView, collection: Collection) -> SeqRange:
    """Return the range of a collection that holds all versions a view may show."""
    seqs = collection_range(collection.number)
    since, until = view.request.since, view.request.until
    last = to_stamp(view.transaction_time)
    if until is not None:
        last = min(last, to_stamp(until) - 1)
    first = None if since is None else _first_after(connection, seqs, to_stamp(since))
    end = None if last >= collection.last_stamp else _first_after(connection, seqs, last)
    return SeqRange(
        first=seqs.first if first is None else first, end=seqs.end if end is None else end
    )


def _first_after(connection: sqlite3.Connection, seqs: SeqRange, stamp: int) -> int | None:
    """Return `first_after`, or None if the extent that it depends on is damaged."""
    row = connection.execute(_SQL["last_extent_from"], (*seqs.extents, stamp)).fetchone()
    if row is not None and extent_at(connection, row[0]).count_of_damaged(connection) is not None:
        return None
    return first_after(connection, seqs, stamp)


def first_after(connection: sqlite3.Connection, seqs: SeqRange, stamp: int) -> int:
    """Return the seq of a collection's first version after a stamp, or the seq it would have."""
    row = connection.execute(_SQL["last_extent_from"], (*seqs.extents, stamp)).fetchone()
    if row is None:
        return seqs.first
    extent, appended = row
    base: int = extent << EXTENT_BITS

    def stamp_at(position: int) -> int:
        found: tuple[int] | None = connection.execute(
            _SQL["stamp_at"], (base + position,)
        ).fetchone()
        if found is None:
            raise damaged("a version is missing")
        return found[0]

    return base + bisect.bisect_right(range(appended), stamp, key=stamp_at)
