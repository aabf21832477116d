"""64-bit hashes, and how databases keep them whose integers have a sign."""

from xxhash import xxh3_64_intdigest

HASH_MODULUS = 1 << 64
"""How many hashes there are; sums of hashes are taken modulo this."""

_SIGN = 1 << 63
_MASK = HASH_MODULUS - 1


def to_signed(unsigned: int) -> int:
    """Give an unsigned 64-bit hash as a signed integer of the same bits."""
    return (unsigned ^ _SIGN) - _SIGN


def to_unsigned(stored: int) -> int:
    """Give a hash that is stored as a signed integer as it was computed."""
    return stored & _MASK


def line_hash(line: bytes) -> int:
    """Give the signed hash under which a line is stored, and by which damage is found."""
    return to_signed(xxh3_64_intdigest(line))
