"""
Proof that nothing is missing: per type, how many lines, how many bytes and a digest of them all.

The digest is the sum of the 64-bit XXH3 hashes of the lines, without their newlines, modulo
2^64. It does not depend on the order of the lines nor on how they are cut into files: the digests
of parts add up to that of the export, and whoever holds the files can compute it again.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.hashes import HASH_MODULUS
from helios_core.model.parts import Part

KEY = "urn:helios:completeness"
"""Under which name the proof stands among the extensions of a manifest."""

ALGORITHM = "xxh3-64-sum"
"""What the digests are, for whoever meets a manifest in some years."""


def lines_digest(lines: Iterable[bytes]) -> int:
    """Give the digest of lines, in any order."""
    return sum_digests(*line_digests(lines))


def line_digests(lines: Iterable[bytes]) -> list[int]:
    """Give the digest of each line."""
    return list(map(xxh3_64_intdigest, lines))


def sum_digests(*digests: int) -> int:
    """Give the digest of all the lines that these are the digests of."""
    return sum(digests) % HASH_MODULUS


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What lines add up to."""

    count: int = 0
    """Resources; lines that only head a block do not count."""
    bytes: int = 0
    """Bytes of NDJSON, newlines included."""
    digest: str = f"{0:016x}"
    """The digest of the lines as 16 hexadecimal digits."""

    def __add__(self, other: "Tally") -> "Tally":
        digest = sum_digests(int(self.digest, 16), int(other.digest, 16))
        return Tally(
            count=self.count + other.count,
            bytes=self.bytes + other.bytes,
            digest=f"{digest:016x}",
        )


Tallies: TypeAlias = Mapping[str, Mapping[str, Tally]]
"""By list of the manifest, then by type."""


def part_tally(part: Part) -> Tally:
    """Give what a part contributes."""
    return Tally(count=part.count, bytes=part.plain_size, digest=f"{part.digest_sum or 0:016x}")


def add_up(entries: Iterable[tuple[str, str, Tally]]) -> Tallies:
    """Add up tallies by list and type."""
    totals = dict[str, dict[str, Tally]]()
    for kind, resource_type, tally in entries:
        types = totals.setdefault(kind, {})
        types[resource_type] = types.get(resource_type, Tally()) + tally
    return totals
