"""Blocks of lines: gathered in a scratch database, then cut into parts."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

import msgspec

from helios_core.export.ndjson import PartCutter, to_chunks
from helios_core.export.pipeline.scratch import ScratchDatabase
from helios_core.model.completeness import lines_digest, sum_digests

SCHEMA = """
CREATE TABLE blocks (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, dropped INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE lines (number INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE placed (
  block INTEGER NOT NULL, line INTEGER NOT NULL, size INTEGER NOT NULL,
  PRIMARY KEY (block, line)
) WITHOUT ROWID;
"""
HEAD = 0
"""The line number that marks a block as required, even if no line is placed in it."""

_BLOCK = "INSERT INTO blocks (id) VALUES (?) ON CONFLICT DO UPDATE SET id = id RETURNING number"
_LINE = "INSERT INTO lines (line) VALUES (?)"
_PLACE = "INSERT OR IGNORE INTO placed VALUES (?, ?, ?)"
_BLOCKS = """
SELECT b.number, b.id, count(*) FILTER (WHERE p.line > 0), total(p.size)
FROM (SELECT * FROM blocks WHERE number > ? ORDER BY number LIMIT ?) AS b
JOIN placed AS p ON p.block = b.number GROUP BY b.number ORDER BY b.number
"""
_LAST = (
    "SELECT max(number) FROM (SELECT number FROM blocks WHERE number > ? ORDER BY number LIMIT ?)"
)
_LINES = """
SELECT p.line, p.size, l.line FROM placed AS p JOIN lines AS l ON l.number = p.line
WHERE p.block = ? AND p.line > ? ORDER BY p.line
"""

_DROP = "UPDATE blocks SET dropped = 1 WHERE number = ?"
_DROPPED_LINES = """
SELECT count(DISTINCT p.line) - count(DISTINCT p.line) FILTER (WHERE NOT b.dropped)
FROM placed AS p JOIN blocks AS b ON b.number = p.block WHERE p.line > 0
"""

PlacedLine = tuple[Sequence[str], bytes]
"""The ids of the blocks that a line belongs to, and the line."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """The block of one instance; it has lines, or the export includes the instance itself."""

    number: int
    id: str
    """The id of the instance."""
    rows: int
    """Lines placed in the block; the instance itself is not one of them."""
    bytes: int
    """Bytes of these lines, newlines included."""


class BlockBuilder:
    """Gathers lines into blocks in a scratch database, so that memory does not grow with them."""

    def __init__(self, scratch: ScratchDatabase) -> None:
        self._scratch = scratch

    async def open(self, ids: Sequence[str]) -> None:
        """Create blocks in this order. Other blocks are created when a line is placed in them."""
        await self._scratch.run(_open, ids)

    async def require(self, ids: Sequence[str]) -> None:
        """Mark blocks that `blocks` returns even if no line is placed in them."""
        await self._scratch.run(_require, ids)

    async def place(self, lines: Sequence[PlacedLine]) -> None:
        """Put lines into their blocks."""
        await self._scratch.run(_place, lines)

    async def blocks(self, page_size: int) -> AsyncGenerator[list[Block]]:
        """Yield the blocks in the order of creation, up to `page_size` at a time."""
        after = 0
        while (last := await self._scratch.run(_last, after, page_size)) is not None:
            yield await self._scratch.run(_blocks, after, page_size)
            after = last

    async def drop(self, block: Block) -> None:
        """Mark a block as left out."""
        await self._scratch.run(_drop, block.number)

    async def dropped_lines(self) -> int:
        """Return how many lines are only in blocks that are left out."""
        return await self._scratch.run(_dropped_lines)

    async def lines(self, block: Block, batch_bytes: int) -> AsyncGenerator[list[bytes]]:
        """Yield the lines of a block in the order in which they were placed."""
        after: int | None = HEAD
        while after is not None:
            lines, after = await self._scratch.run(_lines, block.number, after, batch_bytes)
            if lines:
                yield lines


class BlockPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive lines of one block."""

    header: bytes
    """The line that heads the block in every part it is in."""
    lines: Sequence[bytes]
    opens: bool
    """Whether these are the first lines of the block."""
    block_rows: int
    """Rows of the whole block, without the header."""
    block_bytes: int
    """Bytes of the whole block, with one header; newlines included."""


class BlockCutter(PartCutter):
    """
    Cuts blocks into parts: a block is divided only if it is larger than a whole part.

    A header is repeated in every part that holds lines of its block, and does not count as a row.
    """

    def __init__(
        self, source: AsyncIterator[BlockPiece], *, max_bytes: int, max_rows: int | None
    ) -> None:
        super().__init__(max_bytes=max_bytes, max_rows=max_rows)
        self._source = source
        self._piece: BlockPiece | None = None
        self._piece_started = False

    async def more(self) -> bool:
        """Wait for the next line, and return whether there is one to start a part with."""
        while self._piece is None or not self._waiting:
            self._piece = await anext(self._source, None)
            if self._piece is None:
                return False
            self._waiting, self._piece_started = self._piece.lines, False
        return True

    async def part(self) -> AsyncGenerator[bytes]:
        """Yield one part as chunks of NDJSON. Call it only after `more` returned true."""
        self.rows = self.bytes = self.digest_sum = 0
        self.continues = False
        while await self.more() and self._piece is not None:
            opens_block = self._piece.opens and not self._piece_started
            if opens_block and self.bytes and not self._block_fits(self._piece):
                return
            if opens_block or not self.bytes:
                self._count([self._piece.header], rows=0)
                yield self._piece.header + b"\n"
            count, _ = self._fitting()
            if not count:
                self.continues = True
                return
            lines, self._waiting = self._waiting[:count], self._waiting[count:]
            self._piece_started = True
            self._count(lines, rows=count)
            chunks = to_chunks(lines)
            del lines  # a large line must not outlive its chunk
            while chunks:
                yield chunks.pop(0)

    def _block_fits(self, piece: BlockPiece) -> bool:
        rows = self.rows + piece.block_rows
        within_rows = self._max_rows is None or rows <= self._max_rows
        return within_rows and self.bytes + piece.block_bytes <= self._max_bytes

    def _count(self, lines: Sequence[bytes], *, rows: int) -> None:
        self.rows += rows
        self.total_rows += rows
        self.bytes += sum(map(len, lines)) + len(lines)
        self.digest_sum = sum_digests(self.digest_sum, lines_digest(lines))


def _open(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    connection.execute("BEGIN")
    for block_id in ids:
        _block_number(connection, block_id)
    connection.execute("COMMIT")


def _block_number(connection: sqlite3.Connection, block_id: str) -> int:
    """Return the number of a block, creating the block if there is none."""
    [(number,)] = connection.execute(_BLOCK, (block_id,)).fetchall()
    return int(number)


def _require(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    connection.execute("BEGIN")
    rows = [(_block_number(connection, block_id), HEAD, 0) for block_id in ids]
    connection.executemany(_PLACE, rows)
    connection.execute("COMMIT")


def _place(connection: sqlite3.Connection, lines: Sequence[PlacedLine]) -> None:
    connection.execute("BEGIN")
    for ids, line in lines:
        number = connection.execute(_LINE, (line,)).lastrowid
        size = len(line) + 1
        rows = [(_block_number(connection, block_id), number, size) for block_id in ids]
        connection.executemany(_PLACE, rows)
    connection.execute("COMMIT")


def _last(connection: sqlite3.Connection, after: int, page_size: int) -> int | None:
    """Return the number of the last block of a page, or None if the page is empty."""
    [(number,)] = connection.execute(_LAST, (after, page_size)).fetchall()
    return None if number is None else int(number)


def _blocks(connection: sqlite3.Connection, after: int, page_size: int) -> list[Block]:
    """Return the blocks of a page; empty blocks that are not required are left out."""
    return [
        Block(number=number, id=block_id, rows=rows, bytes=int(size))
        for number, block_id, rows, size in connection.execute(_BLOCKS, (after, page_size))
    ]


def _drop(connection: sqlite3.Connection, block: int) -> None:
    connection.execute(_DROP, (block,))


def _dropped_lines(connection: sqlite3.Connection) -> int:
    [(count,)] = connection.execute(_DROPPED_LINES).fetchall()
    return int(count)


def _lines(
    connection: sqlite3.Connection, block: int, after: int, batch_bytes: int
) -> tuple[list[bytes], int | None]:
    """Return a batch of lines, and the number of its last line or None at the block's end."""
    lines = list[bytes]()
    budget = batch_bytes
    for number, size, line in connection.execute(_LINES, (block, after)):
        if lines and size > budget:
            return lines, after
        lines.append(line)
        after, budget = number, budget - size
    return lines, None
