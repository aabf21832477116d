"""Export output as objects in an S3 bucket, shared by any number of processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core.hookspecs import API_LEVEL, Backend, Reach, hookimpl
from helios_core.output_stores import OutputStore
from helios_core.threads import in_thread
from helios_s3.buckets import Bucket
from helios_s3.settings import S3Settings
from helios_s3.store import S3OutputStore

__all__ = ["S3OutputStore", "S3Settings", "helios_output_store"]


@asynccontextmanager
async def _open(settings: S3Settings) -> AsyncIterator[S3OutputStore]:
    bucket = await in_thread(Bucket, settings)
    try:
        yield S3OutputStore(bucket)
    finally:
        bucket.close()


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
