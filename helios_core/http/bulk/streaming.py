"""The bytes of a download, from an output store to a client."""

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

PIECE_BYTES: Final = 1024 * 1024
"""The most bytes decompressed at once, however well a part is compressed."""


class Representation(msgspec.Struct, frozen=True, kw_only=True):
    """A part in the form in which it is sent: as stored, or decompressed (RFC 9110 §3.2)."""

    part: Part
    modified: datetime
    """Whole seconds, in UTC."""
    decompressed: bool

    @property
    def size(self) -> int:
        """Bytes of the representation."""
        return self.part.plain_size if self.decompressed else self.part.size

    @property
    def etag(self) -> str:
        """A strong validator, different for the two representations (RFC 9110 §8.8.3.3)."""
        return f'"{self.part.digest}-plain"' if self.decompressed else f'"{self.part.digest}"'

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every response with this representation, 304 included."""
        headers = {
            "ETag": self.etag,
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-store",
        }
        if self.part.key.compression is Compression.GZIP:
            headers["Vary"] = "Accept-Encoding"
            if not self.decompressed:
                headers["Content-Encoding"] = "gzip"
        return headers


class StreamingBody(ASGIStreamingResponse):
    """Sends chunks as fast as the client reads them, and closes their source at the end."""

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send until the last chunk, or until the client disconnects."""
        async with _closing(self.iterator):
            await super().send_body(send, receive)


async def start_stream(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """
    Read the first chunk, then return a stream of all of them.

    If the part is missing, this raises the error, while the response can still report it.
    """
    first = await anext(chunks, b"")

    async def stream() -> AsyncGenerator[bytes]:
        async with _closing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return stream()


async def stream_part(
    output_store: OutputStore, representation: Representation, byte_range: ByteRange
) -> AsyncGenerator[bytes]:
    """
    Yield a range of a representation.

    Raises:
        BackendError: The stored part is missing, damaged or too short.
    """
    key, start = representation.part.key, byte_range.start
    if representation.decompressed:
        stored = output_store.read(key)
        source: AsyncIterator[bytes] = gunzip_chunks(stored)
    else:
        source = stored = output_store.read(key, start=start, end=byte_range.end)
        start = 0
    chunks = slice_chunks(source, start=start, length=byte_range.length)
    async with _closing(stored), _closing(source), _closing(chunks):
        async for chunk in chunks:
            yield chunk


async def gunzip_chunks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """
    Decompress a gzip stream in a thread, in pieces of at most PIECE_BYTES.

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
    Yield exactly `length` bytes of a stream, from the offset `start`.

    Raises:
        BackendError: The stream ends earlier. The response must then be aborted, so that the
            client does not take it for complete.
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


@asynccontextmanager
async def _closing(chunks: object) -> AsyncIterator[None]:
    """Close a stream at the end, if it can be closed, instead of leaving that to the collector."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
