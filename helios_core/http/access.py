"""What each route needs: the one table that the guard of the application reads."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from msgspec.structs import replace

from helios_core.errors import Forbidden, InvalidToken, MissingToken
from helios_core.storage.file_authorizer import FileAuthorizer
from helios_core.storage.request_principal import set_principal
from helios_core.storage.token_verifier import TokenVerifier

PLUGIN_PREFIX: Final = "/_plugins"
"""Where the routes of plugins are; each plugin says itself whether its routes are public."""


class Access(Enum):
    """What a route needs of who calls it."""

    PUBLIC = "public"
    """Nothing; an access token is not even looked at."""
    CLIENT = "client"
    """A valid token, whatever its scopes: what is described is the server."""
    INTERACTION = "interaction"
    """
    A valid token of a client that is not limited to groups: nobody can tell of a resource whether
    it is a group's, and who may change a Group decides what its export has. The scopes decide further, in
    `interactions.callers.authorize`, for each entry.
    """
    EXPORT = "export"
    """A valid token; its scopes decide what a new export contains."""
    JOB = "job"
    """A valid token of the client that owns the export, whose scopes cover what it exports."""


ROUTES: Final[Mapping[str, Access]] = {
    "/": Access.INTERACTION,
    "/metadata": Access.PUBLIC,
    "/.well-known/smart-configuration": Access.PUBLIC,
    "/openapi.json": Access.CLIENT,
    "/health": Access.PUBLIC,
    "/_liveness": Access.PUBLIC,
    "/_readiness": Access.PUBLIC,
    "/_history": Access.INTERACTION,
    "/Patient/{resource_id}/$everything": Access.INTERACTION,
    "/$export": Access.EXPORT,
    "/Patient/$export": Access.EXPORT,
    "/Group/{resource_id}/$export": Access.EXPORT,
    "/export-status": Access.JOB,
    "/export-status/{job_id}": Access.JOB,
    "/export-file/{job_id}/{name}": Access.JOB,
    **{
        f"{prefix}{suffix}": Access.INTERACTION
        for prefix in ("/{resource_type}", "/Patient", "/Group")
        for suffix in (
            "",
            "/_search",
            "/_history",
            "/{resource_id}",
            "/{resource_id}/_history",
            "/{resource_id}/_history/{version_id}",
            "/{resource_id}/{searched}",
            "/{resource_id}/{searched}/_search",
        )
    },
}
"""What each path template needs; a path that is not here is refused."""


def access_of(path_template: str, handler: BaseRouteHandler) -> Access | None:
    """Return what a route needs, or None if nobody has decided that: then nobody may call it."""
    if path_template.startswith(f"{PLUGIN_PREFIX}/"):
        return Access.PUBLIC if handler.opt.get("public") is True else Access.INTERACTION
    return ROUTES.get(path_template)


class AccessGuard:
    """A guard of Litestar, which no route can replace: it verifies the token of every request."""

    def __init__(self, verifier: TokenVerifier | None, authorizer: FileAuthorizer) -> None:
        self._verifier = verifier
        self._authorizer = authorizer

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """
        Keep the principal of a request in its scope, under `user`.

        Raises:
            InvalidToken: The route needs a token, and there is none or it is not valid.
            Forbidden: The client may export some groups only.
            BackendError: Nobody can tell now.
        """
        access = access_of(connection.scope["path_template"], handler)
        if access is None:
            raise RuntimeError("a route has no entry in the table of what routes need")
        set_principal(None)
        if self._verifier is None or access is Access.PUBLIC:
            return
        token = bearer_token(connection.headers.getall("authorization", []))
        verified = await self._verifier.verify(token)
        principal = replace(verified, groups=self._authorizer.groups(verified))
        connection.scope["user"] = principal
        set_principal(principal)
        if access is Access.INTERACTION and principal.groups is not None:
            raise Forbidden(
                "The client of the access token is limited to groups: it may export these, and "
                "has no other interaction."
            )


def bearer_token(values: list[str]) -> str:
    """
    Return the access token in the values of Authorization (RFC 6750, section 2.1).

    Raises:
        MissingToken: There is none; `Bearer` with nothing behind it has none.
        InvalidToken: The header is sent twice, or of another scheme.
    """
    if len(values) > 1:
        raise InvalidToken("Authorization is sent more than once; send it once.")
    scheme, _, token = "".join(values).strip().partition(" ")
    token = token.strip()
    if not scheme or (scheme.lower() == "bearer" and not token):
        raise MissingToken(
            "This needs an access token; send Authorization: Bearer with one. "
            ".well-known/smart-configuration has the address of the token endpoint."
        )
    if scheme.lower() != "bearer":
        raise InvalidToken("Authorization is of a scheme other than Bearer; send Bearer.")
    return token
