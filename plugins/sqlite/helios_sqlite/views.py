"""What a view means in SQL: bounds of seqs, bounds of stamps, and whose resources."""

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
    """Which versions of a collection a view shows, as the parameters of a query."""

    at: int
    since: int
    """Shown are versions that became current strictly after it."""
    until: int
    """Shown are versions that became current strictly before it."""
    everybody: bool
    """Whether resources outside every compartment are shown."""
    collection: int
    first: int
    end: int


def shown_by(view: ExportView, collection: int, seqs: SeqRange) -> Shown:
    """Return which versions in a range of a collection a view shows, its cohort aside."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        everybody=view.request.level is Level.SYSTEM or view.cohort is not None,
        collection=collection,
        first=seqs.first,
        end=seqs.end,
    )


def seqs_of(connection: sqlite3.Connection, view: ExportView, collection: Collection) -> SeqRange:
    """Return the range that holds all a collection has for a view, by the order of stamps."""
    whole = collection_range(collection.number)
    since, until = view.request.since, view.request.until
    last = to_stamp(view.transaction_time)
    if until is not None:
        last = min(last, to_stamp(until) - 1)
    first = None if since is None else _first_after(connection, whole, to_stamp(since))
    end = None if last >= collection.last_stamp else _first_after(connection, whole, last)
    return SeqRange(
        first=whole.first if first is None else first, end=whole.end if end is None else end
    )


def _first_after(connection: sqlite3.Connection, whole: SeqRange, stamp: int) -> int | None:
    """Return `first_after`, or None if the extent that says it is damaged."""
    row = connection.execute(_SQL["last_extent_from"], (*whole.extents, stamp)).fetchone()
    if row is not None and extent_at(connection, row[0]).count_of_damaged(connection) is not None:
        return None
    return first_after(connection, whole, stamp)


def first_after(connection: sqlite3.Connection, whole: SeqRange, stamp: int) -> int:
    """Return the seq that a collection's first version after an instant has, or would have."""
    row = connection.execute(_SQL["last_extent_from"], (*whole.extents, stamp)).fetchone()
    if row is None:
        return whole.first
    extent, appended = row
    base: int = extent << EXTENT_BITS

    def stamp_at(place: int) -> int:
        found: tuple[int] | None = connection.execute(_SQL["stamp_at"], (base + place,)).fetchone()
        if found is None:
            raise damaged("a version is missing")
        return found[0]

    return base + bisect.bisect_right(range(appended), stamp, key=stamp_at)
