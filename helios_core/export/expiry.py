"""Remove what has expired, was cancelled or belongs to nobody."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from helios_core.errors import BackendError, JobNotFound
from helios_core.model.jobs import Job
from helios_core.storage.backends import Backends

log = structlog.stdlib.get_logger()

BATCH = 100
"""How many jobs are removed between two looks into the job store."""


async def remove_job(backends: Backends, tenant: str, job_id: str) -> None:
    """
    Remove an ended job's output, then forget the job; call it after `JobStore.cancel`.

    Until both have succeeded the job stays among `JobStore.removable`, so that a failure is
    retried by every later sweep.

    Raises:
        BackendError: The output or the job could not be removed.
    """
    await backends.output_store.delete(tenant, job_id)
    await backends.job_store.delete(tenant, job_id)


async def sweep(backends: Backends, *, output_ttl: timedelta) -> int:
    """Remove every job that may go and all output without a job; give how many were removed."""
    removed = 0
    while jobs := await backends.job_store.removable(completed_before=output_ttl, limit=BATCH):
        done = [await _expire(backends, job) for job in jobs]
        removed += sum(done)
        if not all(done) or len(jobs) < BATCH:
            break
    return removed + await _sweep_orphans(backends)


async def _expire(backends: Backends, job: Job) -> bool:
    """Remove one job; a failure is told and leaves it for the next sweep."""
    try:
        with suppress(JobNotFound):  # cancelled already, by its owner or by another process
            await backends.job_store.cancel(job.tenant, job.id)
        await remove_job(backends, job.tenant, job.id)
    except BackendError as error:
        log.warning("job.removal_failed", job_id=job.id, reason=str(error))
        return False
    log.info("job.removed", job_id=job.id)
    return True


async def _sweep_orphans(backends: Backends) -> int:
    """Remove output whose job is forgotten: what a worker wrote while its job was removed."""
    removed = 0
    async for tenant, job_id in backends.output_store.jobs():
        if await backends.job_store.exists(tenant, job_id):
            continue
        try:
            await backends.output_store.delete(tenant, job_id)
        except BackendError as error:
            log.warning("output.removal_failed", job_id=job_id, reason=str(error))
            continue
        removed += 1
        log.info("output.orphan_removed", job_id=job_id)
    return removed


async def sweep_periodically(
    backends: Backends, *, output_ttl: timedelta, interval: timedelta, stop: asyncio.Event
) -> None:
    """Sweep now and at every interval until `stop` is set."""
    while not stop.is_set():
        try:
            await sweep(backends, output_ttl=output_ttl)
        except BackendError as error:
            log.warning("sweep.failed", reason=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())
