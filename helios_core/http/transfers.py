"""The bytes of a download on their way from an output store to a client."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import format_datetime

import msgspec
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send

from helios_core.http.gunzip import gunzipped, sliced
from helios_core.http.ranges import Span
from helios_core.manifests import Compression, Part
from helios_core.output_stores import OutputStore


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


class Transfer(ASGIStreamingResponse):
    """Sends chunks as fast as the client takes them, and closes their source in any case."""

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Send until the last chunk, or until the client leaves."""
        async with released(self.iterator):
            await super().send_body(send, receive)


async def contents(
    outputs: OutputStore, form: Representation, span: Span
) -> AsyncGenerator[bytes]:
    """Stream a span of a representation."""
    key = form.part.key
    if form.decompressed:
        stored, start = outputs.read(key), span.start
    else:
        stored, start = outputs.read(key, start=span.start, end=span.end), 0
    source = gunzipped(stored) if form.decompressed else stored
    chunks = sliced(source, start=start, length=span.length)
    async with released(stored), released(source), released(chunks):
        async for chunk in chunks:
            yield chunk


async def begun(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Wait for the first chunk, so that a part that is gone is told while it still can be."""
    first = await anext(chunks, b"")

    async def rest() -> AsyncGenerator[bytes]:
        async with released(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return rest()


@asynccontextmanager
async def released(chunks: object) -> AsyncIterator[None]:
    """Close a stream at the end where it can be closed; left to itself it might stay open long."""
    try:
        yield
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
