"""Who is asking, in which FHIR version, and whether the request may come in at all."""

import re
from collections.abc import Collection
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from helios_core.errors import (
    BodyTooLarge,
    InvalidRequest,
    ResourceNotFound,
    UnsupportedParameter,
)
from helios_core.fhir.versions import FHIRVersion, table
from helios_core.http.negotiation import Choice, choices
from helios_core.http.outcomes import FHIR_JSON
from helios_core.kickoff.parameters import PRESENTATION, Handling, preferences
from helios_core.settings import TENANT_PATTERN

Incoming: TypeAlias = Request[Any, Any, Any]

READ: Final = (HttpMethod.GET, HttpMethod.HEAD)
"""The methods of a door that only shows something."""
TENANT: Final = re.compile(TENANT_PATTERN)
HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
READABLE: Final = frozenset({"application/fhir+json", "application/json"})
"""The media types of the bodies that are read."""
JSON_TYPES: Final = READABLE | {
    *("application/*", "*/*", "text/json", "application/json+fhir"),
    *("application/fhir+ndjson", "application/ndjson"),
}
"""What Accept may say; clients that ask for their output format everywhere mean no harm."""
FORMATS: Final = frozenset({"json", "text/json", *READABLE})
"""Values of `_format` that ask for what is sent anyway."""


FORM: Final = "application/x-www-form-urlencoded"
MOST_PARAMETERS: Final = 1000


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted request: on whose behalf, about which version, and through which address."""

    tenant: str
    fhir_version: FHIRVersion
    base: str
    """The public base URL, without a final slash."""
    media_type: str = FHIR_JSON
    """What answers are labelled with; it repeats a version the client asked for."""


class NotAcceptable(HTTPException):
    """The client wants no form of answer that exists."""

    status_code = 406


class UnsupportedMediaType(HTTPException):
    """The body is in a form that is not read."""

    status_code = 415


class Guard:
    """Admits requests, one set of rules for every door."""

    def __init__(
        self, *, base_url: str | None, default_tenant: str, default_version: FHIRVersion
    ) -> None:
        self._base_url = base_url
        self._default_tenant = default_tenant
        self._default_version = default_version

    def admit(self, request: Incoming, *, in_any_form: bool = False) -> Caller:
        """
        Give the caller of a request whose answer is JSON, or may be anything at all.

        Raises:
            InvalidRequest: The tenant, the host or the FHIR version is malformed.
            NotAcceptable: The client accepts no JSON.
        """
        if not in_any_form or "_format" in dict(query_of(request)):
            self._check_accept(request)
        named = self._named_version(request)
        return Caller(
            tenant=self.tenant(request),
            fhir_version=named or self._default_version,
            base=self.base(request),
            media_type=f"{FHIR_JSON}; fhirVersion={named.release}" if named else FHIR_JSON,
        )

    def tenant(self, request: Incoming) -> str:
        """
        Give the tenant a request is about.

        Raises:
            InvalidRequest: X-Tenant-ID is malformed or sent twice.
        """
        values = request.headers.getall("x-tenant-id", [self._default_tenant])
        if len(values) != 1 or not TENANT.fullmatch(values[0]):
            raise InvalidRequest(
                "X-Tenant-ID is not one tenant id: 1 to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit and without '..'."
            )
        return values[0]

    def base(self, request: Incoming) -> str:
        """
        Give the public base URL: the configured one, else the one the client used.

        Raises:
            InvalidRequest: The Host header is missing or malformed.
        """
        if self._base_url is not None:
            return self._base_url
        host = request.headers.get("host", "")
        if not HOST.fullmatch(host):
            raise InvalidRequest("The Host header is missing or is not a host with a port.")
        return f"{request.scope['scheme']}://{host}"

    def _check_accept(self, request: Incoming) -> None:
        wanted = dict(query_of(request)).get("_format")
        if wanted is not None:
            if wanted.partition(";")[0].strip().replace(" ", "+") not in FORMATS:
                raise NotAcceptable("_format asks for a format that is not served; ask for json.")
            return
        accepted = choices(request.headers.getall("accept", []))
        if accepted and not any(c.quality > 0 and c.name in JSON_TYPES for c in accepted):
            raise NotAcceptable(f"Accept leaves out JSON; this server answers in {FHIR_JSON}.")

    def _named_version(self, request: Incoming) -> FHIRVersion | None:
        headers = (
            choices(request.headers.getall(name, [])) for name in ("accept", "content-type")
        )
        named = [
            [c.parameters["fhirversion"] for c in header if "fhirversion" in c.parameters]
            for header in headers
        ]
        versions = [
            FHIRVersion.from_media_type_parameter(first) for first, *_ in filter(None, named)
        ]
        if len(set(versions)) > 1:
            raise InvalidRequest(
                "Accept and Content-Type name different FHIR versions; nothing is converted here, "
                "so name one."
            )
        return versions[0] if versions else None


def query_of(request: Incoming) -> list[tuple[str, str]]:
    """
    Give the decoded pairs of the query string, in order, repeats and empty values kept.

    Raises:
        InvalidRequest: The query does not decode to UTF-8.
    """
    return _pairs(request.scope["query_string"], "The query string")


def _pairs(encoded: bytes, what: str) -> list[tuple[str, str]]:
    return pairs_of(encoded.decode("latin-1"), what)


def pairs_of(text: str, what: str) -> list[tuple[str, str]]:
    """
    Give the decoded pairs of a text encoded as in a query string.

    Raises:
        InvalidRequest: It does not decode to UTF-8, or there are too many.
    """
    try:
        text.encode("ascii")
        return parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError as error:
        raise InvalidRequest(
            f"{what} is not percent-encoded UTF-8 with at most {MOST_PARAMETERS} parameters."
        ) from error


def url_of(request: Incoming, base: str) -> str:
    """Give the absolute URL of a request, its path and query exactly as they were sent."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    return f"{base}{path}?{query}" if query else f"{base}{path}"


