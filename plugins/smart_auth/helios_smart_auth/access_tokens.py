"""Access tokens: issued to clients, and verified when they come back (RFC 9068)."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import msgspec

from helios_core import InvalidToken, Principal
from helios_smart_auth.clients import Client, Clients
from helios_smart_auth.signed import is_signed_by, parse_signed, sign
from helios_smart_auth.signing_keys import ALGORITHM, SigningKeys

TYPE: Final = "at+jwt"
MOST_KNOWN: Final = 10_000
"""How many verified tokens are cached, by their hash."""
KNOWN_SECONDS: Final = 2
"""The longest time until every process knows that a client was disabled or removed."""


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of an access token."""

    iss: str
    aud: str
    sub: str
    client_id: str
    scope: str
    iat: int
    exp: int
    jti: str
    registration: str
    """`Client.registration`: tells the client from a later one with the same id."""
    tenant: str | None = None
    groups: tuple[str, ...] | None = None


class Issuer:
    """Issues access tokens whose issuer and audience are the base URL of this server."""

    def __init__(
        self, keys: SigningKeys, *, valid_for: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self.valid_for = valid_for
        self._clock = clock

    async def issue(self, client: Client, scopes: Sequence[str], issuer: str) -> str:
        """
        Return a token for these scopes of a client.

        Raises:
            BackendUnavailable: The job store cannot respond now.
        """
        kid, key = await self._keys.signer()
        now = int(self._clock())
        claims = Claims(
            iss=issuer,
            aud=issuer,
            sub=client.id,
            client_id=client.id,
            scope=" ".join(scopes),
            iat=now,
            exp=now + self.valid_for,
            jti=uuid4().hex,
            registration=client.registration,
            tenant=client.tenant,
            groups=client.groups,
        )
        header = {"alg": ALGORITHM, "kid": kid, "typ": TYPE}
        return sign(header, msgspec.to_builtins(claims), key)


class _Verified(msgspec.Struct, frozen=True):
    claims: Claims
    kid: str
    principal: Principal


class AccessTokens:
    """
    Verifies access tokens.

    Every `KNOWN_SECONDS`, it checks that the client of a token is still enabled.
    """

    def __init__(
        self,
        keys: SigningKeys,
        clients: Clients,
        *,
        base_url: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._clients = clients
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._clock = clock
        self._known = OrderedDict[bytes, _Verified]()
        self._registrations = OrderedDict[str, tuple[float, str | None]]()

    async def verify(self, token: str) -> Principal:
        """
        Return the principal of a token.

        Raises:
            InvalidToken: This server did not issue the token, or it is no longer valid.
            BackendUnavailable: The job store cannot respond now.
        """
        digest = hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=32).digest()
        verified = self._known.get(digest)
        if verified is None:
            verified = await self._verified(token)
            self._known[digest] = verified
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        elif await self._keys.verifier(verified.kid) is None:
            raise InvalidToken("The key of the access token has been revoked; request another.")
        if verified.claims.exp <= self._clock():
            raise InvalidToken("The access token has expired; request another.")
        if not await self._is_registered(verified.claims):
            raise InvalidToken("The client of the access token is disabled or was removed.")
        return verified.principal

    async def _verified(self, token: str) -> _Verified:
        foreign = InvalidToken("The access token was not issued by this server.")
        try:
            signed = parse_signed(token)
        except ValueError:
            raise foreign from None
        kid = signed.header.get("kid")
        if (signed.header.get("alg"), signed.header.get("typ")) != (ALGORITHM, TYPE):
            raise foreign
        key = await self._keys.verifier(kid) if isinstance(kid, str) else None
        if key is None or not is_signed_by(signed, key, ALGORITHM):
            raise foreign
        try:
            claims = msgspec.convert(signed.claims, Claims)
        except msgspec.ValidationError:
            raise foreign from None
        if claims.iss != claims.aud or self._base_url not in (None, claims.aud):
            raise InvalidToken("The access token is for another server.")
        return _Verified(claims, str(kid), _principal(claims))

    async def _is_registered(self, claims: Claims) -> bool:
        """Return whether the client of a token is enabled, with the registration of the token."""
        now = time.monotonic()
        until, registration = self._registrations.get(claims.client_id, (0.0, None))
        # What is kept may be older than a token that another process has issued.
        if now >= until or registration != claims.registration:
            client = await self._clients.get(claims.client_id)
            registration = None if client is None or client.disabled else client.registration
            self._registrations[claims.client_id] = (now + KNOWN_SECONDS, registration)
            while len(self._registrations) > MOST_KNOWN:
                self._registrations.popitem(last=False)
        return registration == claims.registration


def _principal(claims: Claims) -> Principal:
    return Principal(
        issuer=claims.iss,
        subject=claims.sub,
        client_id=claims.client_id,
        scopes=tuple(claims.scope.split(" ")),
        tenant=claims.tenant,
        groups=None if claims.groups is None else frozenset(claims.groups),
        expires_at=datetime.fromtimestamp(claims.exp, UTC),
    )
