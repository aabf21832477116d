"""Frame resources as NDJSON, cut the stream into parts, compress it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from isal import isal_zlib

from helios_core.model.completeness import lines_digest, sum_digests
from helios_core.storage.data_provider import Batch
from helios_core.storage.joined_lines import JoinedLines, line_lengths, ndjson_size

T = TypeVar("T")

LARGE_LINE_BYTES = 1024 * 1024
"""A line longer than this becomes a chunk of its own, so that it is not copied."""

GZIP_LEVEL = 1
"""From 0, the fastest, to 3, the smallest (ISA-L)."""
GZIP_WINDOW_BITS = 31
"""15 bits of window, plus 16 for a gzip header and trailer (RFC 1952)."""


class PartCutter(ABC):
    """
    Cuts a stream of lines into parts by bytes and rows, and counts what each part holds.

    A line is never divided: a part exceeds `max_bytes` only if it holds a single line. Call `more`
    and, if it returns true, consume `part`; then repeat.
    """

    def __init__(self, *, max_bytes: int, max_rows: int | None) -> None:
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._waiting: Sequence[bytes] = ()
        self.rows = 0
        """Lines in the current part: the one being cut, or else the last one."""
        self.bytes = 0
        """Bytes in the current part, newlines included."""
        self.digest_sum = 0
        """The digest of the lines of the current part, in any order."""
        self.total_rows = 0
        """Lines in all parts so far."""
        self.continues = False
        """Whether the last block of the current part continues in the next part."""

    @abstractmethod
    async def more(self) -> bool:
        """Wait for the next line, and return whether there is one to start a part with."""

    @abstractmethod
    def part(self) -> AsyncGenerator[bytes]:
        """Yield one part as chunks of NDJSON. Call it only after `more` returned true."""

    def _fitting(self) -> tuple[int, int]:
        """Return how many of the waiting lines still fit into the part, and their size."""
        count = len(self._waiting)
        size = ndjson_size(self._waiting)
        within_rows = self._max_rows is None or self.rows + count <= self._max_rows
        if within_rows and self.bytes + size <= self._max_bytes:
            return count, size
        count = size = 0
        for length in line_lengths(self._waiting):
            new_size = size + length + 1
            rows = self.rows + count
            if self._max_rows is not None and rows >= self._max_rows:
                break
            if rows and self.bytes + new_size > self._max_bytes:
                break
            count, size = count + 1, new_size
        return count, size


class LineCutter(PartCutter):
    """Cuts batches of lines into parts."""

    def __init__(
        self, source: AsyncIterator[Batch], *, max_bytes: int, max_rows: int | None
    ) -> None:
        super().__init__(max_bytes=max_bytes, max_rows=max_rows)
        self._source = source
        self._digests: Sequence[int] | None = None
        """The digests of the waiting lines, if the batch brought them."""

    async def more(self) -> bool:
        """Wait for the next line, and return whether there is one to start a part with."""
        while not self._waiting:
            try:
                batch = await anext(self._source)
            except StopAsyncIteration:
                return False
            self._waiting, self._digests = batch.lines, batch.digests
        return True

    async def part(self) -> AsyncGenerator[bytes]:
        """Yield one part as chunks of NDJSON. Call it only after `more` returned true."""
        self.rows = self.bytes = self.digest_sum = 0
        while await self.more():
            count, size = self._fitting()
            if not count:
                return
            self.rows += count
            self.bytes += size
            self.total_rows += count
            lines = self._take(count)
            chunks = to_chunks(lines)
            del lines  # a large line must not outlive its chunk
            while chunks:
                yield chunks.pop(0)

    def _take(self, count: int) -> Sequence[bytes]:
        """Remove the first waiting lines, add them to the digest, and return them."""
        lines, self._waiting = self._waiting[:count], self._waiting[count:]
        if self._digests is None:
            self.digest_sum = sum_digests(self.digest_sum, lines_digest(lines))
        else:
            self.digest_sum = sum_digests(self.digest_sum, *self._digests[:count])
            self._digests = self._digests[count:]
        return lines


def to_chunks(lines: Sequence[bytes]) -> list[bytes]:
    """Return the lines as chunks of NDJSON, each line followed by a newline."""
    if isinstance(lines, JoinedLines):
        return lines.chunks()
    if max(map(len, lines), default=0) <= LARGE_LINE_BYTES:
        return [b"\n".join((*lines, b""))] if lines else []
    chunks = list[bytes]()
    small = list[bytes]()
    for line in lines:
        if len(line) <= LARGE_LINE_BYTES:
            small.append(line)
            continue
        chunks += to_chunks(small)
        small = []
        chunks += (line, b"\n")
    return chunks + to_chunks(small)


async def gzip_chunks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield a stream compressed with gzip, computed in a thread."""
    compressor = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW_BITS)
    async for chunk in chunks:
        if compressed := await asyncio.to_thread(compressor.compress, chunk):
            yield compressed
    yield await asyncio.to_thread(compressor.flush)


async def read_ahead(
    source: AsyncGenerator[T], *, heavy: Callable[[T], bool] = lambda _: False
) -> AsyncGenerator[T]:
    """
    Yield the items of a source, reading one item ahead so that producer and consumer overlap.

    After a heavy item, the next one is read only on request: two at a time could exhaust memory.
    """
    async with aclosing(source):
        upcoming = asyncio.ensure_future(anext(source, None))
        try:
            while (item := await upcoming) is not None:
                is_heavy = heavy(item)
                if not is_heavy:
                    upcoming = asyncio.ensure_future(anext(source, None))
                yield item
                del item  # otherwise it would outlive the reading of the next one
                if is_heavy:
                    upcoming = asyncio.ensure_future(anext(source, None))
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.wait([upcoming])
