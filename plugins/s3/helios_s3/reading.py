"""Read what a view shows of one shard, batch by batch."""

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
from helios_s3.encoding import Found, collection_of
from helios_s3.rows import Rows, current_at
from helios_s3.views import Shown, may_satisfy, shown_by

CHUNK_BYTES = 8 * 1024 * 1024
"""How much is asked for at once, unless a single line is larger."""
CHUNK_ROWS = 20_000

RUNS_WITH_LINES = 12
"""Up to so many runs a block of each is kept in memory with its lines."""


async def read(
    rows: Rows, view: ExportView, shard: Shard, batch_bytes: int, prefilter: Prefilter | None
) -> AsyncIterator[Batch]:
    """Yield what a view shows of a shard, by id, less what a prefilter leaves out (P3, P6)."""
    collection = collection_of(TypeKey.of(view.request, shard.resource_type))
    bounds = shown_by(view)
    whole = bounds.shows_all and prefilter is None
    few = len(rows.log.state.checkpoint.runs) <= RUNS_WITH_LINES
    shown = shown_rows(rows, view, shard, with_lines=whole and few)
    async for chunk in _filled(shown, prefilter):
        lines = await rows.lines(collection, chunk)
        batches = await in_thread(_batches, shard.resource_type, chunk, lines, batch_bytes)
        del lines, chunk  # or they would be kept while the next ones are read
        while batches:
            yield batches.pop(0)


async def _filled(
    windows: AsyncIterator[list[Found]], prefilter: Prefilter | None
) -> AsyncIterator[Sequence[Found]]:
    """Yield chunks of live rows, filled from as many windows as that takes."""
    pending = list[Found]()
    async for window in windows:
        pending += (
            each for each in window if not each.row.deleted and may_satisfy(prefilter, each.row)
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
    """Yield the ids of what a view shows as deleted."""
    if view.request.since is None:
        return
    pending = list[str]()
    async for shown in shown_rows(rows, view, shard):
        pending += [each.row.id for each in shown if each.row.deleted]
        while len(pending) >= batch_rows:
            yield pending[:batch_rows]
            del pending[:batch_rows]
    if pending:
        yield pending


async def shown_rows(
    rows: Rows, view: ExportView, shard: Shard, *, with_lines: bool = False
) -> AsyncIterator[list[Found]]:
    """Yield the rows that a view shows of a shard, in windows, deletions included."""
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
        del window  # or it would be kept while the next one is read
        yield found
        del found


def chunks(found: Sequence[Found]) -> Iterator[Sequence[Found]]:
    """Cut rows into pieces whose lines are read at once."""
    begin, size = 0, 0
    for place, each in enumerate(found):
        following = size + each.row.size
        if place > begin and (following > CHUNK_BYTES or place - begin >= CHUNK_ROWS):
            yield found[begin:place]
            begin, following = place, each.row.size
        size = following
    if begin < len(found):
        yield found[begin:]


def is_intact(found: Found, line: bytes) -> bool:
    """Return whether a line is what was written."""
    return len(line) == found.row.size and line_hash(line) == found.row.line_hash


def checked(resource_type: str, found: Sequence[Found], lines: Sequence[bytes]) -> Batch:
    """Return lines as a batch, with reports in place of those that are damaged (P6)."""
    intact, digests, damaged = list[bytes](), list[int](), list[Damaged]()
    for each, line in zip(found, lines, strict=True):
        if is_intact(each, line):
            intact.append(line)
            digests.append(to_unsigned(each.row.line_hash))
        else:
            damaged.append(damage_of(resource_type, each.row.id, line))
    return Batch(lines=intact, damaged=damaged, digests=digests)


def _shown(shown: Shown, window: Sequence[Found]) -> list[Found]:
    return [each for each in current_at(window, shown.at) if shown.shows(each.row)]


def _batches(
    resource_type: str, found: Sequence[Found], lines: Sequence[bytes], batch_bytes: int
) -> list[Batch]:
    batches, begin, size = list[Batch](), 0, 0
    for place, line in enumerate(lines):
        following = size + len(line) + 1
        if place > begin and following > batch_bytes:
            batches.append(checked(resource_type, found[begin:place], lines[begin:place]))
            begin, following = place, len(line) + 1
        size = following
    if begin < len(lines):
        batches.append(checked(resource_type, found[begin:], lines[begin:]))
    return batches
