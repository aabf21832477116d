"""The objects of the primary bucket, with errors of the driver converted to ours."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple
from uuid import uuid4

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError

from helios_core import BackendError, BackendUnavailable, ConfigurationError
from helios_s3.buckets import Bucket
from helios_s3.errors import FAILURES, code_of, meaning

PROBE = "probe/"
CONTENDERS = 8
"""How many concurrent requests try to create one object; only one may succeed."""


class MissingObject(Exception):
    """An object that is referred to does not exist any more."""


class StoredObject(NamedTuple):
    """An object in a listing."""

    key: str
    modified: datetime
    """By the server's clock."""


class Objects:
    """The objects under the prefix of a bucket; keys are relative to the prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._store = bucket.store
        self._prefix = bucket.prefix

    async def get(self, key: str) -> bytes | None:
        """Return the content of an object, or None if it does not exist."""
        with _converted():
            try:
                found = await obstore.get_async(self._store, self._prefix + key)
                return bytes(await found.bytes_async())
            except FileNotFoundError:
                return None

    async def ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """
        Return ranges of an object, from the first byte, inclusive, to the end, exclusive.

        Raises:
            MissingObject: The object does not exist.
        """
        starts, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
        with _converted():
            try:
                found = await obstore.get_ranges_async(
                    self._store, self._prefix + key, starts=starts, ends=ends
                )
            except FileNotFoundError as error:
                raise MissingObject(key) from error
            return [bytes(piece) for piece in found]

    async def create(self, key: str, body: bytes) -> bool:
        """Create an object; return False if one with this key exists."""
        with _converted():
            try:
                await obstore.put_async(
                    self._store, self._prefix + key, body, mode="create", use_multipart=False
                )
            except AlreadyExistsError:
                return False
            return True

    async def put(self, key: str, body: bytes) -> None:
        """Write an object under a key that nobody else uses."""
        with _converted():
            await obstore.put_async(self._store, self._prefix + key, body, use_multipart=False)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, missing ones included, a thousand per request."""
        if keys:
            with _converted():
                await obstore.delete_async(self._store, [self._prefix + key for key in keys])

    async def list(self, folder: str) -> AsyncIterator[StoredObject]:
        """Yield the objects of a folder, by key."""
        with _converted():
            async for page in obstore.list(self._store, self._prefix + folder, chunk_size=1000):
                for found in page:
                    key = found["path"].removeprefix(self._prefix)
                    yield StoredObject(key, found["last_modified"])

    async def require_conditions(self) -> None:
        """
        Check that only one of several concurrent requests can create an object.

        Raises:
            ConfigurationError: The server ignores `If-None-Match`, so that writes would be lost.
        """
        key = f"{PROBE}{uuid4().hex}"
        created = await asyncio.gather(*(self.create(key, b"") for _ in range(CONTENDERS)))
        again = await self.create(key, b"")
        await self.delete([key])
        if again or sum(created) > 1:
            raise ConfigurationError(
                "the server of the primary bucket ignores If-None-Match: * and would lose writes;"
                " use one that supports conditional writes, such as AWS S3 or MinIO"
            )


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        code, reason = code_of(error), meaning(error)
        if code == "InvalidRange":
            raise BackendError(
                "an extent of the primary bucket is shorter than it was written; restore the"
                " object from a backup"
            ) from error
        structlog.get_logger().warning(
            "primary.failed", code=code, reason=reason, error=type(error).__name__
        )
        raise BackendUnavailable(f"the primary bucket {reason}") from error
