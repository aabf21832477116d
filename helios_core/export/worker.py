"""Claim shards and export them until the worker is told to stop."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import msgspec
import structlog

from helios_core.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    HeliosError,
    JobNotFound,
    LeaseLost,
)
from helios_core.export.cohorts import resolve_view
from helios_core.export.expiry import remove_output
from helios_core.export.pipeline.shard_export import PartLimits, ShardExport
from helios_core.model.exports import ExportView
from helios_core.model.jobs import Job, JobKey, JobStatus, Lease
from helios_core.model.parts import Part
from helios_core.storage.backends import Backends
from helios_core.storage.isolation import call_within, contained, reason_for_log
from helios_core.storage.permitted_reads import permitted_backends

log = structlog.stdlib.get_logger()

RENEWAL_RETRY = timedelta(milliseconds=500)
"""The wait before a renewal is retried when the job store could not be reached."""

LEASE_CHECK = timedelta(milliseconds=500)
"""The time between checks for a cancelled export, so that its workers stop within a second."""

LONGEST_PAUSE = timedelta(seconds=60)
"""The longest pause of a shard that waits for a backend."""

MOST_DOUBLINGS = 16
"""The pause stops doubling after this many times, long after it has reached its maximum."""

RETIREMENT = timedelta(seconds=1)
"""The maximum time that a stopping worker waits for the job store to record that."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a worker."""

    lease_for: timedelta = timedelta(seconds=60)
    """How long a lease lasts unless it is renewed."""
    heartbeat: timedelta = timedelta(seconds=20)
    """The time between renewals; shorter than `lease_for`, so that one or two may fail."""
    max_attempts: int = 3
    """How often a shard is attempted before its job ends in error."""
    retry_after: timedelta = timedelta(seconds=1)
    """The wait before the second attempt; each further wait is four times as long as the last."""
    outage_patience: timedelta = timedelta(hours=1)
    """How long a shard waits for an unavailable backend before that counts as an attempt."""
    first_pause: timedelta = timedelta(seconds=1)
    """The first pause of a shard that waits for a backend; each is twice as long as the last."""
    idle: timedelta = timedelta(seconds=1)
    """The longest wait before the job store is asked for work again."""
    limits: PartLimits = msgspec.field(default_factory=PartLimits)


async def run_worker(
    name: str, backends: Backends, options: WorkerOptions, *, stop: asyncio.Event
) -> None:
    """Claim and export shards until `stop` is set; then release the current shard and return."""
    await Worker(name, backends, options, stop=stop).run()


