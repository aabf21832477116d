"""Assertions: how a client proves who it is (SMART App Launch 2.2, section 4.2.2.1)."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from helios_core import SupportsRecords
from helios_smart_auth.clients import Client, Clients
from helios_smart_auth.key_sets import KeySets, Unreadable
from helios_smart_auth.public_keys import ALGORITHMS, JWK, find_key, import_key
from helios_smart_auth.signed import Signed, is_signed_by, parse_signed

NAMESPACE: Final = "smart_auth.assertions"
LONGEST_SECONDS: Final = 300
"""How far in the future `exp` may be (SM-12)."""
LONGEST_NAME: Final = 500
"""How many characters a `kid` or a `jti` may have."""


class Rejected(Exception):
    """
    An assertion is not accepted; the message says why and quotes nothing of it.

    `client_id` is the registered client that the assertion names, if it names one.
    """

    client_id: str | None = None


class Assertions:
    """Authenticates clients by their assertions, each of which can be used once."""

    def __init__(
        self,
        clients: Clients,
        key_sets: KeySets,
        records: SupportsRecords,
        *,
        clock_skew: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clients = clients
        self._key_sets = key_sets
        self._records = records
        self._skew = clock_skew
        self._clock = clock

    async def authenticate(self, assertion: str, token_url: str) -> Client:
        """
        Return the client that an assertion authenticates.

        Cheap checks come first, and nothing is stored about an assertion whose signature is wrong.

        Raises:
            Rejected: The assertion is invalid, expired or used, or its client is unknown or
            disabled.
            BackendUnavailable: The job store cannot respond now.
        """
        try:
            signed = parse_signed(assertion)
        except ValueError as error:
            raise Rejected(f"the assertion cannot be read: {error}") from None
        algorithm, kid = _check_header(signed.header)
        issuer, jti, expires = self._check_claims(signed.claims, token_url)
        client = await self._clients.get(issuer)
        if client is None:
            raise Rejected("iss is not the id of a registered client")
        try:
            await self._check_signer(client, signed, algorithm, kid)
            await self._reserve(issuer, jti, expires)
        except Rejected as rejected:
            rejected.client_id = client.id
            raise
        return client

    def _check_claims(self, claims: dict[str, Any], token_url: str) -> tuple[str, str, float]:
        issuer, subject = claims.get("iss"), claims.get("sub")
        if not isinstance(issuer, str) or issuer != subject:
            raise Rejected("iss and sub are not both the client id")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if token_url not in audiences or not all(isinstance(each, str) for each in audiences):
            raise Rejected(
                "aud is not the URL of this token endpoint; use the token_endpoint of the"
                " discovery document"
            )
        now = self._clock()
        expires = _instant(claims, "exp")
        if expires is None:
            raise Rejected("there is no exp")
        if expires <= now - self._skew:
            raise Rejected("exp is in the past")
        if expires > now + LONGEST_SECONDS + self._skew:
            raise Rejected(f"exp is more than {LONGEST_SECONDS} seconds in the future")
        for name in ("nbf", "iat"):
            instant = _instant(claims, name)
            if instant is not None and instant > now + self._skew:
                raise Rejected(f"{name} is in the future")
        return issuer, _name(claims, "jti"), expires

    async def _check_signer(
        self, client: Client, signed: Signed, algorithm: str, kid: str
    ) -> None:
        if client.disabled:
            raise Rejected("the client is disabled")
        urls = client.jwks_urls
        if "jku" in signed.header:
            if signed.header["jku"] not in urls:
                raise Rejected("jku is not one of the addresses that the client registered")
            urls = (signed.header["jku"],)
        try:
            key = find_key(await self._sets(client, urls), kid, algorithm)
            if key is None and urls:
                key = find_key(await self._sets(client, urls, again=True), kid, algorithm)
            if key is None:
                raise Rejected("no key of the client has this kid and the type of this alg")
            verified = is_signed_by(signed, import_key(key, algorithm), algorithm)
        except Unreadable as error:
            raise Rejected(f"the keys of the client cannot be read: {error}") from None
        except ValueError as error:
            raise Rejected(f"the key of the assertion cannot be used: {error}") from None
        if not verified:
            raise Rejected("the signature is wrong")

    async def _sets(
        self, client: Client, urls: Sequence[str], *, again: bool = False
    ) -> list[Sequence[JWK]]:
        """
        Read all key sets of a client at the same time, and return those that can be read.

        Raises:
            Unreadable: None can be read.
        """
        if not urls:
            return [client.keys]
        found = await asyncio.gather(*(self._readable(url, again=again) for url in urls))
        sets = [each for each in found if not isinstance(each, Unreadable)]
        failures = [each for each in found if isinstance(each, Unreadable)]
        if not sets:
            raise failures[-1]
        return [*sets, client.keys] if client.keys else sets

    async def _readable(self, url: str, *, again: bool) -> Sequence[JWK] | Unreadable:
        try:
            return await self._key_sets.read(url, again=again)
        except Unreadable as error:
            return error

    async def _reserve(self, issuer: str, jti: str, expires: float) -> None:
        """Store a `jti` for as long as an assertion with it would be accepted (SM-13)."""
        key = hashlib.sha256(f"{issuer}\n{jti}".encode(errors="surrogatepass")).hexdigest()
        left = expires + self._skew - self._clock()
        keep_for = timedelta(seconds=max(1, math.ceil(left + self._skew + 1)))
        if not await self._records.insert_record(NAMESPACE, key, b"", keep_for=keep_for):
            raise Rejected("jti was used before; every assertion needs a new one")


def _check_header(header: dict[str, Any]) -> tuple[str, str]:
    """Return the `alg` and the `kid` of an assertion."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Rejected(f"alg is not {' or '.join(ALGORITHMS)}")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.upper() != "JWT":
        raise Rejected("typ is not JWT")
    if "crit" in header or "b64" in header:
        raise Rejected("the header has crit or b64, which this server does not support")
    return algorithm, _name(header, "kid")


def _name(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise Rejected(f"{name} is not a string of 1 to {LONGEST_NAME} characters")
    return value


def _instant(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate: seconds since 1970, maybe with a fraction (RFC 7519, section 2)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected(f"{name} is not a number")
    if not abs(value) < 1e12:  # noqa: PLR2004  true for infinite and NaN, too
        raise Rejected(f"{name} is out of range; it is in seconds since 1970")
    return float(value)
