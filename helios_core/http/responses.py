"""Responses with a resource or a Bundle; stored bytes are sent unchanged."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse

from helios_core.http.ranges import is_not_modified
from helios_core.http.requests import HTTPRequest
from helios_core.interactions.callers import Caller
from helios_core.interactions.read import require_content
from helios_core.storage.data_provider import StoredVersion


def raw_json(content: bytes | None) -> msgspec.Raw | None:
    """Return JSON in a form that is encoded into a Bundle unchanged; None for None."""
    return None if content is None else msgspec.Raw(content)


Mode = Literal["match", "include", "outcome"]

_UNESCAPED: Final = ","
"""Allowed in a query (RFC 3986, section 3.4); validators split `_type` at it before decoding."""


class BundleLink(msgspec.Struct, frozen=True):
    """A Bundle.link."""

    relation: str
    url: str


def page_link(relation: str, url: str, parameters: Sequence[tuple[str, str]]) -> BundleLink:
    """Return the link to a page of a Bundle, by the parameters of its query."""
    query = urlencode(parameters, safe=_UNESCAPED)
    return BundleLink(relation, f"{url}?{query}" if query else url)


class EntrySearch(msgspec.Struct, frozen=True):
    """A Bundle.entry.search."""

    mode: Mode = "match"


class EntryRequest(msgspec.Struct, frozen=True):
    """A Bundle.entry.request."""

    method: str
    url: str


class EntryResponse(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A Bundle.entry.response."""

    status: str
    location: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    outcome: msgspec.Raw | None = None


class BundleEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A Bundle.entry."""

    full_url: str | None = None
    resource: msgspec.Raw | None = None
    search: EntrySearch | None = None
    request: EntryRequest | None = None
    response: EntryResponse | None = None


class BundleMeta(msgspec.Struct, frozen=True, rename="camel"):
    """A Bundle.meta."""

    last_updated: str


class BundleResource(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="resourceType",
    tag="Bundle",
):
    """A Bundle; empty lists are omitted, as FHIR's JSON demands."""

    type: str
    meta: BundleMeta | None = None
    total: int | None = None
    link: tuple[BundleLink, ...] = ()
    entry: tuple[BundleEntry, ...] = ()


class EmptyResponse(Response[bytes]):
    """A response without a body and, unlike Litestar's, without a Content-Type."""

    def __init__(self, *, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(b"", status_code=status, headers=dict(headers or {}))

    def to_asgi_response(
        self,
        app: Any,  # noqa: ANN401  the superclass has a private alias for it
        request: HTTPRequest,
        **options: Any,  # noqa: ANN401
    ) -> ASGIResponse:
        """Return it as an ASGI application."""
        response = super().to_asgi_response(app, request, **options)
        if "content-type" in response.headers:
            del response.headers["content-type"]
        return response


def version_etag(version_id: int) -> str:
    """Return the ETag, a weak validator, of a version (FHIR R4, http.html#versioning)."""
    return f'W/"{version_id}"'


def version_headers(version_id: int, last_updated: datetime) -> dict[str, str]:
    """Return ETag and Last-Modified of a version."""
    modified = format_datetime(last_updated.astimezone(UTC), usegmt=True)
    return {"ETag": version_etag(version_id), "Last-Modified": modified}


def resource_url(caller: Caller, resource_type: str, resource_id: str) -> str:
    """Return the absolute URL of a resource."""
    return f"{caller.base}/{resource_type}/{resource_id}"


def version_response(request: HTTPRequest, caller: Caller, stored: StoredVersion) -> Response[Any]:
    """Return a response with one version, or 304 if the client has it already."""
    headers = version_headers(stored.version_id, stored.last_updated)
    if is_not_modified(request.headers.getall("if-none-match", []), headers["ETag"]):
        return Response(None, status_code=304, headers=headers)
    return resource_response(caller, require_content(stored), headers=headers)


def resource_response(
    caller: Caller,
    content: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """Return a response whose body is one resource."""
    return Response(
        content, status_code=status, media_type=caller.media_type, headers=dict(headers or {})
    )


def bundle_response(caller: Caller, bundle: BundleResource) -> Response[bytes]:
    """Return a response whose body is a Bundle."""
    return resource_response(caller, msgspec.json.encode(bundle))
