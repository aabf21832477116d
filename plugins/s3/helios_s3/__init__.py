"""Export output as objects in an S3 bucket, shared by any number of processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, OutputStore, Reach, hookimpl, in_thread
from helios_s3.buckets import Bucket
from helios_s3.settings import S3Settings
from helios_s3.store import S3OutputStore

__all__ = ["S3OutputStore", "S3Settings", "helios_output_store"]


SETTLE_SECONDS = 0.1
"""How long the driver's threads have to come to rest once nothing is asked of them."""


@asynccontextmanager
async def _open(settings: S3Settings) -> AsyncIterator[S3OutputStore]:
    bucket = await in_thread(Bucket, settings)
    try:
        yield S3OutputStore(bucket)
    finally:
        bucket.close()
        # The driver's threads let go of Python's objects a moment after their result is there. A
        # thread that does so while the interpreter ends aborts the process (before Python 3.14).
        await asyncio.sleep(SETTLE_SECONDS)


@hookimpl
def helios_output_store() -> Backend[OutputStore]:
    """Offer a bucket as an output store."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINES,
        implementation=S3OutputStore,
        settings=S3Settings,
        open=_open,
    )
