"""The route for polling and ending an export."""

import math
import re
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from litestar import Response, delete, route
from litestar.background_tasks import BackgroundTask
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.errors import BackendError, InvalidParameter
from helios_core.export import expiry
from helios_core.export.oversight import is_workforce_missing
from helios_core.http.bulk.manifest import ManifestRenderer
from helios_core.http.bulk.own_jobs import endable_job, visible_job
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_response, reason_phrase
from helios_core.http.rate_limits import RateLimiter, TooManyRequests
from helios_core.http.requests import READ, HTTPRequest, query_pairs
from helios_core.http.responses import EmptyResponse
from helios_core.interactions.callers import Caller
from helios_core.model.jobs import Job, JobKey, JobProgress, JobStatus
from helios_core.storage.backends import Backends

MAX_POLL_SECONDS: Final = 30
"""The longest wait between two polls that Retry-After requests."""

MAX_PROGRESS_CHARACTERS: Final = 100
"""The maximum length of X-Progress (Bulk Data 2.0.0, Bulk Data Status Request)."""

JSON: Final = "application/json"
PAGE_NUMBER: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)

ANY_PAGE: Final = 0
"""Stands for all pages that a manifest does not have."""

log = structlog.stdlib.get_logger()


class PollLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How often one client may poll one page of one export's status."""

    per_minute: int = 0
    """0 means no limit."""
    max_refused: int = 0
    """Refused polls in a row that end a running export; 0 means never."""


class StatusRoutes:
    """Responds to polls and ends exports (Bulk Data 2.0.0, Status Request and Delete Request)."""

    def __init__(
        self,
        backends: Backends,
        guard: Guard,
        *,
        manifests: ManifestRenderer,
        output_ttl: timedelta,
        poll_limits: PollLimits,
    ) -> None:
        self._backends = backends
        self._guard = guard
        self._manifests = manifests
        self._output_ttl = output_ttl
        self._max_refused = poll_limits.max_refused
        self._rate_limiter = RateLimiter(poll_limits.per_minute, "polls of this export")

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of one export's status."""
        path = "/export-status/{job_id:str}"
        return [
            route(path, http_method=READ, status_code=200)(self.poll),
            delete(path, status_code=202)(self.end),
        ]

    async def poll(self, request: HTTPRequest, job_id: FromPath[str]) -> Response[bytes]:
        """Report the progress of an export, its manifest, or why it failed."""
        caller = self._guard.admit(request)
        page = _page_number(request)
        client = (self._guard.client(request), caller.tenant, job_id)
        # Every export and every page has its own limit, since clients fetch several at a time.
        # Pages that do not exist share one: otherwise each number would come with a new limit.
        limited = client if page == 1 else (*client, ANY_PAGE)
        try:
            self._rate_limiter.acquire(limited, count=page == 1)
            if page > 1:
                self._rate_limiter.acquire((*client, page))
            return await self._poll(caller, job_id, page, limited)
        except TooManyRequests:
            if self._rate_limiter.refusals(limited) == self._max_refused:
                ended = await self._end_for_polling(caller, job_id)
                if ended is not None:
                    return ended
            raise

    async def _poll(
        self, caller: Caller, job_id: str, page: int, limited: Hashable
    ) -> Response[bytes]:
        """Respond to a poll; if it is for a page that does not exist, count it under `limited`."""
        has_page = False
        try:
            job = await visible_job(self._backends, caller.principal, caller.tenant, job_id)
            structlog.contextvars.bind_contextvars(job_id=job_id)
            response = await self._status(job, caller, page)
            has_page = response.status_code == HTTPStatus.OK
        finally:
            if page > 1 and not has_page:
                self._rate_limiter.acquire(limited)
        return _separate_status(response) if job.request.separate_status else response

    async def end(self, request: HTTPRequest, job_id: FromPath[str]) -> Response[bytes]:
        """End an export at once; its files are removed after the response."""
        caller = self._guard.admit(request)
        if caller.principal is not None:
            await endable_job(self._backends, caller.principal, caller.tenant, job_id)
        job = JobKey(tenant=caller.tenant, id=job_id)
        await expiry.cancel_job(self._backends, job)
        structlog.contextvars.bind_contextvars(job_id=job_id)
        log.info("job.cancelled", job_id=job_id)
        response = EmptyResponse(status=202)
        response.background = BackgroundTask(self._remove, caller.tenant, job_id)
        return response

    async def _end_for_polling(self, caller: Caller, job_id: str) -> Response[bytes] | None:
        """End a running export; return None if it has ended, since it costs nothing any more."""
        job = await endable_job(self._backends, caller.principal, caller.tenant, job_id)
        if not job.status.active:
            return None
        await expiry.cancel_job(self._backends, JobKey(tenant=caller.tenant, id=job_id))
        log.warning("job.ended_for_polling", job_id=job_id)
        text = "This export was polled far too often and has been ended; start another one."
        response = outcome_response(429, "throttled", text)
        response.background = BackgroundTask(self._remove, caller.tenant, job_id)
        return response

    async def _status(self, job: Job, caller: Caller, page: int) -> Response[bytes]:
        if job.status is JobStatus.ERROR:
            return outcome_response(500, "processing", job.failure or "The export failed.")
        complete = job.status is JobStatus.COMPLETE
        headers = self._expiry(job) if complete else await self._progress(job)
        manifest = await self._manifest(job, caller, page)
        status = 200 if complete else 202
        if manifest is None:
            return EmptyResponse(status=status, headers=headers)
        return Response(manifest, status_code=status, media_type=JSON, headers=headers)

    async def _progress(self, job: Job) -> dict[str, str]:
        progress = await self._backends.job_store.progress(job.tenant, job.id)
        total = max(progress.resources_total, progress.resources_done)
        text = f"{progress.percent} % ({progress.resources_done:,} of {total:,} resources)"
        if await is_workforce_missing(self._backends.job_store):
            text += "; waiting, no worker is running"
        elif progress.waiting_for is not None:
            text += f"; waiting, {progress.waiting_for}"
        text = _for_header(text, MAX_PROGRESS_CHARACTERS)
        now = datetime.now(UTC)
        age = max(now - (job.created_at or now), timedelta())
        return {"Retry-After": str(next_poll_seconds(progress, age=age)), "X-Progress": text}

    async def _manifest(self, job: Job, caller: Caller, page: int) -> bytes | None:
        """Return a page of the manifest, or None while it must not be shown."""
        if job.status.active and not job.request.partial_manifests:
            return None
        parts = await self._backends.job_store.parts(caller.tenant, job.id)
        return await self._manifests.page(job, parts, page, base=caller.base)

    def _expiry(self, job: Job) -> dict[str, str]:
        if job.completed_at is None:
            return {}
        expires = job.completed_at.astimezone(UTC) + self._output_ttl
        return {"Expires": format_datetime(expires, usegmt=True)}

    async def _remove(self, tenant: str, job_id: str) -> None:
        """Remove what is left of an ended export; if that fails, the sweeper tries again."""
        try:
            await expiry.remove_job(self._backends, tenant, job_id)
        except BackendError as error:
            log.warning("job.removal_failed", job_id=job_id, reason=str(error))


