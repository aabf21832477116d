"""Windows: runs of extents that are read by one query."""

from collections.abc import Iterator, Sequence

import msgspec

from helios_core import SeqRange, read_statements
from helios_postgres.connections import Connection
from helios_postgres.views import Shown

_SQL = read_statements("helios_postgres", "windows")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A run of seqs, with the rows and bytes in it, whether shown or not."""

    seqs: SeqRange
    rows: int
    bytes: int


async def windows_of(connection: Connection, seqs: SeqRange, shown: Shown) -> list[Window]:
    """Return one window per extent that may have something that a view shows, in order."""
    rows = await connection.fetch(
        _SQL["extents"], *seqs.extents, shown.at, shown.since, shown.until
    )
    return [
        Window(seqs=seqs.within_extent(extent), rows=appended, bytes=size)
        for extent, appended, size in rows
    ]


def join_windows(windows: Sequence[Window], batch_bytes: int) -> Iterator[Window]:
    """Join adjacent windows as long as they fit into one batch."""
    start = 0
    while start < len(windows):
        end, rows, size = start, 0, 0
        while end < len(windows) and (end == start or size + windows[end].bytes <= batch_bytes):
            rows, size = rows + windows[end].rows, size + windows[end].bytes
            end += 1
        seqs = SeqRange(first=windows[start].seqs.first, end=windows[end - 1].seqs.end)
        yield Window(seqs=seqs, rows=rows, bytes=size)
        start = end
