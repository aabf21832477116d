"""Access tokens: signed JWTs (RFC 7519, RFC 9068), checked as RFC 8725 recommends."""

import base64
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError, MissingClaimError
from joserfc.jwt import JWTClaimsRegistry

from helios_core import InvalidToken, Principal, read_json_object
from helios_keycloak_auth.keys import Key
from helios_keycloak_auth.settings import Algorithm

MAX_LENGTH = 16 * 1024
"""The longest token, in characters."""

LEEWAY_SECONDS = 5
"""How far the issuer's clock may differ from this server's."""

TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Accepted values of the header's `typ`, in lower case."""

CLIENT_CLAIMS = ("azp", "client_id", "sub")
SCOPE_CLAIMS = ("scope", "scp", "roles")

_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class TokenHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a token, not verified yet."""

    algorithm: Algorithm
    kid: str


class _Registry(jws.JWSRegistry):
    # `read_header` limits the whole token.
    max_header_length = max_payload_length = max_signature_length = MAX_LENGTH


def read_header(token: str, allowed: Collection[Algorithm]) -> TokenHeader:
    """
    Return the header of a token.

    `jku`, `jwk`, `x5u` and `x5c` are ignored: only keys that the issuer publishes count.

    Raises:
        InvalidToken: It is not a signed JWT of one of the allowed algorithms.
    """
    compact = _COMPACT.fullmatch(token) if len(token) <= MAX_LENGTH else None
    if compact is None:
        raise InvalidToken(
            f"The access token is not a signed JWT of at most {MAX_LENGTH} characters."
        )
    header = _object(_decoded(compact[1]), "header")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in allowed:
        raise InvalidToken(
            f"The algorithm of the access token is not one of {', '.join(sorted(allowed))}."
        )
    if not isinstance(kid, str) or not kid:
        raise InvalidToken("The header of the access token has no kid, which names its key.")
    if "crit" in header:
        raise InvalidToken("The header of the access token has crit; no extension is supported.")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise InvalidToken("The token is not an access token: its typ is not JWT or at+jwt.")
    return TokenHeader(algorithm=Algorithm(algorithm), kid=kid)


class TokenClaims:
    """Verifies tokens of one issuer for any of the given audiences."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: Collection[str],
        tenant_claim: str,
        clock: Callable[[], float],
    ) -> None:
        self._tenant_claim = tenant_claim
        self._registry = JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "values": list(audience)},
            sub={"essential": True},
            exp={"essential": True},
        )

    def verify(self, token: str, header: TokenHeader, key: Key) -> Principal:
        """
        Return the principal of a token, after checking its signature and claims.

        Raises:
            InvalidToken: The signature is wrong, or a claim is missing, malformed or not accepted.
        """
        registry = _Registry(algorithms=[header.algorithm], strict_check_header=False)
        try:
            payload = jws.deserialize_compact(token, key, registry=registry).payload
        except (JoseError, ValueError, TypeError):
            raise InvalidToken("The signature of the access token is wrong.") from None
        claims = _object(payload or b"", "payload")
        self._check(claims)
        return Principal(
            issuer=claims["iss"],
            subject=claims["sub"],
            client_id=_client(claims),
            scopes=tuple(dict.fromkeys(_scopes(claims))),
            tenant=self._tenant(claims),
            expires_at=_instant(claims["exp"]),
        )

    def _check(self, claims: dict[str, Any]) -> None:
        try:
            self._registry.validate(claims)
        except ExpiredTokenError:
            raise InvalidToken("The access token has expired; request another one.") from None
        except MissingClaimError as error:
            raise InvalidToken(f"The access token lacks the claim {error.claim}.") from None
        except ClaimError as error:
            raise InvalidToken(_REASONS.get(error.claim, _OTHER).format(error.claim)) from None
        if "cnf" in claims:
            raise InvalidToken(
                "The access token is bound to a key of the client (cnf), which is not supported; "
                "request a bearer token."
            )
        kind = claims.get("typ", "Bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise InvalidToken("The token is not an access token: its claim typ is not Bearer.")

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        tenant = claims.get(self._tenant_claim)
        if tenant is not None and (not isinstance(tenant, str) or not tenant):
            raise InvalidToken("The tenant of the access token is not a non-empty string.")
        return tenant


_OTHER = "The {} of the access token is malformed."
_REASONS: Mapping[str, str] = {
    "iss": "The access token is of another issuer.",
    "aud": "The access token is for another audience.",
    "nbf": "The access token is not valid yet.",
    "iat": "The access token was issued in the future.",
}


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "==")
    except ValueError:
        return b""


def _object(text: bytes, part: str) -> dict[str, Any]:
    try:
        return read_json_object(text)
    except ValueError as error:
        raise InvalidToken(f"The {part} of the access token cannot be read: {error}.") from None


def _client(claims: Mapping[str, Any]) -> str:
    for name in CLIENT_CLAIMS:
        client = claims.get(name)
        if client is not None:
            if not isinstance(client, str) or not client:
                raise InvalidToken(_OTHER.format(name))
            return client
    raise InvalidToken(f"The access token has none of the claims {', '.join(CLIENT_CLAIMS)}.")


def _scopes(claims: Mapping[str, Any]) -> Iterator[str]:
    for name in SCOPE_CLAIMS:
        words = claims.get(name, [])
        if isinstance(words, str):
            words = words.split(" ")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InvalidToken(_OTHER.format(name))
        yield from filter(None, words)


def _instant(expires: float) -> datetime:
    """Return when a token expires, leeway included; the latest is the end of the year 9999."""
    return datetime.fromtimestamp(min(expires + LEEWAY_SECONDS, _LAST), UTC)
