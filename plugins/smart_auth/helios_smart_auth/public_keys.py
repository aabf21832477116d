"""Public keys of clients: which are accepted, and which one verifies an assertion."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from helios_core import read_json_object

ALGORITHMS: Final[Mapping[str, str]] = {"RS384": "RSA", "ES384": "EC"}
"""The accepted algorithms of assertions, each with its `kty` (RFC 7518, section 3.1)."""
CURVE: Final = "P-384"
RSA_BITS: Final = range(2048, 8193)
"""Accepted lengths of RSA keys: shorter keys are weak, longer ones are slow to verify."""
RSA_EXPONENTS: Final = range(3, 2**32)
"""With exponent 1, any text is its own signature; large exponents are slow to verify."""
MOST_KEYS: Final = 100
"""How many keys a key set may have."""

_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
_KEPT = ("kty", "kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e")

Key = ECKey | RSAKey
JWK = Mapping[str, Any]


def parse_keys(text: bytes) -> Sequence[JWK]:
    """
    Return the keys of a file: a JWK set, one JWK, or PEM.

    Raises:
        ValueError: It is none of these; the message says what was expected.
    """
    if text.lstrip().startswith((b"{", b"[")):
        return parse_key_set(text)
    if b"-----BEGIN" in text:  # text may come before it (RFC 7468, section 5.2)
        return parse_pem(text)
    raise ValueError(
        "it is neither JSON (a JWK set or one JWK, which begin with '{') nor PEM (which has a "
        "line '-----BEGIN ...')"
    )


def parse_pem(text: bytes) -> Sequence[JWK]:
    """
    Return the public key of a PEM file, with its thumbprint as kid (RFC 7638).

    Raises:
        ValueError: The file has no RSA or EC key.
    """
    for kind in (ECKey, RSAKey):
        try:
            key = kind.import_key(text)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
        private = {"d": ""} if key.is_private else {}  # `registrable` refuses it
        return [{**key.as_dict(private=False), "kid": key.thumbprint(), **private}]
    raise ValueError("it begins like PEM but has neither an RSA nor an EC key")


def parse_key_set(text: bytes) -> Sequence[JWK]:
    """
    Return the keys of a JWK set (RFC 7517) or of a single JWK, without checking the keys.

    Raises:
        ValueError: It is neither a JWK set nor a JWK.
    """
    document = read_json_object(text)
    keys = document.get("keys", [document] if "kty" in document else None)
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError('it is not a JSON Web Key Set, an object with the member "keys"')
    if len(keys) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    return keys


def registrable(keys: Sequence[JWK]) -> Sequence[JWK]:
    """
    Return the public keys that a client registers, reduced to the members that are used here.

    Raises:
        ValueError: A key is private, unusable or ambiguous; the message says which and why.
    """
    if not keys:
        raise ValueError("it has no key")
    for number, key in enumerate(keys, 1):
        if _PRIVATE & key.keys():
            raise ValueError(
                f"key {number} is private or a shared secret; register the public half only"
            )
        if not isinstance(key.get("kid"), str) or not key["kid"]:
            raise ValueError(f"key {number} has no kid; assertions name their key by it")
        algorithm = next((a for a, kty in ALGORITHMS.items() if key.get("kty") == kty), None)
        if algorithm is None:
            raise ValueError(f"key {number} is neither an RSA nor an EC key")
        try:
            import_key(key, algorithm)
        except ValueError as error:
            raise ValueError(f"key {number} cannot be used: {error}") from None
    kids = [key["kid"] for key in keys]
    if len(set(kids)) < len(kids):
        raise ValueError("two keys have the same kid; an assertion has to name one key")
    return [{name: key[name] for name in _KEPT if name in key} for key in keys]


def find_key(sets: Iterable[Sequence[JWK]], kid: str, algorithm: str) -> JWK | None:
    """
    Return the key with this kid and the key type of the algorithm, or None if there is none.

    The same key in two sets counts as one key.

    Raises:
        ValueError: Several different keys match.
    """
    found = list[JWK]()
    for keys in sets:
        matching = [
            key
            for key in keys
            if key.get("kid") == kid and key.get("kty") == ALGORITHMS[algorithm]
        ]
        if len(matching) > 1:
            raise ValueError("several keys have the kid of the assertion")
        found += [key for key in matching if not any(_same(key, other) for other in found)]
    if len(found) > 1:
        raise ValueError("several keys have the kid of the assertion")
    return found[0] if found else None


def import_key(key: JWK, algorithm: str) -> Key:
    """
    Return a JWK as a public key that verifies signatures of an algorithm.

    Raises:
        ValueError: The key is invalid or not meant for this; the message says why.
    """
    if _PRIVATE & key.keys():
        # Whoever reads a published private key can sign with it.
        raise ValueError("it is private or a shared secret")
    if key.get("alg", algorithm) != algorithm:
        raise ValueError(f"its alg is not {algorithm}")
    if key.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    operations = key.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops do not include verify")
    try:
        if ALGORITHMS[algorithm] == "EC":
            return _ec_key(key)
        return _rsa_key(key)
    except (JoseError, KeyError, TypeError):
        raise ValueError("its parameters are not a valid key") from None


def _ec_key(key: JWK) -> ECKey:
    if key.get("crv") != CURVE:
        raise ValueError(f"its curve is not {CURVE}")
    try:
        return ECKey.import_key({name: key[name] for name in ("kty", "crv", "x", "y")})
    except ValueError:
        raise ValueError("its parameters are not a valid key") from None


def _rsa_key(key: JWK) -> RSAKey:
    if _bits(key["n"]) not in RSA_BITS:
        raise ValueError(f"it does not have {RSA_BITS[0]} to {RSA_BITS[-1]} bits")
    if _number(key["e"]) not in RSA_EXPONENTS:
        raise ValueError("its exponent is too small or too large")
    try:
        return RSAKey.import_key({name: key[name] for name in ("kty", "n", "e")})
    except ValueError:
        raise ValueError("its parameters are not a valid key") from None


def _same(key: JWK, other: JWK) -> bool:
    return all(key.get(name) == other.get(name) for name in _KEPT)


def _bits(text: object) -> int:
    return _number(text).bit_length()


def _number(text: object) -> int:
    most = RSA_BITS[-1]
    if not isinstance(text, str) or len(text) > most:
        raise ValueError("its parameters are not a valid key")
    try:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        raise ValueError("its parameters are not a valid key") from None
