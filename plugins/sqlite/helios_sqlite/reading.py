"""Reading: the resources of one shard that a view shows, batch by batch."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import accumulate, takewhile

import msgspec

from helios_core import (
    BackendError,
    Batch,
    Cohort,
    Damaged,
    ExportView,
    ResourceSums,
    SeqRange,
    Shard,
    TypeKey,
    collection_range,
    damage_of,
    is_line_of,
    line_hash,
    read_statements,
    shortfall_of,
    to_unsigned,
    verified_batch,
)
from helios_sqlite import errors
from helios_sqlite.collections import find_collection
from helios_sqlite.compartments import pick
from helios_sqlite.databases import Reader
from helios_sqlite.errors import is_damage, primary_code
from helios_sqlite.integrity import (
    Extent,
    check_collections,
    check_extents,
    exists,
    extents_of,
    lacks,
    next_extent,
    snapshot,
)
from helios_sqlite.views import Shown, shown_by

_SQL = read_statements("helios_sqlite", "reading")


EXTENTS_AT_ONCE = 8
"""The most extents of a cohort that one query reads, after an estimate that they fit a batch."""

KEYS_AT_ONCE = 256
DAMAGED_AT_ONCE = 1000

_Row = tuple[int, str, int, int, bytes | None]
_Together = tuple[float, float, str | None, bytes | None]


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a shard that is left to read."""

    shown: Shown
    resource_type: str
    picked: bool
    """Whether only the seqs in the reader's table `picked` are read."""
    checked: int = -1
    """The last extent that was verified."""
    broken: int = -1
    """The last extent with missing versions; it is read by the keys in an index."""
    reports: tuple[Damaged, ...] = ()
    """Reports to return before the first read."""

    def starting(self, first: int) -> "Slice":
        """Return the slice from a seq on."""
        return msgspec.structs.replace(
            self, shown=msgspec.structs.replace(self.shown, first=first)
        )

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the parameters of a query over the slice."""
        return msgspec.structs.asdict(self.shown) | others


def begin(reader: Reader, view: ExportView, shard: Shard) -> Slice | None:
    """Return the slice of a whole shard, or None if its type has no versions."""
    connection = reader.connection
    key = TypeKey.of(view.request, shard.resource_type)
    collection = find_collection(connection, key)
    if collection is None:
        check_collections(connection)
        return None
    check_extents(connection, collection)
    seqs = collection_range(collection).within(start=shard.start, end=shard.end)
    shown = shown_by(view, collection, seqs)
    left = Slice(shown=shown, resource_type=shard.resource_type, picked=view.cohort is not None)
    if view.cohort is None:
        return left
    _load(reader, view.cohort)
    reports = pick(connection, key, seqs, view.cohort.patients)
    return msgspec.structs.replace(left, reports=reports)


def _load(reader: Reader, cohort: Cohort) -> None:
    """Load a cohort into the reader's table `cohort`, unless it is there already (P4)."""
    if reader.cohort_key == cohort.key:
        return
    reader.cohort_key = None
    connection = reader.connection
    connection.execute("BEGIN")
    try:
        connection.execute(_SQL["clear_cohort"])
        rows = ((patient,) for patient in cohort.patients)
        connection.executemany(_SQL["add_to_cohort"], rows)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    reader.cohort_key = cohort.key


def next_batch(
    connection: sqlite3.Connection, left: Slice, batch_bytes: int
) -> tuple[Batch, Slice | None]:
    """
    Return the next batch, and the slice that is left after it (P3, P6, P9).

    Raises:
        BackendError: An extent is missing.
    """
    if left.reports:
        return Batch(damaged=left.reports), msgspec.structs.replace(left, reports=())
    with snapshot(connection):
        return _next_batch(connection, left, batch_bytes)


def _next_batch(
    connection: sqlite3.Connection, left: Slice, batch_bytes: int
) -> tuple[Batch, Slice | None]:
    seqs = _remaining(connection, left)
    extent = next_extent(connection, seqs) if seqs else None
    if seqs is None or extent is None:
        if left.picked and seqs is not None:
            raise errors.damaged("an extent is missing")
        return Batch(), None
    fits = extent.appended_bytes <= batch_bytes and extent.number != left.broken
    if fits and (window := _next_window(connection, left, seqs, extent, batch_bytes)):
        return window
    return _next_rows(connection, left, seqs, extent, batch_bytes)


