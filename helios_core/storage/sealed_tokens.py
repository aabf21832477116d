"""Page tokens that only this server can read: what a store writes into one may tell its size."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from helios_core.errors import InvalidParameter

BLOCK: Final = 48
"""Tokens are filled up to a multiple of this many bytes, so that their length tells nothing."""


class TokenSeal:
    """Seals tokens by AES-SIV (RFC 5297), with a key that every process of a server derives."""

    def __init__(self, secret: str) -> None:
        self._cipher = AESSIV(blake2b(secret.encode(), person=b"page tokens").digest())

    def close(self, token: str, about: str) -> str:
        """Return a token as clients get it; it is good for the same `about` only."""
        text = token.encode()
        filled = text.ljust(-(-len(text) // BLOCK) * BLOCK)
        sealed = self._cipher.encrypt(filled, [about.encode()])
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, sealed: str, about: str) -> str:
        """
        Return the token that was sealed.

        Raises:
            InvalidParameter: It was not sealed here, or is about something else.
        """
        try:
            data = urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
            return self._cipher.decrypt(data, [about.encode()]).decode().rstrip()
        except (UnicodeError, binascii.Error, InvalidTag) as error:
            raise InvalidParameter(
                "the page asked for is not one that this history gave; follow its links as they "
                "are, or start again without one"
            ) from error
