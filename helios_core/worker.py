"""Claim shards and export them, until told to stop."""

import asyncio
from datetime import timedelta

import msgspec

from helios_core.manifests import Compression
from helios_core.plugins import Backends


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works."""

    lease_for: timedelta = timedelta(seconds=60)
    heartbeat: timedelta = timedelta(seconds=20)
    max_attempts: int = 3
    batch_bytes: int = 4 * 1024 * 1024
    part_bytes: int = 128 * 1024 * 1024
    """Where a part is cut, in bytes of NDJSON before compression."""
    part_rows: int | None = None
    """Where a part is cut, in lines; None is no limit."""
    compression: Compression = Compression.NONE
    idle: timedelta = timedelta(seconds=1)
    """The longest wait between two looks for work."""


async def run(
    name: str, backends: Backends, options: WorkerOptions, *, stop: asyncio.Event
) -> None:
    """Work until `stop` is set, then hand back the shard in hand and return."""
    raise NotImplementedError