def _for_header(text: str, max_characters: int) -> str:
    """Return a text in the characters of a header, cut at the end if it is too long."""
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    if len(printable) <= max_characters:
        return printable
    return f"{printable[: max_characters - 3].rstrip()}..."


def next_poll_seconds(progress: JobProgress, *, age: timedelta) -> int:
    """
    Return the seconds until the next poll is worthwhile, from 1 to MAX_POLL_SECONDS.

    That is the time that the export probably still needs, but no more than it has already run: the
    end of a short export is noticed soon, and a long export is not polled needlessly.
    """
    seconds = age.total_seconds()
    if progress.resources_done > 0:
        remaining = max(progress.resources_total - progress.resources_done, 0)
        seconds = min(seconds, seconds * remaining / progress.resources_done)
    return min(max(math.ceil(seconds), 1), MAX_POLL_SECONDS)


def _separate_status(response: Response[bytes]) -> Response[bytes]:
    """Move the status of the export to a header, and set that of the poll (Bulk Data 3.0.0)."""
    status = response.status_code or 200
    response.headers["X-Export-Status"] = f"{status} {reason_phrase(status)}"
    response.status_code = 200
    return response


def _page_number(request: HTTPRequest) -> int:
    values = [value for name, value in query_pairs(request) if name == "page"]
    if not values:
        return 1
    if len(values) > 1 or not PAGE_NUMBER.fullmatch(values[0]):
        raise InvalidParameter(
            "page must be one whole number from 1; follow the manifest's links."
        )
    return int(values[0])