def _next_window(
    connection: sqlite3.Connection, left: Slice, seqs: SeqRange, extent: Extent, batch_bytes: int
) -> tuple[Batch, Slice | None] | None:
    """Return the rest of one or several extents, or None if rows must be verified one by one."""
    try:
        window = seqs.within_extent(extent.number)
        batch = None
        if left.picked:
            window, batch = _wide_window(connection, left, seqs, batch_bytes)
        if batch is None:
            together = _row(connection, left, window)
            batch = _verified(*together)
            if batch is None or not _is_all(connection, left, extent, batch, together):
                return None
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None
    return batch, left.starting(window.end) if window.end < seqs.end else None


def _is_all(
    connection: sqlite3.Connection, left: Slice, extent: Extent, batch: Batch, together: _Together
) -> bool:
    """Return whether nothing is missing from the batch of an extent."""
    if left.picked:
        return True
    window = SeqRange(first=left.shown.first, end=left.shown.end).within_extent(extent.number)
    if extent.number <= left.checked:
        return not lacks(connection, extent, window)
    high, low, _, content = together
    count = len(batch.lines)
    size = len(content or b"") - max(count - 1, 0)
    expected = extent.current(all_resources=left.shown.all_resources)
    if expected.agree(ResourceSums(count, size, (int(high) << 32) + int(low))):
        return True
    # The view shows something else than all that is current; usually nothing is damaged.
    return extent.count_of_damaged(connection) is None and not lacks(connection, extent, window)


def _next_rows(
    connection: sqlite3.Connection, left: Slice, seqs: SeqRange, extent: Extent, batch_bytes: int
) -> tuple[Batch, Slice | None]:
    """Return a batch of rows of one extent, each of which is verified."""
    window = seqs.within_extent(extent.number)
    shown = msgspec.structs.replace(left.shown, first=window.first, end=window.end)
    within = msgspec.structs.replace(left, shown=shown)
    found = None
    if not left.picked and extent.number > left.checked:
        found = extent.count_of_damaged(connection)
    if found is None and not left.picked and extent.number != left.broken:
        found = 0 if lacks(connection, extent, window) else None
    broken = left.broken if found is None else extent.number
    by_key = broken == extent.number
    batch, following = _rows_of(connection, within, batch_bytes, by_key=by_key)
    if found is not None:
        report = shortfall_of(left.resource_type, found=found, expected=extent.appended)
        batch = msgspec.structs.replace(batch, damaged=[report, *batch.damaged])
    following = window.end if following is None else following
    if following >= seqs.end:
        return batch, None
    rest = left.starting(following)
    return batch, msgspec.structs.replace(rest, checked=extent.number, broken=broken)


def _rows_of(
    connection: sqlite3.Connection, left: Slice, batch_bytes: int, *, by_key: bool
) -> tuple[Batch, int | None]:
    query = _SQL["live_of_cohort"] if left.picked else _SQL["live"]
    if not by_key:
        try:
            with closing(connection.execute(query, left.parameters(room=batch_bytes))) as rows:
                return _gather(connection, left, rows, batch_bytes)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
    return _one_by_one(connection, left, batch_bytes)


