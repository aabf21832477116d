"""What a view means in SQL: bounds of seqs, bounds of stamps, and whose resources."""

import bisect
import sqlite3

import msgspec

from helios_core import EXTENT_BITS, ExportView, Level, SeqRange, collection_range
from helios_core.fhir import FOREVER, to_stamp
from helios_sqlite.collections import Scope

_LAST_EXTENT_FROM = """
SELECT extent, appended FROM extents
WHERE extent BETWEEN ? AND ? AND first_stamp <= ? ORDER BY extent DESC LIMIT 1
"""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions of a scope a view shows, as the parameters of a query."""

    at: int
    since: int
    """Shown are versions that became current strictly after it."""
    until: int
    """Shown are versions that became current strictly before it."""
    everybody: bool
    """Whether resources outside every compartment are shown."""
    scope: int
    first: int
    end: int


def shown_by(view: ExportView, scope: int, seqs: SeqRange) -> Shown:
    """Return which versions of a range of a scope a view shows; its cohort is another matter."""
    since, until = view.request.since, view.request.until
    return Shown(
        at=to_stamp(view.transaction_time),
        since=-1 if since is None else to_stamp(since),
        until=FOREVER if until is None else to_stamp(until),
        everybody=view.request.level is Level.SYSTEM or view.cohort is not None,
        scope=scope,
        first=seqs.first,
        end=seqs.end,
    )


def seqs_of(connection: sqlite3.Connection, view: ExportView, scope: Scope) -> SeqRange:
    """Give the range outside of which a scope has nothing for a view, by the order of stamps."""
    whole = collection_range(scope.number)
    since, until = view.request.since, view.request.until
    last = to_stamp(view.transaction_time)
    if until is not None:
        last = min(last, to_stamp(until) - 1)
    return SeqRange(
        first=whole.first if since is None else first_after(connection, whole, to_stamp(since)),
        end=whole.end if last >= scope.last_stamp else first_after(connection, whole, last),
    )


def first_after(connection: sqlite3.Connection, whole: SeqRange, stamp: int) -> int:
    """Give the seq that a scope's first version after an instant has, or would have."""
    row = connection.execute(_LAST_EXTENT_FROM, (*whole.extents, stamp)).fetchone()
    if row is None:
        return whole.first
    extent, appended = row
    base: int = extent << EXTENT_BITS

    def stamp_at(place: int) -> int:
        query = "SELECT since_stamp FROM versions WHERE seq = ?"
        found: int = connection.execute(query, (base + place,)).fetchone()[0]
        return found

    return base + bisect.bisect_right(range(appended), stamp, key=stamp_at)
