"""Uploads of one part to the bucket."""

import asyncio
from collections.abc import AsyncIterator

import obstore
import structlog
import xxhash

from helios_core import Compression, PartKey, StoredPart, in_thread
from helios_s3.buckets import Bucket
from helios_s3.errors import FAILURES, unavailable
from helios_s3.layout import part_key
from helios_s3.unfinished import abort_of

PIECE_BYTES = 1024 * 1024
"""The smallest piece for the driver, large enough to pay for the switch between languages."""

LARGE_PIECE_BYTES = 4 * PIECE_BYTES
"""The largest piece, which waits in the pipe while the next one is collected."""

BLOCKS_AT_ONCE = 2
_PATIENCE_SECONDS = 10.0
"""How long an open request may take to end after the part was abandoned."""


class _Abandoned(Exception):
    """Raised into the driver's read of the pipe, so that it aborts the upload."""


class _Pipe(AsyncIterator[bytes]):
    """Passes pieces from the caller to the task that sends them."""

    def __init__(self) -> None:
        self._pieces = asyncio.Queue[bytes | None](maxsize=1)
        self._abandoned = False

    def has_room(self) -> bool:
        return self._pieces.empty()

    async def put(self, piece: bytes | None) -> None:
        await self._pieces.put(piece)

    def abandon(self) -> None:
        self._abandoned = True
        if self._pieces.empty():
            self._pieces.put_nowait(None)

    async def __anext__(self) -> bytes:
        piece = await self._pieces.get()
        if self._abandoned:
            raise _Abandoned
        if piece is None:
            raise StopAsyncIteration
        return piece


class Upload:
    """Uploads one part: a small one at once, a larger one in blocks."""

    def __init__(self, bucket: Bucket, key: PartKey) -> None:
        self._bucket = bucket
        self._name = key.name
        self._key = part_key(bucket.prefix, key)
        self._attributes = bucket.attributes(key.name, gzip=key.compression is Compression.GZIP)
        self._held = list[bytes]()
        self._size = 0
        self._digest = xxhash.xxh3_128()
        self._pipe = _Pipe()
        self._sending: asyncio.Task[None] | None = None

    async def write(self, piece: bytes) -> None:
        """
        Add the next bytes; wait while the bucket is slower than the caller.

        Raises:
            BackendUnavailable: The bucket took too long, or refused the upload.
        """
        self._digest.update(piece)
        self._size += len(piece)
        if self._sending is None:
            self._held.append(piece)
            if self._size > self._bucket.settings.block_bytes:
                await self._begin()
        else:
            await self._hand_over(piece, self._sending)

    async def finish(self) -> StoredPart:
        """
        Complete the upload, which makes the part durable and visible.

        Raises:
            BackendUnavailable: The part was not stored, or it is unknown whether it was.
        """
        if self._sending is None:
            self._sending = self._send(b"".join(self._held), in_blocks=False)
        else:
            await self._hand_over(None, self._sending)
        try:
            await asyncio.shield(self._sending)
        except FAILURES as error:
            # Maybe only the response was lost: S3 forgets a completed upload, and refuses to
            # complete it again.
            if not await self._arrived():
                raise unavailable(error) from error
        return StoredPart(size=self._size, digest=self._digest.hexdigest())

    async def abandon(self) -> None:
        """Remove the part, whether its upload is finished or not."""
        if self._sending is None:
            return
        self._pipe.abandon()
        _, late = await asyncio.wait([self._sending], timeout=_PATIENCE_SECONDS)
        for request in late:
            request.cancel()
        await asyncio.wait([self._sending])
        if not self._sending.cancelled():
            self._sending.exception()  # the error of the caller matters more
        try:
            await in_thread(abort_of, self._bucket, self._key)
            await obstore.delete_async(self._bucket.store, self._key)
        except FAILURES:
            # `delete` removes it with the job.
            structlog.get_logger().warning("output.leftover", part=self._name)

    async def _begin(self) -> None:
        sending = self._sending = self._send(self._pipe, in_blocks=True)
        while self._held:
            await self._hand_over(self._held.pop(0), sending)

    def _send(
        self, content: bytes | AsyncIterator[bytes], *, in_blocks: bool
    ) -> asyncio.Task[None]:
        async def send() -> None:
            await obstore.put_async(
                self._bucket.store,
                self._key,
                content,
                attributes=self._attributes,
                use_multipart=in_blocks,
                chunk_size=self._bucket.settings.block_bytes,
                max_concurrency=BLOCKS_AT_ONCE,
            )

        return asyncio.create_task(send())

    async def _hand_over(self, piece: bytes | None, sending: asyncio.Task[None]) -> None:
        if self._pipe.has_room():
            await self._pipe.put(piece)
        else:
            handing = asyncio.ensure_future(self._pipe.put(piece))
            try:
                await asyncio.wait([handing, sending], return_when=asyncio.FIRST_COMPLETED)
            finally:
                handing.cancel()
        if sending.done() and piece is not None:
            # The driver failed before it had read everything.
            try:
                await sending
            except FAILURES as error:
                raise unavailable(error) from error

    async def _arrived(self) -> bool:
        try:
            found = await obstore.head_async(self._bucket.store, self._key)
        except FAILURES:
            return False
        return found["size"] == self._size


async def pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small chunks and cut large ones, passing on as many as possible unchanged."""
    gathered = list[bytes]()
    size = 0
    async for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        del chunk  # or it would stay in memory while the next one is made
        if size >= PIECE_BYTES:
            joined, gathered, size = b"".join(gathered), [], 0
            for start in range(0, len(joined), LARGE_PIECE_BYTES):
                yield joined[start : start + LARGE_PIECE_BYTES]
            del joined
    if gathered:
        yield b"".join(gathered)
