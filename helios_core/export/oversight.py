"""Notice what keeps exports waiting: no worker, a backend, or a job that cannot be read."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from helios_core.errors import BackendError
from helios_core.storage.isolation import contained
from helios_core.storage.job_store import JobStore

log = structlog.stdlib.get_logger()

NO_WORKER = "no worker is running, so exports wait until one is started"

MAX_COUNTED = 100
"""How many unreadable jobs are looked for at most, to see whether they are still there."""


async def problems(job_store: JobStore) -> list[str]:
    """
    Return one sentence for each thing that keeps exports waiting, for the operator.

    Raises:
        BackendError: The job store does not respond.
    """
    found = list[str]()
    workforce = await job_store.workforce()
    if workforce.missing:
        found.append(
            f"Exports wait ({workforce.waiting}) and no worker is running; start `helios worker`, "
            "or `helios serve` without HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER."
        )
    if workforce.stalled:
        found.append(f"Exports wait for a backend ({workforce.stalled}): {workforce.stalled_for}")
    keys = job_store.unreadable[:MAX_COUNTED]
    stored = sum([await job_store.exists(key.tenant, key.id) for key in keys])
    if stored:
        found.append(
            f"Stored exports cannot be read ({stored}; see `helios jobs list`). Remove them "
            "with `helios jobs delete`, unless a newer version of Helios has written them."
        )
    return found


async def is_workforce_missing(job_store: JobStore) -> bool:
    """Return whether exports wait and no worker is alive; false if the store does not say."""
    with suppress(BackendError), contained():
        return (await job_store.workforce()).missing
    return False


async def watch_workforce(
    job_store: JobStore, *, interval: timedelta, stop: asyncio.Event
) -> None:
    """Log when exports begin to wait for a worker and when one has come, until `stop` is set."""
    missing = False
    while not stop.is_set():
        # The first look comes after an interval, when workers that start now have reported.
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())
        try:
            with contained():
                workforce = await job_store.workforce()
        except BackendError:
            continue  # others log that the job store does not respond
        if workforce.missing and not missing:
            log.error("workers.missing", waiting=workforce.waiting)
        elif missing and not workforce.missing and workforce.alive:
            log.info("workers.present", alive=workforce.alive)
        missing = workforce.missing