def _wide_window(
    connection: sqlite3.Connection, left: Slice, seqs: SeqRange, batch_bytes: int
) -> tuple[SeqRange, Batch | None]:
    """Return a range of several extents with the cohort's batch, or the first one with None."""
    first, last = seqs.extents
    bounds = {"first": first, "last": last, "most": EXTENTS_AT_ONCE}
    extents = connection.execute(_SQL["extents_of_cohort"], bounds).fetchall()
    sizes = accumulate(guess for _, _, guess in extents)
    count = sum(1 for _ in takewhile(lambda size: size <= batch_bytes // 2, sizes))
    single = seqs.within_extent(extents[0][0])
    if count <= 1:
        return single, None
    window = SeqRange(first=seqs.first, end=seqs.within_extent(extents[count - 1][0]).end)
    together = _row(connection, left, window)
    if len(together[-1] or b"") > batch_bytes:
        return single, None
    batch = _verified(*together)
    return (single, None) if batch is None else (window, batch)


def _row(connection: sqlite3.Connection, left: Slice, window: SeqRange) -> _Together:
    query = _SQL["window_of_cohort"] if left.picked else _SQL["window"]
    parameters = left.parameters(first=window.first, end=window.end)
    row: _Together = connection.execute(query, parameters).fetchone()
    return row


def _remaining(connection: sqlite3.Connection, left: Slice) -> SeqRange | None:
    """Return the range that is left to read, or None if the cohort has no more versions."""
    first, end = left.shown.first, left.shown.end
    if not left.picked:
        return SeqRange(first=first, end=end)
    picked: int | None
    [picked] = connection.execute(_SQL["first_picked"], (first, end)).fetchone()
    return None if picked is None else SeqRange(first=picked, end=end)


def _verified(high: float, low: float, sizes: str | None, content: bytes | None) -> Batch | None:
    """Return the lines of a window, or None if they do not agree with their hashes."""
    if sizes is None:
        return Batch()
    return verified_batch(content or b"", map(int, sizes.split(",")), (int(high) << 32) + int(low))


def next_among(
    connection: sqlite3.Connection, left: Slice, seqs: Sequence[int], batch_bytes: int
) -> tuple[Batch, int | None]:
    """Return a batch of those of these versions that are shown, and the first seq without room."""
    parameters = left.parameters(seqs=json.dumps(seqs), room=batch_bytes)
    with closing(connection.execute(_SQL["live_among"], parameters)) as rows:
        return _gather(connection, left, rows, batch_bytes)


def unshown_among(connection: sqlite3.Connection, left: Slice, seqs: Sequence[int]) -> set[int]:
    """Return those of these versions that are not shown, missing, or have lost their ending."""
    rows = connection.execute(_SQL["shown_among"], left.parameters(seqs=json.dumps(seqs)))
    return {*seqs}.difference(seq for (seq,) in rows.fetchall())


def check_deletions(connection: sqlite3.Connection, left: Slice) -> None:
    """
    Check that no deletion is missing from a slice; `begin` has verified cohorts.

    Raises:
        BackendError: Versions are missing or damaged.
    """
    if left.reports:
        raise _deletions_unknown(left)
    if left.picked:
        return
    with snapshot(connection):
        for extent in extents_of(connection, SeqRange(first=left.shown.first, end=left.shown.end)):
            if extent.count_of_damaged(connection) is not None:
                raise _deletions_unknown(left)


def _deletions_unknown(left: Slice) -> BackendError:
    return errors.damaged(f"deletions of {left.resource_type} may be missing")


def next_deleted(
    connection: sqlite3.Connection, left: Slice, batch_rows: int
) -> tuple[list[str], Slice | None]:
    """Return the next deleted ids, and the slice that is left after them."""
    query = _SQL["deleted_of_cohort"] if left.picked else _SQL["deleted"]
    rows = connection.execute(query, left.parameters(rows=batch_rows)).fetchall()
    ids = [resource_id for _, resource_id in rows]
    return ids, left.starting(rows[-1][0] + 1) if len(rows) == batch_rows else None


def _gather(
    connection: sqlite3.Connection, left: Slice, rows: Iterable[_Row], batch_bytes: int
) -> tuple[Batch, int | None]:
    """Return a batch, and the seq of the first resource without room in it, or None."""
    lines: list[bytes] = []
    digests: list[int] = []
    damaged: list[Damaged] = []
    room = batch_bytes
    following = None
    for seq, resource_id, size, stored_hash, line in rows:
        if (size > room and lines) or len(damaged) == DAMAGED_AT_ONCE:
            following = seq
            break
        if size > batch_bytes:
            line = _large(connection, seq)  # noqa: PLW2901 - the query left it out
        if (
            line is None
            or len(line) != size
            or line_hash(line) != stored_hash
            or not is_line_of(line, left.resource_type, resource_id)
        ):
            damaged.append(damage_of(left.resource_type, resource_id, line))
            continue
        lines.append(line)
        digests.append(to_unsigned(stored_hash))
        room -= size
    return Batch(lines=lines, damaged=damaged, digests=digests), following


def _large(connection: sqlite3.Connection, seq: int) -> bytes | None:
    """Read a resource larger than a batch without the copy that a query would make."""
    try:
        with connection.blobopen("versions", "content", seq, readonly=True) as blob:
            return blob.read()
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        return None  # not a blob at all


def _one_by_one(
    connection: sqlite3.Connection, left: Slice, batch_bytes: int
) -> tuple[Batch, int | None]:
    """Return a batch of rows that are read one by one, with keys from an index."""
    parameters = left.parameters(picked=left.picked, rows=KEYS_AT_ONCE)
    keys = connection.execute(_SQL["keys"], parameters).fetchall()
    rows = _rows_one_by_one(connection, left, keys, batch_bytes)
    batch, following = _gather(connection, left, rows, batch_bytes)
    if following is None and len(keys) == KEYS_AT_ONCE:
        following = keys[-1][0] + 1
    return batch, following


def _rows_one_by_one(
    connection: sqlite3.Connection, left: Slice, keys: Iterable[tuple[int, str]], batch_bytes: int
) -> Iterator[_Row]:
    for seq, resource_id in keys:
        try:
            query = left.parameters(seq=seq, room=batch_bytes)
            found = connection.execute(_SQL["live_one"], query).fetchall()
            if not found and not exists(connection, seq):
                found = [(seq, resource_id, 0, 0, None)]
            yield from found
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            # Whether the row would be shown is unknown; a superfluous report does no harm.
            yield seq, resource_id, 0, 0, None
