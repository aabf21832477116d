"""Extents: objects with the rows of many commits, sorted, in blocks."""

from xxhash import xxh3_64_intdigest

from helios_s3.encoding import Block, Row, encode_hashes, encode_rows

BLOCK_BYTES = 3 * 1024 * 1024
BLOCK_ROWS = 4096
EXTENT_BYTES = 12 * 1024 * 1024


class ExtentBuilder:
    """Builds the bytes of one extent from sorted rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: list[Block] = []
        self.hashes: list[bytes] = []
        """For each block, the encoded hashes of its ids."""
        self._pieces: list[bytes] = []
        self._rows: list[Row] = []
        self._lines: list[bytes] = []
        self._ids: list[str] = []
        self._collection = ""
        self._line_bytes = 0
        self._size = 0

    @property
    def full(self) -> bool:
        """Whether the next id must go into another extent."""
        return self._size + self._line_bytes >= EXTENT_BYTES

    def add(self, collection: str, row: Row, line: bytes | None) -> None:
        """Add a row, with its line unless it is a deletion."""
        following = collection != self._collection or not self._ids or row.id != self._ids[-1]
        if collection != self._collection or (following and self._is_block):
            self._end_block()
            self._collection = collection
        if following:
            self._ids.append(row.id)
        self._rows.append(row)
        if line is not None:
            self._lines += (line, b"\n")
            self._line_bytes += len(line) + 1

    def finish(self) -> bytes:
        """Return the bytes of the extent."""
        self._end_block()
        return b"".join(self._pieces)

    @property
    def _is_block(self) -> bool:
        return len(self._rows) >= BLOCK_ROWS or self._line_bytes >= BLOCK_BYTES

    def _end_block(self) -> None:
        if not self._rows:
            return
        rows, hashes = encode_rows(self._rows), encode_hashes(self._ids)
        stamps = [row.stamp for row in self._rows]
        self.blocks.append(
            Block(
                extent=self.name,
                collection=self._collection,
                first=self._rows[0].id,
                last=self._rows[-1].id,
                rows=len(self._rows),
                resources=sum(not row.deleted for row in self._rows),
                earliest=min(stamps),
                latest=max(stamps),
                offset=self._size,
                line_bytes=self._line_bytes,
                row_bytes=len(rows),
                row_hash=xxh3_64_intdigest(rows),
                ids=len(self._ids),
                id_hash=xxh3_64_intdigest(hashes),
            )
        )
        self.hashes.append(hashes)
        self._pieces += (*self._lines, rows, hashes)
        self._size += self._line_bytes + len(rows) + len(hashes)
        self._rows, self._lines, self._ids, self._line_bytes = [], [], [], 0
