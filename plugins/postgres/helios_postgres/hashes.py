"""Hashes as PostgreSQL stores them."""

import xxhash

_SIGN = 1 << 63
_MASK = (1 << 64) - 1


def signed(unsigned: int) -> int:
    """Give an unsigned 64-bit hash as the signed integer that PostgreSQL has room for."""
    return (unsigned ^ _SIGN) - _SIGN


def unsigned(stored: int) -> int:
    """Give a stored hash as it was computed."""
    return stored & _MASK


def line_hash(line: bytes) -> int:
    """Give the hash under which a line is stored, and by which damage is found."""
    return signed(xxhash.xxh3_64_intdigest(line))
