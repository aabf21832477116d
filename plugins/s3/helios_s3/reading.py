"""Reading: the resources of one shard that a view shows, batch by batch."""

from collections.abc import AsyncIterator, Iterator, Sequence

from helios_core import (
    Batch,
    Damaged,
    ExportView,
    Shard,
    TypeKey,
    damage_of,
    in_thread,
    line_hash,
    to_unsigned,
)
from helios_core.fhir import Prefilter
from helios_s3.compartments import MARK, shown_of_cohort
from helios_s3.encoding import StoredRow, collection_of
from helios_s3.rows import Rows, current_at
from helios_s3.views import Shown, may_satisfy, shown_by

CHUNK_BYTES = 8 * 1024 * 1024
"""How many bytes of lines are read at once, unless a single line is larger."""
CHUNK_ROWS = 20_000

RUNS_WITH_LINES = 12
"""With more runs, blocks are kept in memory without their lines."""


async def read(
    rows: Rows, view: ExportView, shard: Shard, batch_bytes: int, prefilter: Prefilter | None
) -> AsyncIterator[Batch]:
    """Yield the shown resources of a shard that may satisfy a prefilter, by id (P3, P6)."""
    collection = collection_of(TypeKey.of(view.request, shard.resource_type))
    bounds = shown_by(view)
    reads_all = bounds.shows_all and prefilter is None
    few_runs = len(rows.log.state.checkpoint.runs) <= RUNS_WITH_LINES
    shown = shown_rows(rows, view, shard, with_lines=reads_all and few_runs)
    async for chunk in _filled(shown, prefilter):
        lines = await rows.lines(collection, chunk)
        batches = await in_thread(_batches, shard.resource_type, chunk, lines, batch_bytes)
        del lines, chunk  # or they would stay in memory while the next ones are read
        while batches:
            yield batches.pop(0)


async def _filled(
    windows: AsyncIterator[list[StoredRow]], prefilter: Prefilter | None
) -> AsyncIterator[Sequence[StoredRow]]:
    """Yield full chunks of live rows, each from one or several windows."""
    pending = list[StoredRow]()
    async for window in windows:
        pending += (
            stored
            for stored in window
            if not stored.row.deleted and may_satisfy(prefilter, stored.row)
        )
        del window
        full, pending = list(chunks(pending)), []
        if full:
            pending = [*full.pop()]
        while full:
            yield full.pop(0)
    if pending:
        yield pending


async def read_deleted(
    rows: Rows, view: ExportView, shard: Shard, batch_rows: int
) -> AsyncIterator[Sequence[str]]:
    """Yield the ids of deletions that a view shows."""
    if view.request.since is None:
        return
    pending = list[str]()
    async for shown in shown_rows(rows, view, shard):
        pending += [stored.row.id for stored in shown if stored.row.deleted]
        while len(pending) >= batch_rows:
            yield pending[:batch_rows]
            del pending[:batch_rows]
    if pending:
        yield pending


async def shown_rows(
    rows: Rows, view: ExportView, shard: Shard, *, with_lines: bool = False
) -> AsyncIterator[list[StoredRow]]:
    """Yield the rows of a shard that a view shows, in windows, deletions included."""
    shown = shown_by(view)
    await rows.log.require(shown.at)
    if shard.start is not None and shard.start.startswith(MARK):
        async for of_cohort in shown_of_cohort(rows, view, shard):
            yield of_cohort
            del of_cohort
        return
    collection = collection_of(TypeKey.of(view.request, shard.resource_type))
    scanned = rows.scan(collection, shard.start, shard.end, with_lines=with_lines)
    async for window in scanned:
        found = await in_thread(_shown, shown, window)
        del window  # or it would stay in memory while the next one is read
        yield found
        del found


def chunks(found: Sequence[StoredRow]) -> Iterator[Sequence[StoredRow]]:
    """Cut rows into chunks whose lines are read at once."""
    begin, size = 0, 0
    for index, stored in enumerate(found):
        following = size + stored.row.size
        if index > begin and (following > CHUNK_BYTES or index - begin >= CHUNK_ROWS):
            yield found[begin:index]
            begin, following = index, stored.row.size
        size = following
    if begin < len(found):
        yield found[begin:]


def is_intact(found: StoredRow, line: bytes) -> bool:
    """Return whether a line agrees with the size and hash in its row."""
    return len(line) == found.row.size and line_hash(line) == found.row.line_hash


def checked(resource_type: str, found: Sequence[StoredRow], lines: Sequence[bytes]) -> Batch:
    """Return lines as a batch, with reports instead of damaged ones (P6)."""
    intact, digests, damaged = list[bytes](), list[int](), list[Damaged]()
    for stored, line in zip(found, lines, strict=True):
        if is_intact(stored, line):
            intact.append(line)
            digests.append(to_unsigned(stored.row.line_hash))
        else:
            damaged.append(damage_of(resource_type, stored.row.id, line))
    return Batch(lines=intact, damaged=damaged, digests=digests)


def _shown(shown: Shown, window: Sequence[StoredRow]) -> list[StoredRow]:
    return [stored for stored in current_at(window, shown.at) if shown.shows(stored.row)]


def _batches(
    resource_type: str, found: Sequence[StoredRow], lines: Sequence[bytes], batch_bytes: int
) -> list[Batch]:
    batches, begin, size = list[Batch](), 0, 0
    for index, line in enumerate(lines):
        following = size + len(line) + 1
        if index > begin and following > batch_bytes:
            batches.append(checked(resource_type, found[begin:index], lines[begin:index]))
            begin, following = index, len(line) + 1
        size = following
    if begin < len(lines):
        batches.append(checked(resource_type, found[begin:], lines[begin:]))
    return batches
