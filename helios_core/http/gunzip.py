"""Decompression on the way out, for clients that do not take gzip."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from isal import isal_zlib
from isal.igzip_lib import IsalError

from helios_core.errors import BackendError

PIECE_BYTES: Final = 1024 * 1024
"""Decompressed bytes given at once, however well the part compresses."""

GZIP_WINDOW_BITS: Final = 31
"""15 bits of window, plus 16 for a gzip header and trailer (RFC 1952)."""


async def gunzipped(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
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


async def sliced(
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
