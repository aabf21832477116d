"""Hashes as SQLite stores them."""

import xxhash

_SIGN = 1 << 63


def signed(unsigned: int) -> int:
    """Give an unsigned 64-bit hash as the signed integer that SQLite has room for."""
    return (unsigned ^ _SIGN) - _SIGN


def unsigned(signed: int) -> int:
    """Give the 64-bit hash that is stored as a signed integer."""
    return signed & (2 * _SIGN - 1)


def line_hash(line: bytes) -> int:
    """Give the hash under which a line is stored, and by which damage is found."""
    return signed(xxhash.xxh3_64_intdigest(line))
