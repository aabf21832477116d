"""What obstore takes to upload the bytes of an export that are in files already."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.store import S3Store
from real_services import Bucket

MEBIBYTE = 1024 * 1024
BLOCKS = (5 * MEBIBYTE, 16 * MEBIBYTE)
BLOCKS_AT_ONCE = (3, 12)
FILES_AT_ONCE = 2


@dataclass(frozen=True)
class Setting:
    """How obstore is asked to upload."""

    block_bytes: int
    blocks_at_once: int

    def __str__(self) -> str:
        return f"{self.blocks_at_once} blocks of {self.block_bytes // MEBIBYTE} MiB at once"


SETTINGS = [Setting(*each) for each in itertools.product(BLOCKS, BLOCKS_AT_ONCE)]


def upload(bucket: Bucket, files: Sequence[Path], setting: Setting) -> float:
    """Upload files to objects of their own, the largest first, and give the seconds."""
    store = S3Store(
        bucket.name,
        endpoint=bucket.endpoint,
        region=bucket.region,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(minutes=5)},
    )
    started = time.perf_counter()
    asyncio.run(_upload(store, files, setting))
    seconds = time.perf_counter() - started
    obstore.delete(store, [_key(file) for file in files])
    return seconds


def stored_bytes(bucket: Bucket, job_id: str) -> int:
    """Return the bytes of all objects that a job has in a bucket."""
    pages = bucket.client().get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
    objects = (found for page in pages for found in page.get("Contents", ()))
    return sum(found["Size"] for found in objects if f"/{job_id}/" in found["Key"])


async def _upload(store: S3Store, files: Sequence[Path], setting: Setting) -> None:
    turns = asyncio.Semaphore(FILES_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for file in sorted(files, key=lambda file: -file.stat().st_size):
            group.create_task(_put(store, file, setting, turns))


async def _put(store: S3Store, file: Path, setting: Setting, turns: asyncio.Semaphore) -> None:
    async with turns:
        await obstore.put_async(
            store,
            _key(file),
            file,
            chunk_size=setting.block_bytes,
            max_concurrency=setting.blocks_at_once,
        )


def _key(file: Path) -> str:
    return f"yardstick/{file.parent.name}/{file.name}"
