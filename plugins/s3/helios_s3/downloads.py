"""Downloads of one object from the bucket."""

from collections.abc import AsyncIterator

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

CHUNK_BYTES = 1024 * 1024
WINDOW_BYTES = 32 * 1024 * 1024
"""How many bytes one request reads, so that a slow client does not keep it open for hours."""


async def windows(store: S3Store, key: str, *, start: int, end: int) -> AsyncIterator[bytes]:
    """
    Stream the bytes of an object from `start`, inclusive, to `end`, exclusive.

    A response that breaks off is resumed by another request, as long as each one gets further.
    """
    while start < end:
        begun = start
        found = await obstore.get_async(
            store, key, options={"range": (start, min(start + WINDOW_BYTES, end))}
        )
        try:
            async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                start += len(chunk)
                yield bytes(chunk)
        except (BaseError, OSError):
            if start == begun:
                raise
