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
"""The maximum number of unreadable jobs of which it is checked that they still exist."""


async def problems(job_store: JobStore) -> list[str]:
    """
    Return sentences for the operator, one for each reason why exports wait.

    Raises:
        BackendError: The job store does not respond.
    """
    sentences = list[str]()
    workforce = await job_store.workforce()
    if workforce.missing:
        sentences.append(
            f"Exports wait ({workforce.waiting}) and no worker is running; start `helios worker`, "
            "or `helios serve` without HFS_BULK_EXPORT_DISABLE_LOCAL_WORKER."
        )
    if workforce.stalled:
        sentences.append(
            f"Exports wait for a backend ({workforce.stalled}): {workforce.stalled_for}"
        )
    keys = job_store.unreadable[:MAX_COUNTED]
    stored = sum([await job_store.exists(key.tenant, key.id) for key in keys])
    if stored:
        sentences.append(
            f"Stored exports cannot be read ({stored}; see `helios jobs list`). Remove them "
            "with `helios jobs delete`, unless a newer version of Helios has written them."
        )
    return sentences


async def is_workforce_missing(job_store: JobStore) -> bool:
    """Return whether exports wait and no worker is alive; false if the store does not respond."""
    with suppress(BackendError), contained():
        return (await job_store.workforce()).missing
    return False


async def watch_workforce(
    job_store: JobStore, *, interval: timedelta, stop: asyncio.Event
) -> None:
    """Log when exports begin to wait for a worker and when one has come, until `stop` is set."""
    missing = False
    while not stop.is_set():
        # The first check is one interval later, so that workers that start now have reported.
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())
        try:
            with contained():
                workforce = await job_store.workforce()
        except BackendError:
            continue  # other tasks log that the job store does not respond
        if workforce.missing and not missing:
            log.error("workers.missing", waiting=workforce.waiting)
        elif missing and not workforce.missing and workforce.alive:
            log.info("workers.present", alive=workforce.alive)
        missing = workforce.missing
