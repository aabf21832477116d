"""Frame resources as NDJSON, cut the stream into parts, compress it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from isal import isal_zlib

from helios_core.model.completeness import lines_digest, sum_digests
from helios_core.storage.data_provider import Batch
from helios_core.storage.joined_lines import JoinedLines, line_lengths, ndjson_size

T = TypeVar("T")

LARGE_LINE_BYTES = 1024 * 1024
"""Above this a line is passed on as it is rather than copied into a chunk with its neighbours."""

GZIP_LEVEL = 1
GZIP_WINDOW_BITS = 31
"""15 bits of window, plus 16 for a gzip header and trailer (RFC 1952)."""


class PartCutter:
    """
    Cuts a stream of lines into parts by bytes and rows, and counts what it passes on.

    A line is never divided: a part exceeds `max_bytes` only when it holds a single line.
    """

    def __init__(
        self, source: AsyncIterator[Batch], *, max_bytes: int, max_rows: int | None
    ) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._waiting: Sequence[bytes] = ()
        self._digests: Sequence[int] | None = None
        """Of the lines waiting, where somebody has computed them already."""
        self.rows = 0
        """Lines in the part being cut, or in the last one."""
        self.bytes = 0
        """Bytes in it, newlines included."""
        self.digest_sum = 0
        """Their digest, whatever their order."""
        self.total_rows = 0
        """Lines in all parts so far."""
        self.continues = False
        """Whether the next part goes on with what ends the last one."""

    async def more(self) -> bool:
        """Whether another part is to come; waits for its first line."""
        while not self._waiting:
            try:
                batch = await anext(self._source)
            except StopAsyncIteration:
                return False
            self._waiting, self._digests = batch.lines, batch.digests
        return True

    async def part(self) -> AsyncGenerator[bytes]:
        """Give one part as chunks, to be called only after `more` said there is one."""
        self.rows = self.bytes = self.digest_sum = 0
        while await self.more():
            fits, size = self._fitting()
            if not fits:
                return
            self.rows += fits
            self.bytes += size
            self.total_rows += fits
            taken = self._take(fits)
            chunks = to_chunks(taken)
            del taken  # a large line must not outlive its chunk
            while chunks:
                yield chunks.pop(0)

    def _take(self, fits: int) -> Sequence[bytes]:
        """Give the first of the lines waiting, and count their digests."""
        taken, self._waiting = self._waiting[:fits], self._waiting[fits:]
        if self._digests is None:
            self.digest_sum = sum_digests(self.digest_sum, lines_digest(taken))
        else:
            self.digest_sum = sum_digests(self.digest_sum, *self._digests[:fits])
            self._digests = self._digests[fits:]
        return taken

    def _fitting(self) -> tuple[int, int]:
        """How many of the waiting lines the part still takes, and their size."""
        fits = len(self._waiting)
        size = ndjson_size(self._waiting)
        within_rows = self._max_rows is None or self.rows + fits <= self._max_rows
        if within_rows and self.bytes + size <= self._max_bytes:
            return fits, size
        fits = size = 0
        for length in line_lengths(self._waiting):
            grown = size + length + 1
            rows = self.rows + fits
            if self._max_rows is not None and rows >= self._max_rows:
                break
            if rows and self.bytes + grown > self._max_bytes:
                break
            fits, size = fits + 1, grown
        return fits, size


def to_chunks(lines: Sequence[bytes]) -> list[bytes]:
    """Give lines as chunks of NDJSON, each line ended by a newline."""
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
    """Compress a stream at the fastest level, in a thread."""
    compressor = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW_BITS)
    async for chunk in chunks:
        if compressed := await asyncio.to_thread(compressor.compress, chunk):
            yield compressed
    yield await asyncio.to_thread(compressor.flush)


async def read_ahead(
    source: AsyncGenerator[T], *, heavy: Callable[[T], bool] = lambda _: False
) -> AsyncGenerator[T]:
    """
    Read one item ahead of the consumer, so that producing and consuming overlap.

    After a heavy item the next one is read only when it is asked for: two would fill the memory.
    """
    async with aclosing(source):
        upcoming = asyncio.ensure_future(anext(source, None))
        try:
            while (item := await upcoming) is not None:
                waits = heavy(item)
                if not waits:
                    upcoming = asyncio.ensure_future(anext(source, None))
                yield item
                del item  # or it would outlive the reading of the next one
                if waits:
                    upcoming = asyncio.ensure_future(anext(source, None))
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.wait([upcoming])
