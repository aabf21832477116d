"""The private key with which a client of SMART Backend Services signs its assertions."""

from pathlib import Path
from typing import Any, Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from helios_core.client.documents import decode_json
from helios_core.errors import ConfigurationError

_LARGEST: Final = 256 * 1024
_ALGORITHMS: Final = {"EC": "ES384", "RSA": "RS384"}
_CURVE: Final = "P-384"
_RSA_BITS: Final = 2048


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A private key, with the key id that the server knows it by."""

    kid: str
    algorithm: str
    """ES384 or RS384 (SMART App Launch 2.2, section Asymmetric Authentication)."""
    key: ECKey | RSAKey


def read_signing_key(path: Path, kid: str | None = None) -> SigningKey:
    """
    Return the private key in a file: a JWK, a JWK set or PEM.

    `kid` selects a key of a set, or is the key id of a key that has none of its own; without it,
    such a key is identified by its thumbprint (RFC 7638).

    Raises:
        ConfigurationError: The file cannot be read, or does not hold one usable private key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from None
    private = [key for key in _keys(text, path) if key.is_private]
    if not private:
        raise ConfigurationError(
            f"{path} has no private RSA or EC key; name the file with the client's private key"
        )
    selected = [key for key in private if kid is None or key.kid in (None, kid)]
    if len(selected) != 1:
        kids = ", ".join(str(key.kid) for key in private if key.kid)
        raise ConfigurationError(
            f"{path} has {len(private)} private keys{kids and f' ({kids})'}, and one is needed; "
            "--key-id selects one of a set"
        )
    key = selected[0]
    _check(key, path)
    return SigningKey(
        kid=key.kid or kid or key.thumbprint(), algorithm=_ALGORITHMS[key.key_type], key=key
    )


def _keys(text: bytes, path: Path) -> list[ECKey | RSAKey]:
    """Return the RSA and EC keys of a file."""
    if b"-----BEGIN" in text and not text.lstrip().startswith((b"{", b"[")):
        for kind in (ECKey, RSAKey):
            try:
                return [kind.import_key(text)]
            except (JoseError, ValueError, TypeError, AttributeError):
                continue
        raise ConfigurationError(
            f"{path} is PEM, and holds neither an RSA nor an EC key without a password"
        )
    try:
        document = decode_json(text, dict[str, Any])
        members = msgspec.convert(document.get("keys", [document]), list[dict[str, Any]])
        return [
            ECKey.import_key(member) if member["kty"] == "EC" else RSAKey.import_key(member)
            for member in members
            if member.get("kty") in _ALGORITHMS
        ]
    except (msgspec.MsgspecError, JoseError, ValueError, TypeError, KeyError):
        raise ConfigurationError(
            f"{path} has no key that can be read; expected is a JWK, a JWK set or PEM"
        ) from None


def _check(key: ECKey | RSAKey, path: Path) -> None:
    if isinstance(key, ECKey) and key.curve_name != _CURVE:
        raise ConfigurationError(
            f"the key in {path} is on curve {key.curve_name}; ES384 needs {_CURVE}"
        )
    if isinstance(key, RSAKey) and key.raw_value.key_size < _RSA_BITS:
        raise ConfigurationError(
            f"the RSA key in {path} has {key.raw_value.key_size} bits; RS384 needs {_RSA_BITS}"
        )
    algorithm = _ALGORITHMS[key.key_type]
    try:
        jws.serialize_compact({"alg": algorithm}, b"", key, algorithms=[algorithm])
    except JoseError:
        raise ConfigurationError(
            f"the key in {path} is not for signatures of {algorithm}: its alg, use or key_ops say "
            "something else"
        ) from None
