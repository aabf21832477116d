"""Blocks of lines: what belongs together, gathered where there is room, and cut into parts."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

import msgspec

from helios_core.export.ndjson import PartCutter, to_chunks
from helios_core.export.pipeline.scratch import ScratchDatabase
from helios_core.model.completeness import lines_digest, sum_digests
from helios_core.storage.data_provider import Batch

SCHEMA = """
CREATE TABLE blocks (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE lines (number INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE placed (
  block INTEGER NOT NULL, line INTEGER NOT NULL, size INTEGER NOT NULL,
  PRIMARY KEY (block, line)
) WITHOUT ROWID;
"""
HEAD = 0
"""The line under which a block notes that it is to be shown though nothing may refer to it."""

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

Placed = tuple[Sequence[str], bytes]
"""The ids of the blocks a line belongs to, and the line."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that something refers to, or that is itself among what is exported."""

    number: int
    id: str
    rows: int
    bytes: int


class BlockBuilder:
    """Lines on their way into blocks; memory does not grow with them."""

    def __init__(self, room: ScratchDatabase) -> None:
        self._room = room

    async def open(self, ids: Sequence[str]) -> None:
        """Make blocks in a certain order; others are made when something is placed in them."""
        await self._room.run(_open, ids)

    async def show(self, ids: Sequence[str]) -> None:
        """See to it that blocks are shown even if nothing refers to them."""
        await self._room.run(_show, ids)

    async def place(self, placed: Sequence[Placed]) -> None:
        """Put lines into their blocks."""
        await self._room.run(_place, placed)

    async def blocks(self, at_once: int) -> AsyncGenerator[list[Block]]:
        """Give the blocks in order, some at a time."""
        after = 0
        while (last := await self._room.run(_last, after, at_once)) is not None:
            yield await self._room.run(_blocks, after, at_once)
            after = last

    async def lines(self, block: Block, batch_bytes: int) -> AsyncGenerator[list[bytes]]:
        """Give what is in a block in the order in which it was placed."""
        after: int | None = HEAD
        while after is not None:
            lines, after = await self._room.run(_lines, block.number, after, batch_bytes)
            if lines:
                yield lines


class BlockPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Some lines of a block."""

    header: bytes
    """The line that heads the block in every part it is in."""
    lines: Sequence[bytes]
    opens: bool
    """Whether the block begins here."""
    block_rows: int
    block_bytes: int
    """What the whole block needs, its header included."""


class BlockCutter(PartCutter):
    """
    Cuts blocks into parts: a block is divided only where a whole part could not hold it.

    Headers are repeated in every part and do not count as rows.
    """

    def __init__(
        self, source: AsyncIterator[BlockPiece], *, max_bytes: int, max_rows: int | None
    ) -> None:
        super().__init__(_no_lines(), max_bytes=max_bytes, max_rows=max_rows)
        self._pieces = source
        self._piece: BlockPiece | None = None
        self._begun = False

    async def more(self) -> bool:
        """Whether another part is to come; waits for its first lines."""
        while self._piece is None or not self._waiting:
            self._piece = await anext(self._pieces, None)
            if self._piece is None:
                return False
            self._waiting, self._begun = self._piece.lines, False
        return True

    async def part(self) -> AsyncGenerator[bytes]:
        """Give one part as chunks, to be called only after `more` said there is one."""
        self.rows = self.bytes = self.digest_sum = 0
        self.continues = False
        while await self.more() and self._piece is not None:
            opens = self._piece.opens and not self._begun
            if opens and self.bytes and not self._holds(self._piece):
                return
            if opens or not self.bytes:
                self._count([self._piece.header], rows=0)
                yield self._piece.header + b"\n"
            fits, _ = self._fitting()
            if not fits:
                self.continues = True
                return
            taken, self._waiting = self._waiting[:fits], self._waiting[fits:]
            self._begun = True
            self._count(taken, rows=fits)
            chunks = to_chunks(taken)
            del taken  # a large line must not outlive its chunk
            while chunks:
                yield chunks.pop(0)

    def _holds(self, piece: BlockPiece) -> bool:
        rows = self.rows + piece.block_rows
        few = self._max_rows is None or rows <= self._max_rows
        return few and self.bytes + piece.block_bytes <= self._max_bytes

    def _count(self, lines: Sequence[bytes], *, rows: int) -> None:
        self.rows += rows
        self.total_rows += rows
        self.bytes += sum(map(len, lines)) + len(lines)
        self.digest_sum = sum_digests(self.digest_sum, lines_digest(lines))


async def _no_lines() -> AsyncGenerator[Batch]:
    for batch in tuple[Batch]():
        yield batch


def _open(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    connection.execute("BEGIN")
    for each in ids:
        _number(connection, each)
    connection.execute("COMMIT")


def _number(connection: sqlite3.Connection, block_id: str) -> int:
    [(number,)] = connection.execute(_BLOCK, (block_id,)).fetchall()
    return int(number)


def _show(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    connection.execute("BEGIN")
    connection.executemany(_PLACE, [(_number(connection, each), HEAD, 0) for each in ids])
    connection.execute("COMMIT")


def _place(connection: sqlite3.Connection, placed: Sequence[Placed]) -> None:
    connection.execute("BEGIN")
    for ids, line in placed:
        number = connection.execute(_LINE, (line,)).lastrowid
        rows = [(_number(connection, each), number, len(line) + 1) for each in ids]
        connection.executemany(_PLACE, rows)
    connection.execute("COMMIT")


def _last(connection: sqlite3.Connection, after: int, at_once: int) -> int | None:
    found: int | None = connection.execute(_LAST, (after, at_once)).fetchone()[0]
    return found


def _blocks(connection: sqlite3.Connection, after: int, at_once: int) -> list[Block]:
    return [
        Block(number=number, id=block_id, rows=rows, bytes=int(size))
        for number, block_id, rows, size in connection.execute(_BLOCKS, (after, at_once))
    ]


def _lines(
    connection: sqlite3.Connection, block: int, after: int, batch_bytes: int
) -> tuple[list[bytes], int | None]:
    """Give lines of a block, and behind which one to go on; None at its end."""
    lines = list[bytes]()
    room = batch_bytes
    for number, size, line in connection.execute(_LINES, (block, after)):
        if lines and size > room:
            return lines, after
        lines.append(line)
        after, room = number, room - size
    return lines, None
