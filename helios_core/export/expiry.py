"""End and remove jobs that are cancelled, expired or abandoned, and output without use."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial

import msgspec
import structlog

from helios_core.errors import BackendError, JobNotFound
from helios_core.model.jobs import JobKey, JobPlace, JobQuery, JobStatus
from helios_core.storage.backends import Backends
from helios_core.storage.isolation import contained
from helios_core.storage.job_store import JobStore

log = structlog.stdlib.get_logger()

JOBS_PER_QUERY = 100
"""Maximum number of jobs that the job store returns at a time."""

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long exports are kept."""

    output: timedelta
    """The time from the end of an export until it is removed with its files."""
    unfinished: timedelta = timedelta(days=7)
    """The time from the last work on an active export until it ends in error."""


async def sweep_periodically(
    backends: Backends, *, lifetimes: Lifetimes, interval: timedelta, stop: asyncio.Event
) -> None:
    """Sweep now and then at every interval, until `stop` is set; failures are logged."""
    steps = (
        partial(end_unfinished, backends, lifetimes.unfinished),
        partial(sweep, backends, output_ttl=lifetimes.output),
        partial(find_unreadable, backends.job_store),
    )
    while not stop.is_set():
        for step in steps:
            try:
                with contained():
                    await step()
            except BackendError as error:
                log.warning("sweep.failed", reason=str(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval.total_seconds())


async def sweep(backends: Backends, *, output_ttl: timedelta) -> int:
    """
    Remove every removable job, the output of failed jobs and all output without a job.

    Return the number of removals. What cannot be removed is logged and left to the next sweep.

    Raises:
        BackendError: The jobs or the stored output could not be listed.
    """
    removed, stuck = 0, set[JobKey]()
    while True:
        limit = len(stuck) + JOBS_PER_QUERY  # jobs that cannot be removed must not hide others
        jobs = await backends.job_store.removable(completed_before=output_ttl, limit=limit)
        for job in jobs:
            if job in stuck:
                continue
            if await _remove_expired(backends, job):
                removed += 1
            else:
                stuck.add(job)
        if len(jobs) < limit:
            break
    return removed + await _remove_useless_output(backends)


async def end_unfinished(backends: Backends, untouched_for: timedelta) -> None:
    """
    End the exports that no worker has touched for this time; else they would stay active forever.

    Raises:
        BackendError: The job store could not end them.
    """
    reason = (
        f"This export was ended because no worker had worked on it for {_words(untouched_for)}. "
        "Ask the operator whether workers are running, then start another export."
    )
    while True:
        ended = await backends.job_store.end_untouched(
            untouched_for, reason=reason, limit=JOBS_PER_QUERY
        )
        for job in ended:
            log.warning("job.given_up", job_id=job.id, tenant=job.tenant)
            await announce_job(backends, job)
            await remove_output(backends, job)
        if len(ended) < JOBS_PER_QUERY:
            return


async def find_unreadable(job_store: JobStore) -> None:
    """
    Read every job, so that `JobStore.unreadable` names those that cannot be read (J15).

    Raises:
        BackendError: The jobs could not be listed.
    """
    after: JobPlace | None = None
    while page := await job_store.jobs(JobQuery(), limit=JOBS_PER_QUERY, after=after):
        after = page[-1].place


async def cancel_job(backends: Backends, job: JobKey) -> None:
    """
    Cancel a job and announce that to the observers; its output stays until `remove_job`.

    Raises:
        JobNotFound: There is no such job, or it was cancelled before.
        BackendError: The job store could not cancel it.
    """
    await backends.job_store.cancel(job.tenant, job.id)
    await announce_job(backends, job)


async def announce_job(backends: Backends, job: JobKey) -> None:
    """Announce the current state of a job to the observers, unless it cannot be read."""
    query = JobQuery(tenant=job.tenant, id_prefix=job.id)
    try:
        with contained():
            summaries = await backends.job_store.jobs(query, limit=1)
    except BackendError as error:
        log.warning("observer.skipped", job_id=job.id, reason=str(error))
        return
    for summary in summaries:
        if summary.job is not None:
            backends.announce(summary.job)


async def remove_output(backends: Backends, job: JobKey) -> None:
    """Remove the output of a failed job, which nobody can download; sweeps retry a failure."""
    try:
        with contained():
            await backends.output_store.delete(job.tenant, job.id)
    except BackendError as error:
        log.warning("output.removal_failed", job_id=job.id, reason=str(error))
    else:
        log.info("output.useless_removed", job_id=job.id)


async def remove_job(backends: Backends, tenant: str, job_id: str) -> None:
    """
    Remove the output of an ended job, then the job; call `cancel_job` first.

    Until both are removed, `JobStore.removable` returns the job, so that every later sweep
    retries.

    Raises:
        BackendError: The output or the job could not be removed.
    """
    await backends.output_store.delete(tenant, job_id)
    await backends.job_store.delete(tenant, job_id)


async def _remove_expired(backends: Backends, job: JobKey) -> bool:
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
    Remove the output of failed jobs and output without a job; return the number of removals.

    There is such output because a worker may still write when its job fails or is removed.
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


def _words(duration: timedelta) -> str:
    """Return a duration in whole days, hours or seconds."""
    for unit, name in ((DAY, "days"), (HOUR, "hours")):
        if duration >= 2 * unit and duration % unit == timedelta():
            return f"{duration // unit} {name}"
    return f"{duration.total_seconds():g} seconds"
