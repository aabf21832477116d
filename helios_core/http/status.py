"""The door where an export is watched, fetched and ended."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import msgspec
import structlog
from litestar import Response, delete, route
from litestar.background_tasks import BackgroundTask
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core import expiry
from helios_core.errors import BackendError
from helios_core.http.guards import READ, Caller, Guard, Incoming
from helios_core.http.manifest import manifest_of
from helios_core.http.outcomes import outcome
from helios_core.jobs import Job, JobStatus, Progress
from helios_core.plugins import Backends

LONGEST_WAIT: Final = 30
"""Seconds between two polls, however long an export takes."""

log = structlog.stdlib.get_logger()


class Status:
    """Answers polls and ends exports (Bulk Data 2.0.0, Bulk Data Status and Delete Request)."""

    def __init__(self, backends: Backends, guard: Guard, *, output_ttl: timedelta) -> None:
        self._backends = backends
        self._guard = guard
        self._output_ttl = output_ttl

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of one export."""
        path = "/export-status/{job_id:str}"
        return [
            route(path, http_method=READ, status_code=200)(self.poll),
            delete(path, status_code=202)(self.end),
        ]

    async def poll(self, request: Incoming, job_id: FromPath[str]) -> Response[bytes]:
        """Tell how far an export is, or give its manifest, or say why it failed."""
        caller = self._guard.admit(request)
        job = await self._backends.jobs.get(caller.tenant, job_id)
        match job.status:
            case JobStatus.COMPLETE:
                return await self._complete(job, caller)
            case JobStatus.ERROR:
                return outcome(500, "processing", job.failure or "The export failed.")
            case _:
                progress = await self._backends.jobs.progress(caller.tenant, job_id)
                return _running(job, progress, now=datetime.now(UTC))

    async def _complete(self, job: Job, caller: Caller) -> Response[bytes]:
        parts = await self._backends.jobs.parts(caller.tenant, job.id)
        manifest = manifest_of(job, parts, base=caller.base)
        headers = {}
        if job.completed_at is not None:
            expires = job.completed_at.astimezone(UTC) + self._output_ttl
            headers["Expires"] = format_datetime(expires, usegmt=True)
        return Response(
            msgspec.json.encode(manifest), media_type="application/json", headers=headers
        )

    async def end(self, request: Incoming, job_id: FromPath[str]) -> Response[bytes]:
        """End an export at once; its files go after the answer."""
        caller = self._guard.admit(request)
        await self._backends.jobs.cancel(caller.tenant, job_id)
        log.info("job.cancelled", job_id=job_id)
        return Response(
            b"",
            status_code=202,
            background=BackgroundTask(self._remove, caller.tenant, job_id),
        )

    async def _remove(self, tenant: str, job_id: str) -> None:
        """Remove what an ended export left; the sweeper tries again where this fails."""
        try:
            await expiry.remove(self._backends, tenant, job_id)
        except BackendError as error:
            log.warning("job.removal_failed", job_id=job_id, reason=str(error))


def _running(job: Job, progress: Progress, *, now: datetime) -> Response[bytes]:
    total = max(progress.resources_total, progress.resources_done)
    text = f"{progress.percent} % ({progress.resources_done:,} of {total:,} resources)"
    age = max(now - (job.created_at or now), timedelta())
    headers = {"Retry-After": str(wait_for(progress, age=age)), "X-Progress": text}
    return Response(b"", status_code=202, headers=headers)


def wait_for(progress: Progress, *, age: timedelta) -> int:
    """
    Give the seconds until the next poll is worth while.

    It is what the export is expected to need still, but never more than it has run already, so
    that a short export is noticed soon and a long one is not asked about needlessly.
    """
    seconds = age.total_seconds()
    if progress.resources_done > 0:
        rest = max(progress.resources_total - progress.resources_done, 0)
        seconds = min(seconds, seconds * rest / progress.resources_done)
    return min(max(math.ceil(seconds), 1), LONGEST_WAIT)
