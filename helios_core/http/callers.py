"""Admission of requests: tenant, FHIR version, base URL and acceptable formats."""

import re
from typing import Final

import structlog
from litestar.exceptions import HTTPException

from helios_core.config.settings import TENANT_PATTERN
from helios_core.errors import InvalidRequest
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.http.negotiation import parse_accept
from helios_core.http.requests import READABLE, HTTPRequest, query_pairs
from helios_core.interactions.callers import Caller

TENANT: Final = re.compile(TENANT_PATTERN)
HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
JSON_TYPES: Final = READABLE | {
    *("application/*", "*/*", "text/json", "application/json+fhir"),
    *("application/fhir+ndjson", "application/ndjson"),
}
"""Media types of Accept that JSON satisfies; some clients send their output format everywhere."""
FORMATS: Final = frozenset({"json", "text/json", *READABLE})
"""Values of `_format` that mean JSON."""


class NotAcceptable(HTTPException):
    """The client accepts no format that the response exists in."""

    status_code = 406


class Guard:
    """Admits requests, by the same rules for every route."""

    def __init__(
        self, *, base_url: str | None, default_tenant: str, default_version: FHIRVersion
    ) -> None:
        self._base_url = base_url
        self._default_tenant = default_tenant
        self._default_version = default_version

    def admit(self, request: HTTPRequest, *, in_any_form: bool = False) -> Caller:
        """
        Return the caller of a request; unless `in_any_form`, the response will be JSON.

        Raises:
            InvalidRequest: The tenant, the host or the FHIR version is malformed.
            NotAcceptable: The client accepts no JSON.
        """
        if not in_any_form or "_format" in dict(query_pairs(request)):
            self._check_accept(request)
        named = self._named_version(request)
        return Caller(
            tenant=self.tenant(request),
            fhir_version=named or self._default_version,
            base=self.base(request),
            media_type=f"{FHIR_JSON}; fhirVersion={named.release}" if named else FHIR_JSON,
        )

    def tenant(self, request: HTTPRequest) -> str:
        """
        Return the tenant that a request is about, and bind it to the log lines of the request.

        Raises:
            InvalidRequest: X-Tenant-ID is malformed or sent twice.
        """
        values = request.headers.getall("x-tenant-id", [self._default_tenant])
        if len(values) != 1 or not TENANT.fullmatch(values[0]):
            raise InvalidRequest(
                "X-Tenant-ID is not one tenant id: 1 to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit and without '..'."
            )
        structlog.contextvars.bind_contextvars(tenant=values[0])
        return values[0]

    def base(self, request: HTTPRequest) -> str:
        """
        Return the public base URL: the configured one, else the one that the client used.

        Raises:
            InvalidRequest: The Host header is missing, malformed or sent twice.
        """
        hosts = request.headers.getall("host", [])
        if self._base_url is not None and len(hosts) <= 1:
            return self._base_url
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
            raise InvalidRequest("There is not one Host header with a host and perhaps a port.")
        return f"{request.scope['scheme']}://{hosts[0]}"

    def _check_accept(self, request: HTTPRequest) -> None:
        format_ = dict(query_pairs(request)).get("_format")
        if format_ is not None:
            if format_.partition(";")[0].strip().replace(" ", "+") not in FORMATS:
                raise NotAcceptable("_format names an unsupported format; request json.")
            return
        accepted = parse_accept(request.headers.getall("accept", []))
        if accepted and not any(c.quality > 0 and c.name in JSON_TYPES for c in accepted):
            raise NotAcceptable(f"Accept leaves out JSON; this server responds with {FHIR_JSON}.")

    def _named_version(self, request: HTTPRequest) -> FHIRVersion | None:
        headers = (
            parse_accept(request.headers.getall(name, [])) for name in ("accept", "content-type")
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
                "Accept and Content-Type name different FHIR versions; this server does not "
                "convert resources, so name one version."
            )
        return versions[0] if versions else None