async def body_of(request: Incoming) -> bytes:
    """
    Give the body of a request that carries JSON.

    Raises:
        UnsupportedMediaType: It says to carry something else, or is compressed.
        BodyTooLarge: It is over the limit; the rest is not read.
    """
    _check_content_type(request, READABLE, default=FHIR_JSON)
    return await _whole_body(request)


async def form_of(request: Incoming) -> list[tuple[str, str]]:
    """
    Give the decoded pairs of a body that is a form, in order, repeats and empty values kept.

    Raises:
        InvalidRequest: The form does not decode to UTF-8.
        UnsupportedMediaType: It says to carry something else, or is compressed.
        BodyTooLarge: It is over the limit; the rest is not read.
    """
    _check_content_type(request, (FORM,), default=FORM)
    return _pairs(await _whole_body(request), "The form in the body")


async def _whole_body(request: Incoming) -> bytes:
    try:
        return await request.body()
    except RequestEntityTooLarge as error:
        limit = request.route_handler.resolve_request_max_body_size()
        raise BodyTooLarge(
            f"The body is larger than the {limit} bytes this server accepts; send less at a time, "
            "or have HFS_MAX_BODY_BYTES raised."
        ) from error


def _check_content_type(request: Incoming, readable: Collection[str], *, default: str) -> None:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed bodies are not read; send the body as it is.")
    media = choices(request.headers.getall("content-type", [default]))
    if len(media) != 1 or media[0].name not in readable or _charset(media[0]) != "utf-8":
        raise UnsupportedMediaType(
            "The Content-Type is not one that is read at this address; send "
            f"{' or '.join(sorted(readable))}, in UTF-8."
        )


def _charset(media: Choice) -> str:
    return media.parameters.get("charset", "utf-8").lower().replace("utf8", "utf-8")


def type_of(request: Incoming, caller: Caller) -> str:
    """
    Give the resource type a path begins with.

    Raises:
        ResourceNotFound: The caller's FHIR version has no such type.
    """
    return checked_type(request.scope["path"].split("/")[1], caller.fhir_version)


def checked_type(resource_type: str, version: FHIRVersion) -> str:
    """
    Give a type back after making sure that a FHIR version has it.

    Raises:
        ResourceNotFound: It has not.
    """
    if resource_type not in table(version).root_elements:
        raise ResourceNotFound(f"{resource_type[:64]!r} is not a resource type of FHIR {version}.")
    return resource_type


def parameters_of(request: Incoming, known: Collection[str] = ()) -> list[tuple[str, str]]:
    """
    Give the parameters that mean something; `Prefer: handling=lenient` drops all others.

    Raises:
        UnsupportedParameter: There are others, and the client did not say to ignore them.
    """
    pairs = [pair for pair in query_of(request) if pair[0] not in PRESENTATION]
    unknown = {name for name, _ in pairs if name not in known}
    lenient = preferences(request.headers.getall("prefer", [])).handling is Handling.LENIENT
    if unknown and not lenient:
        names = ", ".join(repr(name[:64]) for name in sorted(unknown))
        served = f"; served here: {', '.join(sorted(known))}" if known else ""
        raise UnsupportedParameter(f"Not served at this address: {names}{served}.")
    return [pair for pair in pairs if pair[0] not in unknown]
