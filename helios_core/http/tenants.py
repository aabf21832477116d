"""The tenant that a request is about: named by a header, by the path, or by an access token."""

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
from helios_core.http.requests import HTTPRequest
from helios_core.model.principals import Principal

TENANT: Final = re.compile(TENANT_PATTERN)
ORIGIN_PATHS: Final = frozenset(
    {"/health", "/_liveness", "/_readiness", "/openapi.json", "/.well-known/smart-configuration"}
)
"""Paths that are about the server, and have no tenant in front even if all others do."""
PLUGIN_PREFIX: Final = "/_plugins/"
_KEY: Final = "url_tenant"


class Tenants:
    """Decides which tenant a request is about; an id is never guessed, folded or corrected."""

    def __init__(self, *, default: str, routing: TenantRouting, strict: bool) -> None:
        self.routing = routing
        """How requests name their tenant."""
        self._default = default
        self._strict = strict

    def tenant(self, request: HTTPRequest) -> str:
        """
        Return the tenant of a request.

        A token that names a tenant decides. One that names none is good for the default tenant
        only, so that nobody reaches another's data by naming it.

        Raises:
            InvalidRequest: X-Tenant-ID is malformed or sent twice, the path and the header name
                different tenants, or the path has to name one and does not.
            Forbidden: The token is not for the tenant that the request names.
        """
        named = self._named(request)
        principal: Principal | None = request.scope.get("user")
        if principal is None:
            return named or self._default
        if principal.tenant is None:
            if named not in (None, self._default):
                raise Forbidden(
                    "The access token names no tenant, so it is good for the default tenant only."
                )
            return self._default
        if not TENANT.fullmatch(principal.tenant):
            raise Forbidden("The access token names a tenant that is not a tenant id.")
        if self._strict and named not in (None, principal.tenant):
            raise Forbidden("The access token is for another tenant than the request names.")
        return principal.tenant

    def prefix(self, request: HTTPRequest) -> str:
        """Return what the path of a request had in front of the route: `/tenant`, or nothing."""
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
    An ASGI application that takes the tenant off the front of paths.

    The first segment is a tenant unless a route of the server begins with it; so a tenant with the
    name of a resource type or of a route can be named by the header only.
    """

    def __init__(self, app: ASGIApp, routes: Litestar) -> None:
        self.app = app
        self._reserved = _reserved_segments(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with the path behind its tenant."""
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
    return scope["path"] in ORIGIN_PATHS or scope["path"].startswith(PLUGIN_PREFIX)


def _url_tenant(scope: Scope) -> str | None:
    return _state(scope).get(_KEY)


def _state(scope: Scope) -> dict[str, Any]:
    return scope.setdefault("state", {})
