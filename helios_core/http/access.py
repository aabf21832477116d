"""The access that each route requires, in one table, and the guard that checks it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import structlog
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from msgspec.structs import replace

from helios_core.errors import Forbidden, InvalidToken, MissingToken
from helios_core.storage.file_authorizer import FileAuthorizer
from helios_core.storage.request_principal import set_principal
from helios_core.storage.token_verifier import TokenVerifier

PLUGIN_PREFIX: Final = "/_plugins"
"""The path of the routes of plugins; each plugin decides whether its routes are public."""


class Access(Enum):
    """What a route requires of its caller."""

    PUBLIC = "public"
    """Nothing; an access token is ignored."""
    CLIENT = "client"
    """A valid token, whatever its scopes: the route only describes the server."""
    INTERACTION = "interaction"
    """
    A valid token of a client that is not limited to groups.

    It is not known which resources belong to a group, and whoever may change a Group decides what
    its export contains. `interactions.callers.authorize` checks the scopes of each interaction.
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
"""The access that each path template requires; a route without an entry refuses all requests."""


def access_of(path_template: str, handler: BaseRouteHandler) -> Access | None:
    """Return the access that a route requires, or None if it has no entry in the table."""
    if path_template.startswith(f"{PLUGIN_PREFIX}/"):
        return Access.PUBLIC if handler.opt.get("public") is True else Access.INTERACTION
    return ROUTES.get(path_template)


class AccessGuard:
    """A Litestar guard that verifies the token of every request; no route can replace it."""

    def __init__(self, verifier: TokenVerifier | None, authorizer: FileAuthorizer) -> None:
        self._verifier = verifier
        self._authorizer = authorizer

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
    ) -> None:
        """
        Keep the principal of a request in its scope, under `user`, and name it in log lines.

        Raises:
            InvalidToken: The route needs a token, and there is none or it is not valid.
            Forbidden: The client of the token is limited to exports of some groups.
            BackendError: The token, or the limit of its client, cannot be verified now.
        """
        access = access_of(connection.scope["path_template"], handler)
        if access is None:
            raise RuntimeError("a route has no entry in ROUTES, which states who may call it")
        set_principal(None)
        if self._verifier is None or access is Access.PUBLIC:
            return
        token = bearer_token(connection.headers.getall("authorization", []))
        verified = await self._verifier.verify(token)
        principal = replace(verified, groups=self._authorizer.groups(verified))
        connection.scope["user"] = principal
        set_principal(principal)
        structlog.contextvars.bind_contextvars(client=principal.owner)
        if access is Access.INTERACTION and principal.groups is not None:
            raise Forbidden(
                "The client of the access token is limited to groups: it may export them, and "
                "nothing else."
            )


def bearer_token(values: list[str]) -> str:
    """
    Return the access token in the values of Authorization (RFC 6750, section 2.1).

    Raises:
        MissingToken: There is no header, or no token after `Bearer`.
        InvalidToken: The header is sent twice, or is of another scheme.
    """
    if len(values) > 1:
        raise InvalidToken("Authorization is sent more than once; send it once.")
    scheme, _, token = "".join(values).strip().partition(" ")
    token = token.strip()
    if not scheme or (scheme.lower() == "bearer" and not token):
        raise MissingToken(
            "This request needs an access token; send it as Authorization: Bearer [token]. "
            ".well-known/smart-configuration has the address of the token endpoint."
        )
    if scheme.lower() != "bearer":
        raise InvalidToken("The scheme of Authorization is not Bearer; send Bearer.")
    return token
