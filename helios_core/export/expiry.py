"""Remove expired and cancelled jobs with their output, and output that nobody can use."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from helios_core.errors import BackendError, JobNotFound
from helios_core.model.jobs import Job, JobStatus
from helios_core.storage.backends import Backends
from helios_core.storage.isolation import contained

log = structlog.stdlib.get_logger()

JOBS_PER_QUERY = 100
"""Maximum number of removable jobs that the job store returns at a time."""


async def sweep_periodically(
    backends: Backends, *, output_ttl: timedelta, interval: timedelta, stop: asyncio.Event
) -> None:
    """Sweep now, then at every interval until `stop` is set; failures are logged."""
    while not stop.is_set():
        try:
            with contained():
                await sweep(backends, output_ttl=output_ttl)
        except BackendError as error:
            log.warning("sweep.failed", reason=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())


async def sweep(backends: Backends, *, output_ttl: timedelta) -> int:
    """
    Remove every removable job, the output of failed jobs and all output without a job.

    Return how many were removed.

    What cannot be removed is logged and left to the next sweep.

    Raises:
        BackendError: The jobs or the stored output could not be listed.
    """
    removed, stuck = 0, set[tuple[str, str]]()
    while True:
        limit = len(stuck) + JOBS_PER_QUERY  # those that stay must not hide the others
        jobs = await backends.job_store.removable(completed_before=output_ttl, limit=limit)
        for job in jobs:
            if (job.tenant, job.id) in stuck:
                continue
            if await _remove_expired(backends, job):
                removed += 1
            else:
                stuck.add((job.tenant, job.id))
        if len(jobs) < limit:
            break
    return removed + await _remove_useless_output(backends)


async def remove_output(backends: Backends, job: Job) -> None:
    """Remove the output of a failed job, which nobody can download; the sweeper tries again."""
    try:
        with contained():
            await backends.output_store.delete(job.tenant, job.id)
    except BackendError as error:
        log.warning("output.removal_failed", job_id=job.id, reason=str(error))
    else:
        log.info("output.useless_removed", job_id=job.id)


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
        with contained():
            with suppress(JobNotFound):  # already cancelled, by its owner or by another process
                await backends.job_store.cancel(job.tenant, job.id)
            await remove_job(backends, job.tenant, job.id)
    except BackendError as error:
        log.warning("job.removal_failed", job_id=job.id, reason=str(error))
        return False
    log.info("job.removed", job_id=job.id)
    return True


async def _remove_useless_output(backends: Backends) -> int:
    """
    Remove the output of failed jobs, and output without a job; return how much there was of it.

    A worker may write while its job fails or is being removed.
    """
    removed = 0
    async for tenant, job_id in backends.output_store.jobs():
        failed = False
        try:
            with contained():
                failed = (await backends.job_store.get(tenant, job_id)).status is JobStatus.ERROR
            keep = not failed
        except JobNotFound:  # a cancelled job is removed together with its output
            keep = await backends.job_store.exists(tenant, job_id)
        except BackendError:  # such as a row that cannot be read
            keep = True
        if keep:
            continue
        try:
            with contained():
                await backends.output_store.delete(tenant, job_id)
        except BackendError as error:
            log.warning("output.removal_failed", job_id=job_id, reason=str(error))
            continue
        removed += 1
        if failed:
            log.info("output.useless_removed", job_id=job_id)
        else:
            log.info("output.orphan_removed", job_id=job_id)
    return removed