class Worker:
    """Exports one shard at a time; a process may run several workers."""

    def __init__(
        self, name: str, backends: Backends, options: WorkerOptions, *, stop: asyncio.Event
    ) -> None:
        self._name = name
        self._backends = backends
        self._options = options
        self._stop = stop
        self._latest_view: tuple[str, ExportView] | None = None
        self._waits_for: str | None = None

    async def run(self) -> None:
        """Claim and export shards until the stop event is set; then release the current shard."""
        beating = asyncio.ensure_future(self._beat())
        try:
            while not self._stop.is_set():
                await self._take_turn()
        finally:
            await _cancel(beating)
        # An error does not matter: without heartbeats the worker soon counts as dead.
        with suppress(BackendError), contained():
            await call_within(RETIREMENT, self._backends.job_store.retire, self._name)

    async def _take_turn(self) -> None:
        try:
            with contained():
                await self._claim_and_process()
        except BackendError as error:
            log.warning("claim.failed", worker=self._name, reason=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._options.idle.total_seconds())

    async def _beat(self) -> NoReturn:
        """Report at every heartbeat, busy or idle, that the worker is alive (J17)."""
        while True:
            try:
                with contained():
                    await self._backends.job_store.beat(self._name, lasts=self._options.lease_for)
            except BackendError as error:
                log.warning("heartbeat.failed", worker=self._name, reason=str(error))
            await asyncio.sleep(self._options.heartbeat.total_seconds())

    async def _claim_and_process(self) -> None:
        lease = await self._backends.job_store.claim(
            self._name,
            lease_for=self._options.lease_for,
            max_attempts=self._options.max_attempts,
        )
        if lease is None:
            await self._wait_for_work()
        else:
            await self._process(lease)

    async def _wait_for_work(self) -> None:
        """Wait until there may be work, for `idle` at most, or until the worker must stop."""
        work = asyncio.ensure_future(self._wait_for_store())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await _first_done(work, stopping)
            if work.done():
                work.result()
        finally:
            await _cancel(work, stopping)

    async def _wait_for_store(self) -> None:
        with contained():
            await self._backends.job_store.wait_for_work(self._options.idle)

    async def _process(self, lease: Lease) -> None:
        """Attempt a shard; a lost lease or an unreachable job store does not stop the worker."""
        job, shard = lease.job, lease.shard
        client = {"client": job.owner} if job.owner else {}
        with structlog.contextvars.bound_contextvars(
            tenant=job.tenant,
            job_id=job.id,
            shard=shard.number,
            token=lease.token,
            worker=self._name,
            **client,
        ):
            log.info("shard.claimed", type=shard.resource_type, attempt=lease.attempt)
            try:
                with contained():
                    await self._attempt(lease)
            except LeaseLost as error:
                if await self._is_gone(lease):
                    log.info("shard.cancelled")
                else:
                    log.warning("lease.lost", reason=str(error))
            except BackendError as error:
                # The job store cannot record how the attempt ended, so the lease lapses.
                log.exception("shard.abandoned", reason=str(error))

    async def _is_gone(self, lease: Lease) -> bool:
        """Return whether the job was cancelled or deleted, which ends its leases."""
        try:
            with contained():
                await self._backends.job_store.get(lease.job.tenant, lease.job.id)
        except JobNotFound:
            return True
        except BackendError:
            return False
        return False

    async def _attempt(self, lease: Lease) -> None:
        """Export a shard and publish it or record its failure; discard parts not published."""
        attempt = _Attempt()
        try:
            self._check_transforms(lease)
            parts = await self._export_while_held(lease, attempt)
            if parts is None or attempt.export is None:
                return
            # From here on the parts may be published even if the job store's response is lost, so
            # they are discarded only if it says that they are not.
            attempt.may_be_published = True
            try:
                await self._publish(lease, parts, notes=attempt.export.notes)
            except LeaseLost:
                attempt.may_be_published = False
                raise
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 a shard's failure is recorded, the worker continues
            await self._hand_back(lease, error)
            attempt.may_be_published = False
        finally:
            if attempt.export is not None and not attempt.may_be_published:
                await asyncio.shield(_discard(attempt.export))

    def _check_transforms(self, lease: Lease) -> None:
        """
        Check that this process has the transforms with which the job was accepted.

        Raises:
            ConfigurationError: It has others.
        """
        accepted, own = lease.job.request.transforms, self._backends.transforms.names
        if accepted != own:
            raise ConfigurationError(
                f"The export was accepted with the transforms {_listed(accepted)} and a worker "
                f"has {_listed(own)}; every process needs the same HFS_PLUGINS."
            )

    async def _view(self, lease: Lease) -> ExportView:
        """Return the view of a job, cached for the next shard, since a cohort can be large."""
        job = lease.job
        if self._latest_view is None or self._latest_view[0] != job.id:
            view = await resolve_view(
                self._permitted(job).data_provider, job.request, job.transaction_time
            )
            self._latest_view = (job.id, view)
        return self._latest_view[1]

    def _permitted(self, job: Job) -> Backends:
        """Return the backends, limited to what the scopes of the job's client allow."""
        return permitted_backends(self._backends, job.request, job.transaction_time)

    async def _export(self, lease: Lease, attempt: "_Attempt") -> list[Part]:
        view = await self._view(lease)
        attempt.export = ShardExport(
            self._permitted(lease.job), lease, view=view, limits=self._options.limits
        )
        return await attempt.export.run()

    async def _export_while_held(self, lease: Lease, attempt: "_Attempt") -> list[Part] | None:
        """
        Export a shard while renewing its lease, and return its parts.

        If the worker must stop, release the lease and return None.

        Raises:
            LeaseLost: The lease was lost; the export is cancelled.
            BackendUnavailable: A backend is unavailable, or the lease could not be renewed.
        """
        exporting = asyncio.ensure_future(self._export(lease, attempt))
        renewing = asyncio.ensure_future(self._renew(lease, attempt))
        watching = asyncio.ensure_future(self._watch(lease))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await _first_done(exporting, renewing, watching, stopping)
            if exporting.done():
                return exporting.result()
            for task in (renewing, watching):
                if task.done():
                    task.result()  # raises
            await _cancel(renewing, watching)
            await self._release(lease)
            return None
        finally:
            await _cancel(exporting, renewing, watching, stopping)

    async def _watch(self, lease: Lease) -> NoReturn:
        """
        Check twice a second whether a lease is still held: it may be lost between two renewals.

        Raises:
            LeaseLost: The lease is not held any more; usually the export was cancelled.
        """
        while True:
            await asyncio.sleep(LEASE_CHECK.total_seconds())
            # `_renew` decides how long the export goes on while the job store does not respond.
            with suppress(BackendError), contained():
                if not await self._backends.job_store.is_held(lease):
                    raise LeaseLost("the shard was taken away, or the job was ended")

    async def _release(self, lease: Lease) -> None:
        """
        Free the shard for other workers while its export still runs.

        Cancelling the export first could take as long as the output store does, and its parts can
        no longer be published anyway.
        """
        try:
            with contained():
                await self._backends.job_store.release(lease)
        except BackendError as error:
            log.exception("shard.abandoned", reason=str(error))
        else:
            log.info("shard.released")

    async def _renew(self, lease: Lease, attempt: "_Attempt") -> NoReturn:
        """
        Extend a lease at every heartbeat.

        Raises:
            LeaseLost: The job store reports that the lease is lost.
            BackendUnavailable: The job store was unreachable until the lease lapsed.
        """
        held_until = time.monotonic() + self._options.lease_for.total_seconds()
        pause = self._options.heartbeat
        while True:
            await asyncio.sleep(pause.total_seconds())
            requested_at = time.monotonic()
            try:
                with contained():
                    await self._backends.job_store.renew(
                        lease,
                        lease_for=self._options.lease_for,
                        resources_done=attempt.resources_done,
                    )
            except BackendError as error:
                log.warning("lease.renewal_failed", reason=str(error))
                if time.monotonic() >= held_until:
                    raise BackendUnavailable("the job store cannot be reached") from error
                pause = RENEWAL_RETRY
            else:
                held_until = requested_at + self._options.lease_for.total_seconds()
                pause = self._options.heartbeat

    async def _publish(self, lease: Lease, parts: list[Part], *, notes: bytes) -> None:
        status = await self._backends.job_store.complete(lease, parts, notes=notes)
        self._waits_for = None
        log.info(
            "shard.completed",
            parts=len(parts),
            resources=sum(part.count for part in parts),
            bytes=sum(part.size for part in parts),
        )
        await self._announce_end(lease, status)

    async def _hand_back(self, lease: Lease, error: Exception) -> None:
        """
        Postpone a shard whose backend is unavailable (J19), or record a failed attempt.

        While the job store itself is unavailable, retry until the worker stops: if nothing is
        recorded, the lease lapses, and that counts as an attempt.

        Raises:
            LeaseLost: The lease is lost, so that the failure does not count.
        """
        while True:
            try:
                with contained():
                    if await self._postponed(lease, error):
                        return
                    status = await self._fail(lease, error)
            except BackendUnavailable as unreachable:
                self._log_waiting(str(unreachable))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._options.idle.total_seconds())
                if self._stop.is_set():
                    raise
            else:
                await self._announce_end(lease, status)
                return

    async def _postponed(self, lease: Lease, error: Exception) -> bool:
        """Postpone a shard if its backend is unavailable and it has not waited too long."""
        if not isinstance(error, BackendUnavailable):
            return False
        reason = _public_reason(lease, error, nameless=self._backends.transforms.renames)
        pause = self._options.first_pause * 2 ** min(lease.postponed, MOST_DOUBLINGS)
        postponed = await self._backends.job_store.postpone(
            lease,
            reason,
            retry_after=min(pause, LONGEST_PAUSE),
            patience=self._options.outage_patience,
        )
        if postponed:
            self._log_waiting(str(error))
        return postponed

    def _log_waiting(self, reason: str) -> None:
        """Log why a shard waits; do not repeat the same reason until a shard is completed."""
        if reason != self._waits_for:
            log.warning("shard.waiting", reason=reason)
        self._waits_for = reason

    async def _fail(self, lease: Lease, error: Exception) -> JobStatus:
        """
        Record a failed attempt, and return the status of the job.

        Raises:
            LeaseLost: The lease is lost, so that the failure does not count. It is not logged:
                cancelling an export removes what its workers need, so that any error may follow.
        """
        options = self._options
        try:
            status = await self._backends.job_store.fail(
                lease,
                _public_reason(lease, error, nameless=self._backends.transforms.renames),
                max_attempts=options.max_attempts,
                retry_after=options.retry_after * 4 ** (lease.attempt - 1),
            )
        except BackendUnavailable:
            raise
        except BackendError:
            self._log_failure(lease, error)
            raise
        self._log_failure(lease, error)
        return status

    def _log_failure(self, lease: Lease, error: Exception) -> None:
        reason = reason_for_log(error) or type(error).__name__
        log.error("shard.failed", attempt=lease.attempt, reason=reason, exc_info=error)

    async def _announce_end(self, lease: Lease, status: JobStatus) -> None:
        """Announce a job to the observers if it has ended; if it failed, remove its output."""
        if status.active:
            return
        with suppress(JobNotFound):  # cancelled in the meantime
            job = await self._backends.job_store.get(lease.job.tenant, lease.job.id)
            log.info("job.ended", status=job.status)
            self._backends.announce(job)
        if status is JobStatus.ERROR:
            await remove_output(self._backends, JobKey(tenant=lease.job.tenant, id=lease.job.id))


class _Attempt:
    """The state of one attempt to export a shard."""

    export: ShardExport | None = None
    """None before it begins."""
    may_be_published: bool = False
    """Whether its parts must not be discarded."""

    @property
    def resources_done(self) -> int:
        return 0 if self.export is None else self.export.resources_done


async def _first_done(*tasks: asyncio.Future[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _discard(export: ShardExport) -> None:
    """Remove unpublished parts; if that fails, they are removed together with the job."""
    try:
        with contained():
            await export.discard()
    except BackendError as error:
        log.warning("part.discard_failed", reason=str(error))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "(none)"


def _public_reason(lease: Lease, error: Exception, *, nameless: bool) -> str:
    """Return why a shard failed, without internal details; if `nameless`, without ids either."""
    if isinstance(error, ConfigurationError) or (isinstance(error, HeliosError) and not nameless):
        return str(error)
    if isinstance(error, BackendUnavailable):
        return "a backend is unavailable; the server's log says which one"
    return (
        f"An internal error ended the export of {lease.shard.resource_type}; the server's log "
        f"has the details under job {lease.job.id}."
    )
