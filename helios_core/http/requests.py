"""Read a request: its query, its body, and the resource type in its path."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import BaseRouteHandler

from helios_core.errors import BodyTooLarge, ResourceNotFound, UnsupportedParameter
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.fhir.preferences import (
    Handling,
    ReturnPreference,
    has_no_effect,
    parse_preferences,
)
from helios_core.http.negotiation import AcceptItem, parse_accept
from helios_core.interactions.callers import Caller, require_type
from helios_core.interactions.parameters import parse_pairs
from helios_core.interactions.patches import JSON_PATCH, Patch, parse_patch
from helios_core.storage.threads import compute

HTTPRequest: TypeAlias = Request[Any, Any, Any]

READ: Final = (HttpMethod.GET, HttpMethod.HEAD)
"""The methods of a route that only reads."""
READABLE: Final = frozenset({"application/fhir+json", "application/json"})
"""The media types of JSON bodies."""
FORMATS: Final = frozenset({"json", "text/json", "application/json+fhir", *READABLE})
"""Values of `_format` that mean JSON."""
FORM: Final = "application/x-www-form-urlencoded"

MAX_HEADER_BYTES: Final = 32 * 1024
"""Names and values of all headers of a request; proxies usually allow 8 to 64 KiB."""


MAX_VALUES: Final = 500_000
"""Maximum of objects, arrays and members in a JSON body; 16 MB of real resources have fewer."""


class UnsupportedMediaType(HTTPException):
    """The body has an unsupported media type or encoding."""

    status_code = 415


class NotAcceptable(HTTPException):
    """The client accepts no format that the response exists in."""

    status_code = 406


class RequestIncomplete(HTTPException):
    """The client disconnected before its body was complete, so it does not read the response."""

    status_code = 400


class HeadersTooLarge(HTTPException):
    """The headers together are larger than MAX_HEADER_BYTES (RFC 6585 section 5)."""

    status_code = 431


async def require_small_headers(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    """
    Raise HeadersTooLarge if the headers are so large that parsing them would take long.

    The limit of the HTTP server is larger. Parsing takes up to a second per megabyte, and blocks
    the process. This is a Litestar guard; no route can replace it.
    """
    headers = connection.scope["headers"]
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes together.")


async def require_path_of_text(
    connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
) -> None:
    """
    Raise ResourceNotFound if the path has a NUL character, which no id and no store can have.

    This is a Litestar guard; no route can replace it.
    """
    if "\0" in connection.scope["path"]:
        raise ResourceNotFound("There is nothing at this address: it has a NUL character.")


def query_pairs(request: HTTPRequest) -> list[tuple[str, str]]:
    """
    Return the decoded pairs of the query string, in order, repeats and empty values kept.

    Raises:
        InvalidRequest: The query does not decode to UTF-8, or has too many parameters.
    """
    return _pairs(request.scope["query_string"], "The query string")


def _pairs(encoded: bytes, what: str) -> list[tuple[str, str]]:
    return parse_pairs(encoded.decode("latin-1"), what)


def request_url(request: HTTPRequest, base: str) -> str:
    """Return the absolute URL of a request, its path and query exactly as they were sent."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    return f"{base}{path}?{query}" if query else f"{base}{path}"


def check_value_count(body: bytes) -> None:
    """
    Refuse JSON with so many values that decoding it would take too much memory and time.

    Sixteen megabytes of `[],{}` are half a gigabyte of objects. Commas and brackets inside of
    strings count as well.

    Raises:
        BodyTooLarge: There are more than MAX_VALUES.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise BodyTooLarge(f"The body has more than {MAX_VALUES} values; send fewer at a time.")


async def json_body(request: HTTPRequest) -> bytes:
    """
    Return the body of a request that contains JSON.

    Raises:
        UnsupportedMediaType: Its Content-Type is another one, or it is compressed.
        BodyTooLarge: It is over the limit, or has too many values.
    """
    _check_content_type(request, READABLE, default=FHIR_JSON)
    body = await _body(request)
    check_value_count(body)
    return body


@asynccontextmanager
async def watch_connection(request: HTTPRequest, closed: asyncio.Event) -> AsyncIterator[None]:
    """Set an event as soon as the client disconnects; the body must have been read before."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        closed.set()

    waiting = asyncio.create_task(wait())
    try:
        yield
    finally:
        waiting.cancel()


