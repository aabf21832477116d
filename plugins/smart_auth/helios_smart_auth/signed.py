"""Signed JWTs in compact form, taken apart without trusting them (RFC 7515, RFC 7519)."""

import base64
import binascii
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from helios_core import read_json_object

LONGEST = 16 * 1024
"""How many characters a JWT may have; those of real clients have less than 2000."""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a JWT; nothing of it is verified."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes


class _Registry(jws.JWSRegistry):
    """The limits of a JWT's parts are those of the JWT; header parameters may be any."""

    max_header_length = LONGEST
    max_payload_length = LONGEST
    max_signature_length = LONGEST


def parse_signed(text: str) -> Signed:
    """
    Return the parts of a JWT.

    Raises:
        ValueError: It is not one; the message has no part of it.
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
    """Return whether the signature is that of a key, by this algorithm and no other."""
    registry = _Registry(algorithms=[algorithm], strict_check_header=False)
    try:
        jws.deserialize_compact(signed.text, key, registry=registry)
    except (JoseError, ValueError):
        return False
    return True


def sign(header: dict[str, Any], claims: dict[str, Any], key: ECKey) -> str:
    """Return a JWT that is signed by a key."""
    return jws.serialize_compact(
        header, msgspec.json.encode(claims), key, algorithms=[header["alg"]]
    )


def _decoded(part: str) -> bytes:
    """Return the bytes of unpadded base64url, which has one spelling of them."""
    try:
        value = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a part of it is not base64url") from None
    if base64.urlsafe_b64encode(value).rstrip(b"=") != part.encode():
        raise ValueError("a part of it is not base64url without padding")
    return value
