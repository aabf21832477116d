"""Signed JWTs in compact form: parse, verify and sign them (RFC 7515, RFC 7519)."""

import base64
import binascii
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from helios_core import read_json_object

LONGEST = 16 * 1024
"""How many characters a JWT may have; those of real clients have fewer than 2000."""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The decoded parts of a JWT whose signature is not verified yet."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes


class _Registry(jws.JWSRegistry):
    """Allows each part of a JWT the length of a whole JWT; `parse_signed` limits the total."""

    max_header_length = LONGEST
    max_payload_length = LONGEST
    max_signature_length = LONGEST


def parse_signed(text: str) -> Signed:
    """
    Return the parts of a JWT.

    Raises:
        ValueError: The text is not a JWT; the message quotes nothing of it.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} characters")
    parts = text.split(".")
    if len(parts) != 3:  # noqa: PLR2004  header, payload and signature
        raise ValueError("it is not a JWT of three parts")
    header, claims, signature = map(_decoded, parts)
    return Signed(
        text=text,
        header=read_json_object(header),
        claims=read_json_object(claims),
        signature=signature,
    )


def is_signed_by(signed: Signed, key: ECKey | RSAKey, algorithm: str) -> bool:
    """Return whether a key verifies the signature with this algorithm; no other is accepted."""
    registry = _Registry(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(signed.text, key, registry=registry)
    except (JoseError, ValueError):
        return False
    return True


def sign(header: dict[str, Any], claims: dict[str, Any], key: ECKey) -> str:
    """Return a signed JWT in compact form; the header names the algorithm."""
    return jws.serialize_compact(
        header, msgspec.json.encode(claims), key, algorithms=[header["alg"]]
    )


def _decoded(part: str) -> bytes:
    """
    Return the bytes of unpadded base64url (RFC 7515, section 2).

    Encoding them again has to give the same text: other spellings of the same bytes are refused.
    """
    try:
        value = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("one of its parts is not base64url") from None
    if base64.urlsafe_b64encode(value).rstrip(b"=") != part.encode():
        raise ValueError("one of its parts is not base64url without padding")
    return value
