"""
The numbers of versions: collection, extent and position in one 64-bit number, the seq.

They are for stores that only add versions and keep those of one collection (one tenant, FHIR
version and type) together. The 40 lower bits of a seq count within its collection, which fills
extent by extent. An extent takes 4,096 versions or 4 MiB of content, whichever comes first, unless
a single version is larger. The number of an extent is a seq without its 12 lowest bits. Within an
extent, seqs are dense and ascend with the stamps (when versions became current, in microseconds).
A search index that is kept by extent needs two bytes for the position of a version.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from xxhash import xxh3_64_intdigest

COLLECTION_BITS = 40
"""How many lower bits of a seq count within its collection."""

EXTENT_BITS = 12
"""How many lower bits of a seq are the position in its extent."""

EXTENT_ROWS = 1 << EXTENT_BITS
"""How many versions an extent takes at most."""

EXTENT_BYTES = 4 * 1024 * 1024
"""How many bytes of content an extent takes, unless a single version is larger."""

BLOCK_BITS = EXTENT_BITS + 2
"""How many lower bits of a seq are the position in its block, a run of four extents."""

SUM_MASK = (1 << 62) - 1
"""Sums of hashes are kept modulo 2^62, so that databases add two of them without an overflow."""

Positions = Mapping[int, set[int]]
"""Positions of versions in each extent."""


class SeqRange(msgspec.Struct, frozen=True, kw_only=True):
    """Seqs from `first` up to, but not including, `end`."""

    first: int
    end: int

    @property
    def extents(self) -> tuple[int, int]:
        """The first and the last extent that the range touches."""
        return self.first >> EXTENT_BITS, (self.end - 1) >> EXTENT_BITS

    @property
    def blocks(self) -> tuple[int, int]:
        """The first and the last block that the range touches."""
        return self.first >> BLOCK_BITS, (self.end - 1) >> BLOCK_BITS

    @property
    def whole_blocks(self) -> "SeqRange":
        """The range, widened to all seqs of the blocks that it touches."""
        first, last = self.blocks
        return SeqRange(first=first << BLOCK_BITS, end=(last + 1) << BLOCK_BITS)

    def within(self, *, start: str | None, end: str | None) -> "SeqRange":
        """Narrow the range to the keys of a shard."""
        return SeqRange(
            first=self.first if start is None else max(self.first, int(start)),
            end=self.end if end is None else min(self.end, int(end)),
        )

    def within_extent(self, extent: int) -> "SeqRange":
        """Narrow the range to an extent."""
        first, end = extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
        return SeqRange(first=max(self.first, first), end=min(self.end, end))


class ResourceSums(msgspec.Struct, frozen=True):
    """The `count` of resources, their `size` in bytes, and the sum of their hashes modulo 2^62."""

    count: int
    size: int
    hash_sum: int | None
    """None if it is not known, because an earlier release stored the resources."""

    def agree(self, other: "ResourceSums") -> bool:
        """Return whether everything that is known of both is equal."""
        known = self.hash_sum is not None and other.hash_sum is not None
        difference = (self.hash_sum or 0) - (other.hash_sum or 0) if known else 0
        return (self.count, self.size, difference & SUM_MASK) == (other.count, other.size, 0)


def collection_range(collection: int) -> SeqRange:
    """Return all seqs that a collection can ever have."""
    return SeqRange(first=collection << COLLECTION_BITS, end=(collection + 1) << COLLECTION_BITS)


def extent_of(seq: int) -> int:
    """Return the extent that a version is in."""
    return seq >> EXTENT_BITS


def block_of(seq: int) -> int:
    """Return the block that a version is in; its upper bits are those of the collection."""
    return seq >> BLOCK_BITS


def version_mark(row: Iterable[object]) -> int:
    """
    Return a hash of everything but the content that is stored when a version is written.

    The row is seq, id, version_id, since_stamp, deleted as 0 or 1, patients, size and line_hash.
    """
    return xxh3_64_intdigest(" ".join(map(str, row)).encode()) & SUM_MASK


def ending_mark(seq: int, until_stamp: int) -> int:
    """Return a hash of the end of a version."""
    return xxh3_64_intdigest(f"{seq} {until_stamp}".encode()) & SUM_MASK


class CompartmentSums:
    """Sums of marks of the versions in each patient's compartment, block by block."""

    def __init__(self) -> None:
        self._sums = defaultdict[tuple[str, int], int](int)

    def add(self, patients: str, seq: int, mark: int) -> None:
        """Add the mark of a version, or of its ending, to the sums of its patients."""
        block = block_of(seq)
        for patient in patients.split():
            self._sums[patient, block] += mark

    def rows(self) -> list[tuple[str, int, int]]:
        """Return patient, block and sum modulo 2^62, in order."""
        return [(*key, total & SUM_MASK) for key, total in sorted(self._sums.items())]


def union_of(several: Iterable[Positions]) -> dict[int, set[int]]:
    """Return the positions that are in any of these."""
    union = defaultdict[int, set[int]](set)
    for by_extent in several:
        for extent, positions in by_extent.items():
            union[extent] |= positions
    return union


def intersection_of(left: Positions, right: Positions) -> dict[int, set[int]]:
    """Return the positions that are in both; extents without any are left out."""
    return {
        extent: both
        for extent in left.keys() & right.keys()
        if (both := left[extent] & right[extent])
    }
