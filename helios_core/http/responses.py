"""Resources and Bundles on their way out: stored bytes, untouched, in the right envelope."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse

from helios_core.errors import ResourceDeleted, ResourceNotFound
from helios_core.http.ranges import is_not_modified
from helios_core.http.requests import HTTPRequest
from helios_core.interactions.callers import Caller
from helios_core.storage.data_provider import StoredVersion


def raw_json(content: bytes | None) -> msgspec.Raw | None:
    """Give JSON in a form that goes into a Bundle as it is."""
    return None if content is None else msgspec.Raw(content)


Mode = Literal["match", "include", "outcome"]


class BundleLink(msgspec.Struct, frozen=True):
    """A Bundle.link."""

    relation: str
    url: str


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


class BundleResource(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="resourceType",
    tag="Bundle",
):
    """A Bundle; lists that would be empty are left out, as FHIR's JSON demands."""

    type: str
    total: int | None = None
    link: tuple[BundleLink, ...] = ()
    entry: tuple[BundleEntry, ...] = ()


class EmptyResponse(Response[bytes]):
    """An answer without a body and, unlike Litestar's, without the media type of one."""

    def __init__(self, *, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(b"", status_code=status, headers=dict(headers or {}))

    def to_asgi_response(
        self,
        app: Any,  # noqa: ANN401  the superclass has an alias of its own for it
        request: HTTPRequest,
        **options: Any,  # noqa: ANN401
    ) -> ASGIResponse:
        """Give it as ASGI."""
        answer = super().to_asgi_response(app, request, **options)
        if "content-type" in answer.headers:
            del answer.headers["content-type"]
        return answer


def version_etag(version_id: int) -> str:
    """Give the weak validator of a version (FHIR R4, http.html#versioning)."""
    return f'W/"{version_id}"'


def version_headers(version_id: int, last_updated: datetime) -> dict[str, str]:
    """Give ETag and Last-Modified."""
    modified = format_datetime(last_updated.astimezone(UTC), usegmt=True)
    return {"ETag": version_etag(version_id), "Last-Modified": modified}


def resource_url(caller: Caller, resource_type: str, resource_id: str) -> str:
    """Give the absolute URL of a resource."""
    return f"{caller.base}/{resource_type}/{resource_id}"


def require_content(stored: StoredVersion) -> bytes:
    """
    Give the content of a version.

    Raises:
        ResourceDeleted: The version is a deletion.
    """
    if stored.content is None:
        raise ResourceDeleted(
            "The resource was deleted; earlier versions are listed under its _history."
        )
    return stored.content


def require_found(stored: StoredVersion | None) -> StoredVersion:
    """
    Give a version back after making sure that there is one.

    Raises:
        ResourceNotFound: There is none.
    """
    if stored is None:
        raise ResourceNotFound("There is no such resource, or no such version of it.")
    return stored


def version_response(
    request: HTTPRequest, caller: Caller, stored: StoredVersion | None
) -> Response[Any]:
    """Give an answer that is one version, or 304 to those who have it."""
    version = require_found(stored)
    content = require_content(version)
    headers = version_headers(version.version_id, version.last_updated)
    if is_not_modified(request.headers.getall("if-none-match", []), headers["ETag"]):
        return Response(None, status_code=304, headers=headers)
    return resource_response(caller, content, headers=headers)


def resource_response(
    caller: Caller,
    content: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """Give an answer whose body is one resource."""
    return Response(
        content, status_code=status, media_type=caller.media_type, headers=dict(headers or {})
    )


def bundle_response(caller: Caller, bundle: BundleResource) -> Response[bytes]:
    """Give an answer whose body is a Bundle."""
    return resource_response(caller, msgspec.json.encode(bundle))
