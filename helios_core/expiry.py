"""Remove what has expired, was cancelled or belongs to nobody."""

import asyncio
from datetime import timedelta

from helios_core.plugins import Backends


async def remove(backends: Backends, tenant: str, job_id: str) -> None:
    """
    Cancel a job, remove its output, then forget it; a failure leaves it for the next sweep.

    Raises:
        JobNotFound: The tenant has no such job, or it was cancelled already.
    """
    raise NotImplementedError


async def sweep(backends: Backends, *, output_ttl: timedelta) -> int:
    """Remove every job that may go and every orphan; give how many were removed."""
    raise NotImplementedError


async def run(
    backends: Backends, *, output_ttl: timedelta, interval: timedelta, stop: asyncio.Event
) -> None:
    """Sweep now and at every interval until `stop` is set."""
    raise NotImplementedError
