"""Page tokens that only this server can read: a store's own may disclose its size."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from helios_core.errors import InvalidParameter

BLOCK: Final = 48
"""Tokens are padded to a multiple of this many bytes, so that their length discloses nothing."""


class TokenSeal:
    """Seals tokens by AES-SIV (RFC 5297), with a key that all processes of a server derive."""

    def __init__(self, secret: str) -> None:
        self._cipher = AESSIV(blake2b(secret.encode(), person=b"page tokens").digest())

    def close(self, token: str, about: str) -> str:
        """Return the sealed token for clients; it opens with the same `about` only."""
        text = token.encode()
        padded = text.ljust(-(-len(text) // BLOCK) * BLOCK)
        sealed = self._cipher.encrypt(padded, [about.encode()])
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, sealed: str, about: str) -> str:
        """
        Return the token that was sealed.

        Raises:
            InvalidParameter: The text was not sealed by this server, or with another `about`.
        """
        try:
            data = urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
            return self._cipher.decrypt(data, [about.encode()]).decode().rstrip()
        except (UnicodeError, binascii.Error, InvalidTag) as error:
            raise InvalidParameter(
                "the page token is not from a link of this history; follow its links unchanged, "
                "or start again without a token"
            ) from error
