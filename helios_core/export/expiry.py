"""Remove expired and cancelled jobs with their output, and output that belongs to no job."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from helios_core.errors import BackendError, JobNotFound
from helios_core.model.jobs import Job
from helios_core.storage.backends import Backends

log = structlog.stdlib.get_logger()

JOBS_PER_QUERY = 100
"""Maximum number of removable jobs that the job store returns at a time."""


async def sweep_periodically(
    backends: Backends, *, output_ttl: timedelta, interval: timedelta, stop: asyncio.Event
) -> None:
    """Sweep now, then at every interval until `stop` is set; failures are logged."""
    while not stop.is_set():
        try:
            await sweep(backends, output_ttl=output_ttl)
        except BackendError as error:
            log.warning("sweep.failed", reason=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())


async def sweep(backends: Backends, *, output_ttl: timedelta) -> int:
    """
    Remove every removable job and all output without a job, and return how many were removed.

    What cannot be removed is logged and left to the next sweep.

    Raises:
        BackendError: The jobs could not be listed.
    """
    removed = 0
    while True:
        jobs = await backends.job_store.removable(
            completed_before=output_ttl, limit=JOBS_PER_QUERY
        )
        results = [await _remove_expired(backends, job) for job in jobs]
        removed += sum(results)
        if not all(results) or len(jobs) < JOBS_PER_QUERY:
            break
    return removed + await _remove_orphans(backends)


async def remove_job(backends: Backends, tenant: str, job_id: str) -> None:
    """
    Remove the output of an ended job, then the job; call `JobStore.cancel` first.

    Until both are removed, `JobStore.removable` returns the job, so that every later sweep
    retries.

    Raises:
        BackendError: The output or the job could not be removed.
    """
    await backends.output_store.delete(tenant, job_id)
    await backends.job_store.delete(tenant, job_id)


async def _remove_expired(backends: Backends, job: Job) -> bool:
    """Remove a job and return whether that succeeded."""
    try:
        with suppress(JobNotFound):  # already cancelled, by its owner or by another process
            await backends.job_store.cancel(job.tenant, job.id)
        await remove_job(backends, job.tenant, job.id)
    except BackendError as error:
        log.warning("job.removal_failed", job_id=job.id, reason=str(error))
        return False
    log.info("job.removed", job_id=job.id)
    return True


async def _remove_orphans(backends: Backends) -> int:
    """Remove output without a job: a worker may write while its job is being removed."""
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
