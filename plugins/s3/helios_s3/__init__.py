"""Resources and export output in S3 buckets, shared by any number of processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from helios_core import API_LEVEL, Backend, DataProvider, OutputStore, Reach, hookimpl, in_thread
from helios_s3.allocator import return_freed_memory
from helios_s3.buckets import Bucket
from helios_s3.compaction import Compactor
from helios_s3.log import Log
from helios_s3.objects import Objects
from helios_s3.ownership import claim_for_resources
from helios_s3.provider import S3DataProvider
from helios_s3.rows import Rows
from helios_s3.settings import S3ResourceSettings, S3Settings
from helios_s3.store import S3OutputStore

__all__ = [
    "S3DataProvider",
    "S3OutputStore",
    "S3ResourceSettings",
    "S3Settings",
    "helios_data_provider",
    "helios_output_store",
    "open_data_provider",
]


@asynccontextmanager
async def _open(settings: S3Settings) -> AsyncIterator[S3OutputStore]:
    bucket = await in_thread(Bucket, settings)
    try:
        yield S3OutputStore(bucket)
    finally:
        bucket.close()


@asynccontextmanager
async def open_data_provider(settings: S3ResourceSettings) -> AsyncIterator[S3DataProvider]:
    """
    Open a data provider on a bucket, which may be empty.

    Raises:
        ConfigurationError: The server ignores conditional requests, the bucket is used for output
            or does not exist, or the credentials cannot be used.
        BackendUnavailable: The bucket cannot be reached.
    """
    return_freed_memory()
    bucket = await in_thread(Bucket, settings)
    try:
        await claim_for_resources(bucket)
        objects = Objects(bucket)
        await objects.require_conditions()
        rows = Rows(Log(objects))
        await rows.log.refresh()
        compactor = Compactor(rows)
        compacting = asyncio.create_task(compactor.run())
        try:
            yield S3DataProvider(rows, compactor)
        finally:
            compacting.cancel()
            with suppress(asyncio.CancelledError):
                await compacting
    finally:
        bucket.close()


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer resources in a bucket."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINES,
        implementation=S3DataProvider,
        settings=S3ResourceSettings,
        open=open_data_provider,
    )


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
