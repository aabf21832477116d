"""The route for downloading the files of an export."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import structlog
from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from helios_core.export.ndjson import read_ahead
from helios_core.fhir.media_types import NDJSON
from helios_core.http.bulk.own_jobs import visible_job
from helios_core.http.bulk.streaming import (
    Representation,
    StreamingBody,
    start_stream,
    stream_part,
)
from helios_core.http.callers import Guard
from helios_core.http.errors import outcome_response
from helios_core.http.negotiation import accepts_gzip
from helios_core.http.ranges import (
    ByteRange,
    RangeNotSatisfiable,
    if_range_holds,
    is_not_modified,
    parse_range,
    precondition_fails,
)
from helios_core.http.requests import READ, HTTPRequest
from helios_core.model.jobs import Job, JobStatus
from helios_core.model.parts import Compression, Part
from helios_core.storage.backends import Backends
from helios_core.storage.job_records import part_not_found

CHANGED: Final = (
    "The file is not the one that If-Match or If-Unmodified-Since names; compressed and plain "
    "files have different ETags. Download it from its start, with the same Accept-Encoding."
)


class DownloadRoutes:
    """Serves published parts to the owner of their export (Bulk Data 2.0.0, File Request)."""

    def __init__(self, backends: Backends, guard: Guard) -> None:
        self._backends = backends
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of one file."""
        path = "/export-file/{job_id:str}/{name:str}"
        return [route(path, http_method=READ, status_code=200)(self.download)]

    async def download(
        self, request: HTTPRequest, job_id: FromPath[str], name: FromPath[str]
    ) -> ASGIApp:
        """Send a file or a range of it; compressed if it is stored so and gzip is accepted."""
        tenant, principal = self._guard.tenant(request), self._guard.principal(request)
        job = await visible_job(self._backends, principal, tenant, job_id)
        structlog.contextvars.bind_contextvars(job_id=job_id)
        part = await self._published_part(job, name)
        compressed = part.key.compression is Compression.GZIP
        accepts = accepts_gzip(request.headers.getall("accept-encoding", []))
        representation = Representation(
            part=part, modified=_last_modified(job), decompressed=compressed and not accepts
        )
        if precondition_fails(
            request.headers.getall("if-match", []),
            request.headers.get("if-unmodified-since"),
            etag=representation.etag,
            last_modified=representation.modified,
        ):
            return outcome_response(412, "conflict", CHANGED).to_asgi_response(None, request)
        if is_not_modified(request.headers.getall("if-none-match", []), representation.etag):
            return ASGIResponse(status_code=304, headers=representation.headers)
        try:
            byte_range = _requested_range(request, representation)
        except RangeNotSatisfiable:
            return _range_not_satisfiable(representation).to_asgi_response(None, request)
        return await self._send(representation, byte_range, head=request.method == HttpMethod.HEAD)

    async def _published_part(self, job: Job, name: str) -> Part:
        """Return a part of a job by name; no path in the output store is ever built from it."""
        if job.status is JobStatus.COMPLETE or (
            job.status.active and job.request.partial_manifests
        ):
            return await self._backends.job_store.part(job.tenant, job.id, name)
        raise part_not_found()

    async def _send(
        self, representation: Representation, byte_range: ByteRange | None, *, head: bool
    ) -> ASGIApp:
        sent = byte_range or ByteRange(0, representation.size)
        headers = representation.headers | {"Content-Length": str(sent.length)}
        status = HTTPStatus.OK
        if byte_range is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {sent.start}-{sent.end - 1}/{representation.size}"
        if head:
            return ASGIResponse(status_code=status, headers=headers, media_type=NDJSON)
        chunks = await start_stream(
            read_ahead(stream_part(self._backends.output_store, representation, sent))
        )
        return StreamingBody(
            iterator=chunks, status_code=status, headers=headers, media_type=NDJSON
        )


def _last_modified(job: Job) -> datetime:
    """Return when the export ended, or an instant that stays the same while it runs."""
    ended = job.completed_at or job.transaction_time
    # A file that is downloaded before the end must not look changed after it.
    modified = job.transaction_time if job.request.partial_manifests else ended
    return modified.astimezone(UTC).replace(microsecond=0)


def _requested_range(request: HTTPRequest, representation: Representation) -> ByteRange | None:
    """Return the requested range; None without one, or if If-Range names another file."""
    if not if_range_holds(
        request.headers.get("if-range"),
        etag=representation.etag,
        last_modified=representation.modified,
    ):
        return None
    return parse_range(request.headers.get("range"), representation.size)


def _range_not_satisfiable(representation: Representation) -> Response[bytes]:
    size = representation.size
    text = f"The range contains no bytes of the file, which has {size} bytes in this encoding."
    return outcome_response(416, "value", text, headers={"Content-Range": f"bytes */{size}"})
