"""The door where an export is watched, fetched and ended."""

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import msgspec
import structlog
from litestar import Response, delete, route
from litestar.background_tasks import BackgroundTask
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.errors import BackendError, InvalidParameter
from helios_core.export import expiry
from helios_core.http.bulk.manifest import ManifestRenderer
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_response, reason_phrase
from helios_core.http.rate_limits import RateLimiter, TooManyRequests, client_address
from helios_core.http.requests import READ, HTTPRequest, query_pairs
from helios_core.http.responses import EmptyResponse
from helios_core.interactions.callers import Caller
from helios_core.model.jobs import Job, JobProgress, JobStatus
from helios_core.storage.backends import Backends

LONGEST_WAIT: Final = 30
"""Seconds between two polls, however long an export takes."""

JSON: Final = "application/json"
PAGE_NUMBER: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)

log = structlog.stdlib.get_logger()


class PollLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How often one client may ask about one export."""

    per_minute: int = 0
    """0 is without a limit."""
    most_refused: int = 0
    """Refusals in a row after which a running export is ended, 0 for never."""


class StatusRoutes:
    """Answers polls and ends exports (Bulk Data 2.0.0, Bulk Data Status and Delete Request)."""

    def __init__(
        self,
        backends: Backends,
        guard: Guard,
        *,
        manifests: ManifestRenderer,
        output_ttl: timedelta,
        polls: PollLimits,
    ) -> None:
        self._backends = backends
        self._guard = guard
        self._manifests = manifests
        self._output_ttl = output_ttl
        self._polls = polls
        self._allowance = RateLimiter(polls.per_minute, "polls of this export")

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of one export."""
        path = "/export-status/{job_id:str}"
        return [
            route(path, http_method=READ, status_code=200)(self.poll),
            delete(path, status_code=202)(self.end),
        ]

    async def poll(self, request: HTTPRequest, job_id: FromPath[str]) -> Response[bytes]:
        """Tell how far an export is, or give its manifest, or say why it failed."""
        caller = self._guard.admit(request)
        number = _page_number(request)
        # The pages of a manifest may be read in one go, and exports watched side by side.
        client = (client_address(request), caller.tenant, job_id, number)
        try:
            self._allowance.acquire(client)
        except TooManyRequests:
            if self._allowance.refused(client) == self._polls.most_refused:
                ended = await self._ended_for_polling(caller, job_id)
                if ended is not None:
                    return ended
            raise
        job = await self._backends.job_store.get(caller.tenant, job_id)
        answer = await self._answer(job, caller, number)
        return _separated(answer) if job.request.separate_status else answer

    async def _ended_for_polling(self, caller: Caller, job_id: str) -> Response[bytes] | None:
        """End an export, unless it is done: then it costs nothing any more."""
        job = await self._backends.job_store.get(caller.tenant, job_id)
        if not job.status.active:
            return None
        await self._backends.job_store.cancel(caller.tenant, job_id)
        log.warning("job.ended_for_polling", job_id=job_id)
        text = "This export was asked about far too often and has been ended; begin another one."
        answer = outcome_response(429, "throttled", text)
        answer.background = BackgroundTask(self._remove, caller.tenant, job_id)
        return answer

    async def _answer(self, job: Job, caller: Caller, number: int) -> Response[bytes]:
        match job.status:
            case JobStatus.COMPLETE:
                body = await self._manifest(job, caller, number)
                return Response(body, media_type=JSON, headers=self._expiry(job))
            case JobStatus.ERROR:
                return outcome_response(500, "processing", job.failure or "The export failed.")
            case _:
                progress = await self._backends.job_store.progress(caller.tenant, job.id)
                headers = _progress(job, progress, now=datetime.now(UTC))
                body = await self._manifest(job, caller, number)
                if not body:
                    return EmptyResponse(status=202, headers=headers)
                return Response(body, status_code=202, media_type=JSON, headers=headers)

    async def _manifest(self, job: Job, caller: Caller, number: int) -> bytes:
        """Give a page of the manifest, empty as long as it cannot be shown."""
        if job.status.active and not job.request.partial_manifests:
            return b""
        parts = await self._backends.job_store.parts(caller.tenant, job.id)
        return await self._manifests.page(job, parts, number, base=caller.base)

    def _expiry(self, job: Job) -> dict[str, str]:
        if job.completed_at is None:
            return {}
        expires = job.completed_at.astimezone(UTC) + self._output_ttl
        return {"Expires": format_datetime(expires, usegmt=True)}

    async def end(self, request: HTTPRequest, job_id: FromPath[str]) -> Response[bytes]:
        """End an export at once; its files go after the answer."""
        caller = self._guard.admit(request)
        await self._backends.job_store.cancel(caller.tenant, job_id)
        log.info("job.cancelled", job_id=job_id)
        answer = EmptyResponse(status=202)
        answer.background = BackgroundTask(self._remove, caller.tenant, job_id)
        return answer

    async def _remove(self, tenant: str, job_id: str) -> None:
        """Remove what an ended export left; the sweeper tries again where this fails."""
        try:
            await expiry.remove_job(self._backends, tenant, job_id)
        except BackendError as error:
            log.warning("job.removal_failed", job_id=job_id, reason=str(error))


def _progress(job: Job, progress: JobProgress, *, now: datetime) -> dict[str, str]:
    total = max(progress.resources_total, progress.resources_done)
    text = f"{progress.percent} % ({progress.resources_done:,} of {total:,} resources)"
    age = max(now - (job.created_at or now), timedelta())
    return {"Retry-After": str(next_poll_seconds(progress, age=age)), "X-Progress": text}


def _separated(answer: Response[bytes]) -> Response[bytes]:
    """Let the status speak of the poll, and a header of the export (Bulk Data 3.0.0, Status)."""
    status = answer.status_code or 200
    answer.headers["X-Export-Status"] = f"{status} {reason_phrase(status)}"
    answer.status_code = 200
    return answer


def _page_number(request: HTTPRequest) -> int:
    values = [value for name, value in query_pairs(request) if name == "page"]
    if not values:
        return 1
    if len(values) > 1 or not PAGE_NUMBER.fullmatch(values[0]):
        raise InvalidParameter(
            "page is not one whole number from 1; follow the links of the manifest."
        )
    return int(values[0])


def next_poll_seconds(progress: JobProgress, *, age: timedelta) -> int:
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
