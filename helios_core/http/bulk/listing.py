"""The route that lists the exports of a client, which may have lost the URL of one."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

import msgspec
from litestar import Response, route
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET, UnsetType

from helios_core.errors import Forbidden, InvalidParameter, JobNotFound
from helios_core.fhir.instants import format_instant
from helios_core.http.bulk.manifest import ManifestLink
from helios_core.http.callers import Guard
from helios_core.http.rate_limits import RateLimiter
from helios_core.http.requests import READ, HTTPRequest, query_parameters
from helios_core.interactions.callers import Caller
from helios_core.model.jobs import JobPlace, JobQuery, JobStatus, JobSummary
from helios_core.storage.backends import Backends

ANONYMOUS: Final = ""
"""The owner of exports that were started without authentication."""
LISTED: Final = frozenset(JobStatus) - {JobStatus.CANCELLED}
EXPORTS_PER_PAGE: Final = 50
MAX_PER_PAGE: Final = 200
MAX_COUNT: Final = 99_999
"""The largest accepted value of `_count`; a page still has at most MAX_PER_PAGE exports."""
COUNT: Final = re.compile(r"[1-9]\d{0,4}", re.ASCII)


class ListedExport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One export of the list."""

    url: str
    """The address of its status, which the kick-off returned in Content-Location."""
    status: str
    request: str | UnsetType = UNSET
    """The URL of its kick-off."""
    transaction_time: str | UnsetType = UNSET
    started: str
    ended: str | UnsetType = UNSET
    expires: str | UnsetType = UNSET
    """When a finished export and its files are removed."""
    progress: int | UnsetType = UNSET
    """The completed percentage of an export that has not ended."""
    error: str | UnsetType = UNSET
    """Why the export ended in error, or why it cannot be read."""


class ExportList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the list; `link` has the URL of the next one, if there is one."""

    export: Sequence[ListedExport]
    link: Sequence[ManifestLink] | UnsetType = UNSET


class ListingRoutes:
    """
    Lists exports, the newest first, without cancelled and removed ones.

    A client gets those of its own exports that its current scopes cover. A page may therefore be
    short or even empty although there is a next one.
    """

    def __init__(
        self, backends: Backends, guard: Guard, *, output_ttl: timedelta, per_minute: int
    ) -> None:
        self._backends = backends
        self._guard = guard
        self._output_ttl = output_ttl
        self._rate_limiter = RateLimiter(per_minute, "requests for the list of exports")

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of the list."""
        return [route("/export-status", http_method=READ, status_code=200)(self.list)]

    async def list(self, request: HTTPRequest) -> Response[bytes]:
        """Return a page of the caller's own exports in the tenant."""
        caller = self._guard.admit(request)
        self._rate_limiter.acquire((self._guard.client(request), caller.tenant))
        count, after = _paging(query_parameters(request, ("_count", "after")), caller.tenant)
        owner = caller.principal.owner if caller.principal else ANONYMOUS
        query = JobQuery(tenant=caller.tenant, owner=owner, statuses=LISTED)
        jobs = await self._backends.job_store.jobs(query, limit=count + 1, after=after)
        page = jobs[:count]
        content = ExportList(
            export=[
                self._to_listed(job, caller) for job in page if await self._is_visible(job, caller)
            ],
            link=[_next_link(caller, count, page[-1])] if len(jobs) > count else UNSET,
        )
        return Response(msgspec.json.encode(content), media_type="application/json")

    async def _is_visible(self, job: JobSummary, caller: Caller) -> bool:
        """Return whether a caller may see its job; of an unreadable one the types are unknown."""
        if caller.principal is None:
            return True
        if job.job is None:
            return False
        try:
            await self._backends.file_authorizer.authorize_job(caller.principal, job.job)
        except (Forbidden, JobNotFound):
            return False
        return True

    def _to_listed(self, job: JobSummary, caller: Caller) -> ListedExport:
        ended = job.completed_at
        error = job.failure
        if job.job is None:
            error = "The server cannot read this export; the reason is in its log."
        return ListedExport(
            url=f"{caller.base}/export-status/{job.id}",
            status=job.status,
            request=job.job.request.url if job.job else UNSET,
            transaction_time=format_instant(job.job.transaction_time) if job.job else UNSET,
            started=format_instant(job.created_at),
            ended=format_instant(ended) if ended else UNSET,
            expires=format_instant(ended + self._output_ttl) if ended else UNSET,
            progress=UNSET if ended else job.progress.percent,
            error=error or UNSET,
        )


def _next_link(caller: Caller, count: int, last: JobSummary) -> ManifestLink:
    position = msgspec.json.encode((last.created_at.astimezone(UTC), last.id))
    after = base64.urlsafe_b64encode(position).rstrip(b"=").decode()
    return ManifestLink(
        url=f"{caller.base}/export-status?{urlencode({'_count': count, 'after': after})}"
    )


def _paging(pairs: Sequence[tuple[str, str]], tenant: str) -> tuple[int, JobPlace | None]:
    """Return the maximum number of exports on a page, and the position after which it begins."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise InvalidParameter("_count and after may be sent only once each.")
    count, after = values.get("_count", str(EXPORTS_PER_PAGE)), values.get("after")
    if not COUNT.fullmatch(count):
        raise InvalidParameter(f"_count must be a whole number from 1 to {MAX_COUNT}.")
    return min(int(count), MAX_PER_PAGE), None if after is None else _parse_place(after, tenant)


def _parse_place(after: str, tenant: str) -> JobPlace:
    try:
        padded = after.encode("ascii") + b"=" * (-len(after) % 4)
        position = base64.b64decode(padded, altchars=b"-_", validate=True)
        created_at, job_id = msgspec.json.decode(position, type=tuple[datetime, str])
        return JobPlace(created_at=created_at.astimezone(UTC), tenant=tenant, id=job_id)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise InvalidParameter(
            "after is not a value that this server sent; follow the links of the list."
        ) from error
