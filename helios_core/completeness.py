"""
Proof that nothing is missing: per type, how many lines, how many bytes and a digest of them all.

The digest is the sum of the 64-bit XXH3 hashes of the lines, without their newlines, modulo 2^64.
It does not depend on the order of the lines nor on how they are cut into files, so that the digests
of parts add up to that of the export, and whoever holds the files can compute it again.
"""

from collections.abc import Iterable, Sequence

import msgspec
from xxhash import xxh3_64_intdigest

KEY = "urn:helios:completeness"
"""Under which name the proof stands among the extensions of a manifest."""

ALGORITHM = "xxh3-64-sum"
"""What the digests are, for whoever meets a manifest in some years."""

_LARGEST = 2**64 - 1


def digest_of(lines: Iterable[bytes]) -> int:
    """Give the digest of lines, in any order."""
    return sum(map(xxh3_64_intdigest, lines)) & _LARGEST


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What all the lines of one type add up to."""

    count: int
    """Resources; lines that only head a block do not count."""
    bytes: int
    """Bytes of NDJSON, newlines included."""
    digest: str
    """The digest of the lines as 16 hexadecimal digits."""


def tally(counts: Sequence[tuple[int, int, int]]) -> Tally:
    """Add up what is known of files: the count, the bytes and the digest of each."""
    resources, sizes, digests = zip(*counts, strict=True) if counts else ((), (), ())
    return Tally(count=sum(resources), bytes=sum(sizes), digest=f"{sum(digests) & _LARGEST:016x}")
