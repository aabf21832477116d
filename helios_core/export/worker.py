"""Claim shards and export them, until told to stop."""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from helios_core.errors import BackendError, HeliosError, JobNotFound, LeaseLost
from helios_core.export.cohorts import resolve_view
from helios_core.export.pipeline.shard_export import PartLimits, ShardExport
from helios_core.model.exports import ExportView
from helios_core.model.jobs import JobStatus, Lease
from helios_core.model.parts import Part
from helios_core.storage.backends import Backends

log = structlog.stdlib.get_logger()

RENEWAL_RETRY = timedelta(milliseconds=500)
"""How soon a renewal is tried again after the job store could not be reached."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works."""

    lease_for: timedelta = timedelta(seconds=60)
    heartbeat: timedelta = timedelta(seconds=20)
    """Shorter than `lease_for`, so that a renewal may fail once or twice."""
    max_attempts: int = 3
    """How often a shard is tried before its job ends in error."""
    retry_after: timedelta = timedelta(seconds=1)
    """The wait before the second attempt; it is four times as long before each further one."""
    idle: timedelta = timedelta(seconds=1)
    """The longest wait between two looks for work."""
    limits: PartLimits = msgspec.field(default_factory=PartLimits)


class Worker:
    """One claimant of shards; a process runs as many as it likes."""

    def __init__(
        self, name: str, backends: Backends, options: WorkerOptions, *, stop: asyncio.Event
    ) -> None:
        self._name = name
        self._backends = backends
        self._options = options
        self._stop = stop
        self._latest: tuple[str, ExportView] | None = None

    async def run(self) -> None:
        """Work until the stop event is set; a shard in hand is handed back at once."""
        while not self._stop.is_set():
            try:
                lease = await self._backends.job_store.claim(
                    self._name,
                    lease_for=self._options.lease_for,
                    max_attempts=self._options.max_attempts,
                )
            except BackendError as error:
                log.warning("claim.failed", worker=self._name, reason=str(error))
                await self._until_stopped(self._options.idle)
                continue
            if lease is None:
                await self._idle()
            else:
                await self._work(lease)

    async def _idle(self) -> None:
        """Wait for work or for the end, whichever comes first."""
        work = asyncio.ensure_future(self._backends.job_store.wait_for_work(self._options.idle))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await _until_one_of(work, stopped)
        finally:
            await _end(work, stopped)

    async def _until_stopped(self, at_most: timedelta) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), at_most.total_seconds())

    async def _work(self, lease: Lease) -> None:
        job, shard = lease.job, lease.shard
        with structlog.contextvars.bound_contextvars(
            job_id=job.id, shard=shard.number, token=lease.token, worker=self._name
        ):
            log.info("shard.claimed", type=shard.resource_type, attempt=lease.attempt)
            try:
                await self._attempt(lease)
            except LeaseLost as error:
                log.warning("lease.lost", reason=str(error))
            except BackendError as error:
                # The job store itself is out of reach: the lease lapses and another claim follows.
                log.exception("shard.abandoned", reason=str(error))

    async def _attempt(self, lease: Lease) -> None:
        """Export the shard and tell the job store how it went; nothing unpublished stays."""
        export: ShardExport | None = None
        try:
            view = await self._view(lease)
            export = ShardExport(self._backends, lease, view=view, limits=self._options.limits)
            parts = await self._export_while_held(lease, export)
            if parts is None:
                return
            # From here on the parts may be published even if the answer is lost on its way, so
            # only the job store's word that they are not allows discarding them.
            unpublished, export = export, None
            try:
                await self._publish(lease, parts, notes=unpublished.notes)
            except LeaseLost:
                export = unpublished
                raise
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 a shard's failure is recorded, the worker goes on
            await self._fail(lease, error)
        finally:
            if export is not None:
                await asyncio.shield(_discard(export))

    async def _view(self, lease: Lease) -> ExportView:
        """What the job shows; kept for the next shard, since a cohort can be large."""
        job = lease.job
        if self._latest is None or self._latest[0] != job.id:
            view = await resolve_view(
                self._backends.data_provider, job.request, job.transaction_time
            )
            self._latest = (job.id, view)
        return self._latest[1]

    async def _export_while_held(self, lease: Lease, export: ShardExport) -> list[Part] | None:
        """Give the parts, or None when told to stop; raise LeaseLost as soon as that is known."""
        exporting = asyncio.ensure_future(export.run())
        renewing = asyncio.ensure_future(self._renew(lease, export))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await _until_one_of(exporting, renewing, stopped)
            if stopped.done() and not exporting.done() and not renewing.done():
                await _end(renewing)
                await self._hand_back(lease)
        finally:
            await _end(exporting, renewing, stopped)
        if exporting.cancelled():
            if renewing.done() and not renewing.cancelled():
                renewing.result()
            return None
        return exporting.result()

    async def _hand_back(self, lease: Lease) -> None:
        """
        Free the shard for others while it is still being exported.

        Ending the export first could take as long as the output store does, and its parts can no
        longer be published anyway.
        """
        try:
            await self._backends.job_store.release(lease)
        except BackendError as error:
            log.exception("shard.abandoned", reason=str(error))
        else:
            log.info("shard.released")

    async def _renew(self, lease: Lease, export: ShardExport) -> None:
        """Extend the lease at every heartbeat until it is lost."""
        held_until = time.monotonic() + self._options.lease_for.total_seconds()
        pause = self._options.heartbeat
        while True:
            await asyncio.sleep(pause.total_seconds())
            asked_at = time.monotonic()
            try:
                await self._backends.job_store.renew(
                    lease,
                    lease_for=self._options.lease_for,
                    resources_done=export.resources_done,
                )
            except BackendError as error:
                log.warning("lease.renewal_failed", reason=str(error))
                if time.monotonic() >= held_until:
                    raise LeaseLost(
                        "the lease lapsed while the job store could not be reached"
                    ) from error
                pause = RENEWAL_RETRY
            else:
                held_until = asked_at + self._options.lease_for.total_seconds()
                pause = self._options.heartbeat

    async def _publish(self, lease: Lease, parts: list[Part], *, notes: bytes) -> None:
        status = await self._backends.job_store.complete(lease, parts, notes=notes)
        log.info("shard.completed", parts=len(parts), resources=sum(p.count for p in parts))
        await self._announce(lease, status)

    async def _fail(self, lease: Lease, error: Exception) -> None:
        options = self._options
        log.error("shard.failed", attempt=lease.attempt, reason=str(error), exc_info=error)
        status = await self._backends.job_store.fail(
            lease,
            _public_reason(lease, error),
            max_attempts=options.max_attempts,
            retry_after=options.retry_after * 4 ** (lease.attempt - 1),
        )
        await self._announce(lease, status)

    async def _announce(self, lease: Lease, status: JobStatus) -> None:
        """Tell the observers once the job has ended."""
        if status.active:
            return
        with suppress(JobNotFound):  # cancelled meanwhile
            job = await self._backends.job_store.get(lease.job.tenant, lease.job.id)
            log.info("job.ended", status=job.status)
            self._backends.announce(job)


async def run_worker(
    name: str, backends: Backends, options: WorkerOptions, *, stop: asyncio.Event
) -> None:
    """Work until `stop` is set, then hand back the shard in hand and return."""
    await Worker(name, backends, options, stop=stop).run()


async def _until_one_of(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _discard(export: ShardExport) -> None:
    """Remove unpublished parts; what cannot be removed goes with the job's prefix."""
    try:
        await export.discard()
    except BackendError as error:
        log.warning("part.discard_failed", reason=str(error))


def _public_reason(lease: Lease, error: Exception) -> str:
    """Why a shard failed, in words a client may read."""
    if isinstance(error, HeliosError):
        return str(error)
    return (
        f"An internal error ended the export of {lease.shard.resource_type}; the server's log "
        f"has the details under job {lease.job.id}."
    )
