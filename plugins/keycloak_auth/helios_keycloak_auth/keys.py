"""The issuer's keys, and the tokens that were verified with them."""

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from helios_core import BackendUnavailable, Principal
from helios_keycloak_auth.settings import Algorithm

log = structlog.stdlib.get_logger()

Key = RSAKey | ECKey

MAX_KEYS = 100
"""How many keys of an issuer are used; issuers publish two or three for each algorithm."""

MAX_REMEMBERED = 1024
"""How many verified tokens are remembered, about a kilobyte each."""

RSA_BITS = range(2048, 8192 + 1)
"""Accepted sizes of RSA keys: shorter ones are unsafe, longer ones take milliseconds to use."""

MAX_EXPONENT = 2**32

_CURVES: Mapping[str, Algorithm] = {"P-256": Algorithm.ES256, "P-384": Algorithm.ES384}
_RSA = frozenset({Algorithm.RS256, Algorithm.RS384, Algorithm.PS256})


class IssuerKeys:
    """The keys of one JWK Set (RFC 7517), each for the algorithms it may be used with."""

    def __init__(
        self, document: Mapping[str, Any], keys: Mapping[tuple[str, Algorithm], Key]
    ) -> None:
        self.document = document
        self._keys = keys
        self._ids = {kid for kid, _ in keys}
        self._remembered: dict[bytes, Principal] = {}

    def find(self, kid: str, algorithm: Algorithm) -> Key | None:
        """Return the key with this id for this algorithm, or None."""
        return self._keys.get((kid, algorithm))

    def has(self, kid: str) -> bool:
        """Return whether there is a key with this id, for whatever algorithm."""
        return kid in self._ids

    def remember(self, digest: bytes, principal: Principal) -> None:
        """Remember the principal of a token that was verified with one of these keys."""
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = principal

    def recall(self, digest: bytes) -> Principal | None:
        """Return the principal of a token, expired or not, or None if it is not remembered."""
        return self._remembered.get(digest)


def read_keys(
    document: Mapping[str, Any], algorithms: Collection[Algorithm], known: IssuerKeys | None
) -> IssuerKeys:
    """
    Return the keys of a JWK Set that verify signatures, or `known` if the set is unchanged.

    Keys are left out if they are for another use, unsafe or malformed, or if two have the same
    id and algorithm.

    Raises:
        BackendUnavailable: The document is not a JWK Set.
    """
    if known is not None and known.document == document:
        return known
    published = document.get("keys")
    if not isinstance(published, list):
        raise BackendUnavailable("the issuer's keys are not a JWK Set: there is no list of keys")
    found = dict[tuple[str, Algorithm], Key]()
    ambiguous = set[tuple[str, Algorithm]]()
    for jwk in published[:MAX_KEYS]:
        for algorithm, key in _usable(jwk, algorithms):
            name = (jwk["kid"], algorithm)
            if name in found:
                ambiguous.add(name)
            found[name] = key
    for name in ambiguous:
        del found[name]
    keys = IssuerKeys(document, found)
    log.info("issuer.keys_read", keys=len({kid for kid, _ in found}), published=len(published))
    return keys


def _usable(
    published: object, algorithms: Collection[Algorithm]
) -> Iterator[tuple[Algorithm, Key]]:
    if not isinstance(published, dict) or not _verifies(published):
        return
    try:
        key, possible = _imported(published)
    except (JoseError, ValueError, TypeError, KeyError, OverflowError):
        return
    for algorithm in possible & set(algorithms):
        if published.get("alg", algorithm) == algorithm:
            yield algorithm, key


def _verifies(published: Mapping[str, Any]) -> bool:
    operations = published.get("key_ops", ["verify"])
    return (
        isinstance(published.get("kid"), str)
        and bool(published["kid"])
        and published.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        # Anybody can sign with a private key that is published.
        and "d" not in published
    )


def _imported(published: Mapping[str, Any]) -> tuple[Key, frozenset[Algorithm]]:
    match published.get("kty"):
        case "RSA":
            modulus, exponent = _number(published["n"]), _number(published["e"])
            if modulus.bit_length() not in RSA_BITS or exponent > MAX_EXPONENT:
                raise ValueError("the modulus or exponent is too short or too long")
            return RSAKey.import_key({name: published[name] for name in ("kty", "n", "e")}), _RSA
        case "EC":
            members = {name: published[name] for name in ("kty", "crv", "x", "y")}
            return ECKey.import_key(members), frozenset({_CURVES[published["crv"]]})
    raise ValueError("the key type is neither RSA nor EC")


def _number(text: str) -> int:
    try:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=="))
    except binascii.Error as error:
        raise ValueError("it is not base64url") from error
