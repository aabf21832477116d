"""64-bit hashes, and their form in databases that have only signed integers."""

from xxhash import xxh3_64_intdigest

HASH_MODULUS = 1 << 64
"""The number of different hashes; sums of hashes are taken modulo this."""

_SIGN = 1 << 63
_MASK = HASH_MODULUS - 1


def to_signed(unsigned: int) -> int:
    """Return the signed 64-bit integer under which an unsigned hash is stored."""
    return (unsigned ^ _SIGN) - _SIGN


def to_unsigned(stored: int) -> int:
    """Return the unsigned hash that was stored as a signed integer."""
    return stored & _MASK


def line_hash(line: bytes) -> int:
    """Return the signed hash that is stored with a line to detect damage."""
    return to_signed(xxh3_64_intdigest(line))
