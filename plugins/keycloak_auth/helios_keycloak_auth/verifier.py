"""The verifier of the tokens of one OpenID Connect issuer."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from time import monotonic, time
from typing import Any

from helios_core import InvalidToken, Principal, TokenVerifier
from helios_keycloak_auth.discovery import (
    check_issuer,
    discovery_url,
    endpoint,
    smart_members,
)
from helios_keycloak_auth.introspection import Introspection
from helios_keycloak_auth.keys import IssuerKeys, Key, read_keys
from helios_keycloak_auth.renewal import Renewal, Renewed
from helios_keycloak_auth.requests import IssuerRequests, issuer_requests
from helios_keycloak_auth.settings import KeycloakAuthSettings
from helios_keycloak_auth.tokens import TokenClaims, TokenHeader, read_header


class IssuerVerifier(TokenVerifier):
    """Verifies signed JWTs with the keys that their issuer publishes."""

    def __init__(
        self,
        settings: KeycloakAuthSettings,
        requests: IssuerRequests,
        *,
        clock: Callable[[], float] = monotonic,
        wall_clock: Callable[[], float] = time,
    ) -> None:
        self._settings = settings
        self._requests = requests
        self._wall_clock = wall_clock
        self._algorithms = frozenset(settings.algorithms)
        renewal = Renewal(
            min_interval=settings.jwks_min_refresh_interval,
            max_stale=settings.jwks_max_stale,
            clock=clock,
        )
        self._discovery = Renewed("discovery document", self._read_discovery, renewal)
        self._keys = Renewed("keys", self._read_keys, renewal)
        self._known_keys: IssuerKeys | None = None
        self._claims = TokenClaims(
            issuer=settings.issuer,
            audience=settings.audience,
            tenant_claim=settings.tenant_claim,
            clock=wall_clock,
        )
        self._introspection = (
            Introspection(self._introspect, ttl=settings.introspection_ttl, clock=clock)
            if settings.introspection_client_id is not None
            else None
        )

    async def verify(self, token: str) -> Principal:
        """
        Return the principal of an access token.

        Raises:
            InvalidToken: It is not a valid access token of this issuer for this server.
            BackendUnavailable: The issuer cannot be reached for its keys or for introspection.
        """
        header = read_header(token, self._algorithms)
        keys, key = await self._find(header)
        digest = sha256(token.encode()).digest()
        principal = keys.recall(digest)
        if principal is None:
            principal = self._claims.verify(token, header, key)
            keys.remember(digest, principal)
        if principal.expires_at.timestamp() <= self._wall_clock():
            raise InvalidToken("The access token has expired; request another one.")
        if self._introspection is not None:
            await self._introspection.check(token, digest)
        return principal

    async def smart_configuration(self, base: str) -> Mapping[str, Any]:  # noqa: ARG002
        """
        Return the members that describe the issuer; `base` is not needed.

        Raises:
            BackendUnavailable: The issuer's discovery document is needed and cannot be read.
        """
        configured = self._settings.smart_token_endpoint is not None
        return smart_members(
            self._settings, None if configured else await self._discovery.current()
        )

    async def close(self) -> None:
        """Cancel the open requests to the issuer."""
        if self._introspection is not None:
            await self._introspection.close()
        await self._keys.close()
        await self._discovery.close()

    async def _find(self, header: TokenHeader) -> tuple[IssuerKeys, Key]:
        keys = await self._keys.current()
        if not keys.has(header.kid):
            keys = await self._keys.forced()
        key = keys.find(header.kid, header.algorithm)
        if key is not None:
            return keys, key
        if keys.has(header.kid):
            raise InvalidToken(
                "The access token is signed with a key that is not for its algorithm."
            )
        raise InvalidToken(
            "The access token is signed with a key that the issuer does not publish, or has just "
            "published; in that case, repeat the request."
        )

    async def _read_discovery(self) -> tuple[Mapping[str, Any], timedelta]:
        document, lifetime = await self._requests.read(discovery_url(self._settings.issuer))
        check_issuer(document, self._settings.issuer)
        return document, lifetime

    async def _read_keys(self) -> tuple[IssuerKeys, timedelta]:
        url = self._settings.jwks_url or endpoint(await self._discovery.current(), "jwks_uri")
        document, lifetime = await self._requests.read(url)
        self._known_keys = read_keys(document, self._algorithms, self._known_keys)
        return self._known_keys, lifetime

    async def _introspect(self, token: str) -> dict[str, Any]:
        client, secret = (
            self._settings.introspection_client_id,
            self._settings.introspection_client_secret,
        )
        assert client is not None  # noqa: S101  settings require it for introspection
        assert secret is not None  # noqa: S101
        url = self._settings.introspection_url or endpoint(
            await self._discovery.current(), "introspection_endpoint"
        )
        form = {"token": token, "token_type_hint": "access_token"}
        return await self._requests.post(url, form, (client, secret.reveal()))


@asynccontextmanager
async def open_verifier(settings: KeycloakAuthSettings) -> AsyncIterator[IssuerVerifier]:
    """Open the verifier, which reads the issuer's keys when the first token arrives."""
    async with issuer_requests(
        settings.request_timeout, allow_http=settings.allow_http
    ) as requests:
        verifier = IssuerVerifier(settings, requests)
        try:
            yield verifier
        finally:
            await verifier.close()
