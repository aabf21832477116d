"""The bytes of a download on their way from an output store to a client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import format_datetime
from typing import Final

import msgspec
from isal import isal_zlib
from isal.igzip_lib import IsalError
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send

from helios_core.errors import BackendError
from helios_core.export.ndjson import GZIP_WINDOW_BITS
from helios_core.http.ranges import ByteRange
from helios_core.model.parts import Compression, Part
from helios_core.storage.output_store import OutputStore


class Representation(msgspec.Struct, frozen=True, kw_only=True):
    """One of the forms a part can be sent in: as it is stored, or decompressed."""

    part: Part
    modified: datetime
    decompressed: bool

    @property
    def size(self) -> int:
        """Bytes to send in all."""
        return self.part.plain_size if self.decompressed else self.part.size

    @property
    def etag(self) -> str:
        """A strong validator; every form has its own (RFC 9110 §8.8.3.3)."""
        return f'"{self.part.digest}-plain"' if self.decompressed else f'"{self.part.digest}"'

    @property
    def headers(self) -> dict[str, str]:
        """What every answer about this form carries."""
        headers = {
            "ETag": self.etag,
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Cache-Control": "private",
        }
        if self.part.key.compression is Compression.GZIP:
            headers["Vary"] = "Accept-Encoding"
            if not self.decompressed:
                headers["Content-Encoding"] = "gzip"
        return headers


class StreamingBody(ASGIStreamingResponse):
    """Sends chunks as fast as the client takes them, and closes their source in any case."""

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send until the last chunk, or until the client leaves."""
        async with close_at_end(self.iterator):
            await super().send_body(send, receive)


async def stream_part(
    outputs: OutputStore, form: Representation, span: ByteRange
) -> AsyncGenerator[bytes]:
    """Stream a span of a representation."""
    key = form.part.key
    if form.decompressed:
        stored, start = outputs.read(key), span.start
    else:
        stored, start = outputs.read(key, start=span.start, end=span.end), 0
    source = gunzip_chunks(stored) if form.decompressed else stored
    chunks = slice_chunks(source, start=start, length=span.length)
    async with close_at_end(stored), close_at_end(source), close_at_end(chunks):
        async for chunk in chunks:
            yield chunk


async def start_stream(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Wait for the first chunk, so that a part that is gone is told while it still can be."""
    first = await anext(chunks, b"")

    async def rest() -> AsyncGenerator[bytes]:
        async with close_at_end(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return rest()


@asynccontextmanager
async def close_at_end(chunks: object) -> AsyncIterator[None]:
    """Close a stream at the end where it can be closed; left to itself it might stay open long."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


PIECE_BYTES: Final = 1024 * 1024
"""Decompressed bytes given at once, however well the part compresses."""


async def gunzip_chunks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """
    Decompress a gzip stream in a thread, in pieces of bounded size.

    Raises:
        BackendError: The stream is damaged or ends too early.
    """
    decompressor = isal_zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        async for chunk in chunks:
            waiting = chunk
            while waiting and not decompressor.eof:
                piece = await asyncio.to_thread(decompressor.decompress, waiting, PIECE_BYTES)
                waiting = decompressor.unconsumed_tail
                if piece:
                    yield piece
    except IsalError as error:  # type: ignore[misc]  # the stub takes the class for an instance
        raise BackendError("A stored part is not the gzip stream it should be.") from error
    if not decompressor.eof:
        raise BackendError("A stored part ends before its gzip stream does.")


async def slice_chunks(
    chunks: AsyncIterator[bytes], *, start: int, length: int
) -> AsyncGenerator[bytes]:
    """
    Give exactly `length` bytes of a stream, from `start` on.

    Raises:
        BackendError: The stream ends earlier; what was given so far must not pass for the whole.
    """
    async for chunk in chunks:
        piece = chunk[start : start + length] if start or len(chunk) > length else chunk
        start = max(start - len(chunk), 0)
        if piece:
            length -= len(piece)
            yield piece
        if length == 0:
            return
    if length:
        raise BackendError(f"A stored part is {length} bytes shorter than it was published.")