async def patch_body(request: HTTPRequest) -> Patch:
    """
    Return the patch that is the body of a PATCH.

    Raises:
        UnsupportedMediaType: It is neither a JSON Patch nor a FHIR resource, or it is compressed.
        BodyTooLarge: It is over the limit, or has too many values.
        InvalidResource: It is not a valid patch.
    """
    media = _check_content_type(request, (JSON_PATCH, FHIR_JSON), default=FHIR_JSON)
    body = await _body(request)
    check_value_count(body)
    return await compute(len(body), parse_patch, body, media.name)


async def form_pairs(request: HTTPRequest) -> list[tuple[str, str]]:
    """
    Return the decoded pairs of a body that is a form, in order, repeats and empty values kept.

    Raises:
        InvalidRequest: The form does not decode to UTF-8, or has too many parameters.
        UnsupportedMediaType: Its Content-Type is another one, or it is compressed.
        BodyTooLarge: It is over the limit; the rest is not read.
        NotAcceptable: Its `_format` is not JSON.
    """
    _check_content_type(request, (FORM,), default=FORM)
    pairs = _pairs(await _body(request), "The form in the body")
    names_format(pairs)
    return pairs


def names_format(pairs: Sequence[tuple[str, str]]) -> bool:
    """
    Return whether the parameters have a `_format`, which must name JSON.

    Raises:
        NotAcceptable: It names another format.
    """
    format_ = dict(pairs).get("_format")
    if format_ is None:
        return False
    if format_.partition(";")[0].strip().replace(" ", "+") not in FORMATS:
        raise NotAcceptable("_format names an unsupported format; request json.")
    return True


async def _body(request: HTTPRequest) -> bytes:
    try:
        return await request.body()
    except InternalServerException as error:  # Litestar's, when the client disconnects
        raise RequestIncomplete("The client disconnected before the body was complete.") from error
    except RequestEntityTooLarge as error:
        limit = request.route_handler.resolve_request_max_body_size()
        raise BodyTooLarge(
            f"The body exceeds the {limit} bytes that this server accepts; send less at a time, "
            "or ask the operator to raise HFS_MAX_BODY_BYTES."
        ) from error


def _check_content_type(
    request: HTTPRequest, readable: Collection[str], *, default: str
) -> AcceptItem:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed bodies are not supported; send it uncompressed.")
    sent = request.headers.getall("content-type", [])
    if not sent and "origin" in request.headers:
        # Browsers send a body without a type for pages of any origin, without asking first.
        raise UnsupportedMediaType("A web page has to send a Content-Type with a body.")
    media = parse_accept(sent or [default])
    if len(media) != 1 or media[0].name not in readable or _charset(media[0]) != "utf-8":
        raise UnsupportedMediaType(
            "The Content-Type is not supported at this address; send "
            f"{' or '.join(sorted(readable))}, in UTF-8."
        )
    return media[0]


def _charset(media: AcceptItem) -> str:
    return media.parameters.get("charset", "utf-8").lower().replace("utf8", "utf-8")


def preferred_return(request: HTTPRequest) -> ReturnPreference | None:
    """Return what the response to a change should contain, as the client prefers."""
    return parse_preferences(request.headers.getall("prefer", [])).returned


def path_type(request: HTTPRequest, caller: Caller) -> str:
    """
    Return the resource type that a path begins with.

    Raises:
        ResourceNotFound: The caller's FHIR version has no such type.
    """
    return require_type(request.scope["path"].split("/")[1], caller.fhir_version)


def query_parameters(request: HTTPRequest, known: Collection[str] = ()) -> list[tuple[str, str]]:
    """
    Return the known parameters; `Prefer: handling=lenient` makes the server ignore all others.

    Names that begin with an underscore and are not FHIR's are always ignored. Clients send them to
    bypass caches, for example.

    Raises:
        UnsupportedParameter: There are others, and the client does not prefer lenient handling.
    """
    pairs = [
        pair for pair in query_pairs(request) if pair[0] in known or not has_no_effect(pair[0])
    ]
    unknown = {name for name, _ in pairs if name not in known}
    lenient = parse_preferences(request.headers.getall("prefer", [])).handling is Handling.LENIENT
    if unknown and not lenient:
        names = ", ".join(repr(name[:64]) for name in sorted(unknown))
        supported = f"; supported: {', '.join(sorted(known))}" if known else ""
        raise UnsupportedParameter(f"Not supported at this address: {names}{supported}.")
    return [pair for pair in pairs if pair[0] not in unknown]
