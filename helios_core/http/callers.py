"""Admission of requests: tenant, FHIR version, base URL and acceptable formats."""

from typing import Final

import structlog

from helios_core.config.settings import TenantRouting
from helios_core.errors import InvalidRequest
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.media_types import FHIR_JSON
from helios_core.http.addresses import PublicAddress
from helios_core.http.negotiation import parse_accept
from helios_core.http.rate_limits import address_group
from helios_core.http.requests import (
    READABLE,
    HTTPRequest,
    NotAcceptable,
    names_format,
    query_pairs,
)
from helios_core.http.tenants import Tenants
from helios_core.interactions.callers import Caller
from helios_core.model.principals import Principal

JSON_TYPES: Final = READABLE | {
    *("application/*", "*/*", "text/json", "application/json+fhir"),
    *("application/fhir+ndjson", "application/ndjson"),
}
"""
Media types in Accept to which JSON is an acceptable response.

Some clients send the output format of an export with all their requests.
"""


class Guard:
    """Admits requests, by the same rules for every route."""

    def __init__(
        self, address: PublicAddress, tenants: Tenants, *, default_version: FHIRVersion
    ) -> None:
        self._address = address
        self._tenants = tenants
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
            principal=self.principal(request),
        )

    def principal(self, request: HTTPRequest) -> Principal | None:
        """Return the principal of a request's access token, None if the server needs no tokens."""
        principal: Principal | None = request.scope.get("user")
        return principal

    def tenant(self, request: HTTPRequest) -> str:
        """
        Return the tenant of a request, and bind it to the request's log lines.

        Raises:
            RequestError: As `Tenants.tenant` does.
        """
        tenant = self._tenants.tenant(request)
        structlog.contextvars.bind_contextvars(tenant=tenant)
        return tenant

    def base(self, request: HTTPRequest) -> str:
        """
        Return the base URL for responses; it includes the tenant if the request's path does.

        Raises:
            InvalidRequest: As `PublicAddress.base` does.
        """
        return self._address.base(request) + self._tenants.prefix(request)

    def tenant_routing(self, request: HTTPRequest) -> TenantRouting | None:
        """Return how requests name their tenant, None if a request's base URL includes it."""
        return None if self._tenants.prefix(request) else self._tenants.routing

    def client(self, request: HTTPRequest) -> str:
        """Return the client to whom rate limits apply: that of the token, else the address."""
        principal = self.principal(request)
        return principal.owner if principal else address_group(self._address.client(request))

    def _check_accept(self, request: HTTPRequest) -> None:
        if names_format(query_pairs(request)):
            return
        accepted = parse_accept(request.headers.getall("accept", []))
        if accepted and not any(c.quality > 0 and c.name in JSON_TYPES for c in accepted):
            raise NotAcceptable(f"Accept does not allow JSON; this server only has {FHIR_JSON}.")

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
