"""The door where the files of a finished export are downloaded."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

import msgspec
from litestar import Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream

from helios_core.errors import PartNotFound
from helios_core.http.guards import READ, Guard, Incoming
from helios_core.http.gunzip import gunzipped, sliced
from helios_core.http.negotiation import takes_gzip
from helios_core.http.outcomes import outcome
from helios_core.http.ranges import Span, Unsatisfiable, not_modified, span_of, still_same
from helios_core.jobs import Job, JobStatus
from helios_core.manifests import Compression, Part
from helios_core.ndjson import ahead
from helios_core.output_stores import OutputStore
from helios_core.plugins import Backends

NDJSON: Final = "application/fhir+ndjson"


class Representation(msgspec.Struct, frozen=True, kw_only=True):
    """One of the forms a part can be sent in: as it is stored, or decompressed."""

    part: Part
    modified: datetime
    decompressed: bool

    @property
    def size(self) -> int:
        """Bytes to send in all."""
        return self.part.plain_size if self.decompressed else self.part.size

    @property
    def etag(self) -> str:
        """A strong validator; every form has its own (RFC 9110 §8.8.3.3)."""
        return f'"{self.part.digest}-plain"' if self.decompressed else f'"{self.part.digest}"'

    @property
    def headers(self) -> dict[str, str]:
        """What every answer about this form carries."""
        headers = {
            "ETag": self.etag,
            "Last-Modified": format_datetime(self.modified, usegmt=True),
            "Accept-Ranges": "bytes",
            "Cache-Control": "private",
        }
        if self.part.key.compression is Compression.GZIP:
            headers["Vary"] = "Accept-Encoding"
            if not self.decompressed:
                headers["Content-Encoding"] = "gzip"
        return headers


class Parts:
    """Serves published parts to those whose export they belong to."""

    def __init__(self, backends: Backends, guard: Guard) -> None:
        self._backends = backends
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of a part."""
        path = "/export-file/{job_id:str}/{name:str}"
        return [route(path, http_method=READ, status_code=200)(self.download)]

    async def download(
        self, request: Incoming, job_id: FromPath[str], name: FromPath[str]
    ) -> Response[Any]:
        """Give a part, whole or in a range, compressed where it is stored so and accepted so."""
        job, part = await self._published(self._guard.tenant(request), job_id, name)
        gzip = part.key.compression is Compression.GZIP
        form = Representation(
            part=part,
            modified=(job.completed_at or job.transaction_time)
            .astimezone(UTC)
            .replace(microsecond=0),
            decompressed=gzip and not takes_gzip(request.headers.getall("accept-encoding", [])),
        )
        if not_modified(request.headers.get("if-none-match"), form.etag):
            return Response(None, status_code=304, headers=form.headers)
        try:
            span = _asked(request, form)
        except Unsatisfiable:
            return _unsatisfiable(form)
        return await self._send(form, span, head=request.method == "HEAD")

    async def _published(self, tenant: str, job_id: str, name: str) -> tuple[Job, Part]:
        """Look a part up among the caller's own: no part of a path is ever built from `name`."""
        job = await self._backends.jobs.get(tenant, job_id)
        if job.status is JobStatus.COMPLETE:
            for part in await self._backends.jobs.parts(tenant, job_id):
                if part.key.name == name:
                    return job, part
        raise PartNotFound(
            "This export has no file of that name; the manifest lists those it has."
        )

    async def _send(self, form: Representation, span: Span | None, *, head: bool) -> Response[Any]:
        wanted = span or Span(0, form.size)
        headers = form.headers | {"Content-Length": str(wanted.length)}
        if span is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{form.size}"
        status = 200 if span is None else 206
        if head:
            return Response(b"", status_code=status, headers=headers, media_type=NDJSON)
        content = await begun(ahead(contents(self._backends.outputs, form, wanted)))
        return Stream(content, status_code=status, headers=headers, media_type=NDJSON)


async def contents(
    outputs: OutputStore, form: Representation, span: Span
) -> AsyncGenerator[bytes]:
    """Stream a span of a representation."""
    key = form.part.key
    if form.decompressed:
        plain = gunzipped(outputs.read(key))
        chunks = sliced(plain, start=span.start, length=span.length)
    else:
        stored = outputs.read(key, start=span.start, end=span.end)
        chunks = sliced(stored, start=0, length=span.length)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk


async def begun(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Wait for the first chunk, so that a part that is gone is told while it still can be."""
    first = await anext(chunks, b"")

    async def rest() -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return rest()


def _asked(request: Incoming, form: Representation) -> Span | None:
    """Give the span a client asks for; If-Range sends the whole to those who have another form."""
    condition = request.headers.get("if-range")
    if not still_same(condition, etag=form.etag, last_modified=form.modified):
        return None
    return span_of(request.headers.get("range"), form.size)


def _unsatisfiable(form: Representation) -> Response[bytes]:
    text = f"The range begins behind the end; the file has {form.size} bytes in this form."
    return outcome(416, "value", text, headers={"Content-Range": f"bytes */{form.size}"})
