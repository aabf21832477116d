"""The tenant of a request: named by a header, by the path, or by an access token."""

import re
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import unquote

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from helios_core.config.settings import TENANT_PATTERN, TenantRouting
from helios_core.errors import Forbidden, InvalidRequest
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.http.access import PLUGIN_PREFIX
from helios_core.http.requests import HTTPRequest
from helios_core.model.principals import Principal

TENANT: Final = re.compile(TENANT_PATTERN)
ORIGIN_PATHS: Final = frozenset(
    {"/health", "/_liveness", "/_readiness", "/openapi.json", "/.well-known/smart-configuration"}
)
"""Paths about the server itself, which have no tenant in front even if all others do."""
_KEY: Final = "url_tenant"


class Tenants:
    """Determines the tenant of a request; an id is never guessed, case-folded or corrected."""

    def __init__(self, *, default: str, routing: TenantRouting, strict: bool) -> None:
        self.routing = routing
        """How requests name their tenant."""
        self._default = default
        self._strict = strict

    def tenant(self, request: HTTPRequest) -> str:
        """
        Return the tenant of a request.

        The tenant of the access token takes precedence. A token without a tenant is valid for the
        default tenant only, so that nobody can access a tenant just by naming it.

        Raises:
            InvalidRequest: X-Tenant-ID is malformed or sent twice, the path and the header name
                different tenants, or the path has to name one and does not.
            Forbidden: The token is not valid for the tenant that the request names.
        """
        named = self._named(request)
        principal: Principal | None = request.scope.get("user")
        if principal is None:
            return named or self._default
        if principal.tenant is None:
            if named not in (None, self._default):
                raise Forbidden(
                    "The access token names no tenant, so it is valid for the default tenant only."
                )
            return self._default
        if not TENANT.fullmatch(principal.tenant):
            raise Forbidden("The access token names a tenant that is not a tenant id.")
        if self._strict and named not in (None, principal.tenant):
            raise Forbidden("The access token is for a tenant other than the request names.")
        return principal.tenant

    def prefix(self, request: HTTPRequest) -> str:
        """Return the part of a request's path before that of the route: `/tenant`, or nothing."""
        tenant = _url_tenant(request.scope)
        return f"/{tenant}" if tenant else ""

    def _named(self, request: HTTPRequest) -> str | None:
        headers = request.headers.getall("x-tenant-id", [])
        if len(headers) > 1 or not all(map(TENANT.fullmatch, headers)):
            raise InvalidRequest(
                "X-Tenant-ID is not one tenant id: 1 to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit and without '..'."
            )
        in_url = _url_tenant(request.scope)
        if self.routing is TenantRouting.URL and in_url is None and not _is_origin(request.scope):
            raise InvalidRequest(
                "The path does not begin with a tenant; on this server every path does, for "
                "example /clinic/metadata."
            )
        if in_url is not None and headers and headers[0] != in_url:
            raise InvalidRequest("The path and X-Tenant-ID name different tenants; name one.")
        return in_url or next(iter(headers), None)


class TenantPaths:
    """
    An ASGI application that removes the tenant from the front of paths.

    The first segment is a tenant unless a route of the server begins with it. A tenant with the
    name of a resource type or of a route can therefore only be named by the header.
    """

    def __init__(self, app: ASGIApp, routes: Litestar) -> None:
        self.app = app
        self._reserved = _reserved_segments(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its path after the tenant."""
        if scope["type"] == ScopeType.HTTP:
            self._split(scope)
        await self.app(scope, receive, send)

    def _split(self, scope: Scope) -> None:
        raw = scope["raw_path"]
        first, slash, rest = raw.removeprefix(b"/").partition(b"/")
        segment = unquote(first.decode("latin-1"))
        if _is_origin(scope) or segment in self._reserved or not TENANT.fullmatch(segment):
            return
        _state(scope)[_KEY] = segment
        scope["raw_path"] = slash + rest or b"/"
        scope["path"] = "/" + scope["path"].removeprefix("/").partition("/")[2]


def _reserved_segments(app: Litestar) -> Collection[str]:
    types = (load_definitions(version).root_elements for version in FHIRVersion)
    literal = {route.path.split("/")[1] for route in app.routes}
    return frozenset(literal).union(*types)


def _is_origin(scope: Scope) -> bool:
    return scope["path"] in ORIGIN_PATHS or scope["path"].startswith(f"{PLUGIN_PREFIX}/")


def _url_tenant(scope: Scope) -> str | None:
    return _state(scope).get(_KEY)


def _state(scope: Scope) -> dict[str, Any]:
    return scope.setdefault("state", {})
