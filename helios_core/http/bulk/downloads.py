"""The door where the files of a finished export are downloaded."""

from datetime import UTC
from http import HTTPStatus
from typing import Final

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from helios_core.errors import PartNotFound
from helios_core.export.ndjson import read_ahead
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
)
from helios_core.http.requests import READ, HTTPRequest
from helios_core.model.jobs import Job, JobStatus
from helios_core.model.parts import Compression, Part
from helios_core.storage.backends import Backends

NDJSON: Final = "application/fhir+ndjson"


class DownloadRoutes:
    """Serves published parts to those whose export they belong to."""

    def __init__(self, backends: Backends, guard: Guard) -> None:
        self._backends = backends
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of a part."""
        path = "/export-file/{job_id:str}/{name:str}"
        return [route(path, http_method=READ, status_code=200)(self.download)]

    async def download(
        self, request: HTTPRequest, job_id: FromPath[str], name: FromPath[str]
    ) -> ASGIApp:
        """Give a part, whole or in a range, compressed where it is stored so and accepted so."""
        job, part = await self._published(self._guard.tenant(request), job_id, name)
        gzip = part.key.compression is Compression.GZIP
        # What is downloaded before the end must not look changed after it.
        partial = job.request.partial_manifests
        ended = job.transaction_time if partial else job.completed_at or job.transaction_time
        form = Representation(
            part=part,
            modified=ended.astimezone(UTC).replace(microsecond=0),
            decompressed=gzip and not accepts_gzip(request.headers.getall("accept-encoding", [])),
        )
        if is_not_modified(request.headers.getall("if-none-match", []), form.etag):
            return ASGIResponse(status_code=304, headers=form.headers)
        try:
            span = _asked(request, form)
        except RangeNotSatisfiable:
            return _unsatisfiable(form).to_asgi_response(None, request)
        return await self._send(form, span, head=request.method == HttpMethod.HEAD)

    async def _published(self, tenant: str, job_id: str, name: str) -> tuple[Job, Part]:
        """Look a part up among the caller's own: no part of a path is ever built from `name`."""
        job = await self._backends.job_store.get(tenant, job_id)
        if job.status is JobStatus.COMPLETE or (
            job.status.active and job.request.partial_manifests
        ):
            for part in await self._backends.job_store.parts(tenant, job_id):
                if part.key.name == name:
                    return job, part
        raise PartNotFound(
            "This export has no file of that name; the manifest lists those it has."
        )

    async def _send(self, form: Representation, span: ByteRange | None, *, head: bool) -> ASGIApp:
        wanted = span or ByteRange(0, form.size)
        headers = form.headers | {"Content-Length": str(wanted.length)}
        if span is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{form.size}"
        status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
        if head:
            return ASGIResponse(status_code=status, headers=headers, media_type=NDJSON)
        content = await start_stream(
            read_ahead(stream_part(self._backends.output_store, form, wanted))
        )
        return StreamingBody(
            iterator=content, status_code=status, headers=headers, media_type=NDJSON
        )


def _asked(request: HTTPRequest, form: Representation) -> ByteRange | None:
    """Give the span a client asks for; If-Range sends the whole to those who have another form."""
    condition = request.headers.get("if-range")
    if not if_range_holds(condition, etag=form.etag, last_modified=form.modified):
        return None
    return parse_range(request.headers.get("range"), form.size)


def _unsatisfiable(form: Representation) -> Response[bytes]:
    text = f"The range begins behind the end; the file has {form.size} bytes in this form."
    return outcome_response(416, "value", text, headers={"Content-Range": f"bytes */{form.size}"})
