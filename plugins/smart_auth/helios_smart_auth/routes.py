"""The routes: token endpoint, key set, and an authorization endpoint that always refuses."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from litestar import Request, Response, post, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler

from helios_core import Backends, Caller
from helios_smart_auth.access_tokens import Issuer
from helios_smart_auth.assertions import Assertions
from helios_smart_auth.clients import Clients, records_of
from helios_smart_auth.discovery import AUTHORIZE_PATH, JWKS_PATH, TOKEN_PATH, address, issuer_of
from helios_smart_auth.key_sets import open_key_sets
from helios_smart_auth.settings import SmartAuthSettings
from helios_smart_auth.signing_keys import SigningKeys
from helios_smart_auth.token_endpoint import MAX_BYTES, TokenEndpoint, TokenRequest

READ: Final = (HttpMethod.GET, HttpMethod.HEAD)
NOT_KEPT: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
KEYS_KEPT: Final = {"Cache-Control": "public, max-age=60"}


@asynccontextmanager
async def open_routes(
    settings: SmartAuthSettings, backends: Backends
) -> AsyncIterator[Sequence[HTTPRouteHandler]]:
    """
    Yield the route handlers.

    Raises:
        ConfigurationError: The job store keeps no records.
    """
    records = records_of(backends.job_store)
    keys = SigningKeys(records)
    async with open_key_sets(settings) as key_sets:
        assertions = Assertions(
            Clients(records), key_sets, records, clock_skew=settings.clock_skew
        )
        endpoint = TokenEndpoint(assertions, Issuer(keys, valid_for=settings.token_ttl))

        @post(TOKEN_PATH, status_code=200)
        async def token(
            request: Request[Any, Any, Any], caller: NamedDependency[Caller]
        ) -> Response[bytes]:
            status, body = await endpoint.respond(
                await _read(request),
                issuer=issuer_of(caller.base, settings.base_url),
                token_url=address(caller.base, TOKEN_PATH),
            )
            return _json(body, status, NOT_KEPT)

        @route(JWKS_PATH, http_method=READ, status_code=200)
        async def jwks() -> Response[bytes]:
            return _json({"keys": (await keys.ring()).public}, 200, KEYS_KEPT)

        @route(AUTHORIZE_PATH, http_method=READ, status_code=400)
        async def authorize() -> Response[bytes]:
            error = "this server authorizes no users; backend services use the token endpoint"
            body = {"error": "unauthorized_client", "error_description": error}
            return _json(body, 400, NOT_KEPT)

        yield [token, jwks, *([authorize] if settings.stu2_discovery else [])]


async def _read(request: Request[Any, Any, Any]) -> TokenRequest:
    """Return a request; reading stops once the body is too long, and it is then refused."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            break
    return TokenRequest(
        content_type=request.headers.get("content-type", ""),
        authorization=request.headers.get("authorization", ""),
        body=bytes(body),
    )


def _json(body: object, status: int, headers: dict[str, str]) -> Response[bytes]:
    content = msgspec.json.encode(body)
    return Response(content, status_code=status, media_type="application/json", headers=headers)
