"""
Proof that an export is complete: the lines and bytes of each type, and a digest of its lines.

The digest is the sum of the 64-bit XXH3 hashes of the lines, without their newlines, modulo
2^64. It does not depend on the order of the lines or on how they are divided into files: the
digests of parts add up to that of the export, and anybody who has the files can recompute it.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core.hashes import HASH_MODULUS
from helios_core.model.parts import Part

KEY = "urn:helios:completeness"
"""The name of the proof among the extensions of a manifest."""

ALGORITHM = "xxh3-64-sum"
"""The name of the algorithm in the manifest, so that the digests can be checked years later."""


def lines_digest(lines: Iterable[bytes]) -> int:
    """Return the digest of lines; their order does not matter."""
    return sum_digests(*line_digests(lines))


def line_digests(lines: Iterable[bytes]) -> list[int]:
    """Return the digest of each line, in order."""
    return list(map(xxh3_64_intdigest, lines))


def sum_digests(*digests: int) -> int:
    """Return the digest of all lines, from the digests of single lines or of groups of them."""
    return sum(digests) % HASH_MODULUS


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The number, bytes and digest of lines."""

    count: int = 0
    """The number of resources; headers of blocks do not count."""
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
"""The tallies of an export, by list of the manifest, such as `output`, and by resource type."""


def part_tally(part: Part) -> Tally:
    """Return the tally of one part."""
    return Tally(count=part.count, bytes=part.plain_size, digest=f"{part.digest_sum or 0:016x}")


def add_up(entries: Iterable[tuple[str, str, Tally]]) -> Tallies:
    """Return the sums of tallies; an entry is a list of the manifest, a type and a tally."""
    totals = dict[str, dict[str, Tally]]()
    for kind, resource_type, tally in entries:
        types = totals.setdefault(kind, {})
        types[resource_type] = types.get(resource_type, Tally()) + tally
    return totals
