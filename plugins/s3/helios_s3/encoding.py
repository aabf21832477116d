"""The records of the primary bucket (commits, rows, blocks, ...) and their encoding."""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from helios_core import BackendError, ResourceKey, TypeKey
from helios_core.fhir import FHIRVersion

_MAGIC = b"HELIOS.2"
_HEAD = len(_MAGIC) + 16
_DELETED = -1
_COLLECTION = attrgetter("collection")

HASH_BYTES = 8
"""The length of the hash of an id."""

MOST_PATIENTS = 16
"""A version of more patients is not in their compartments, but in the shared one."""

SHARED = "*"
"""The shared compartment, which is always read; it sorts before all ids."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version of a resource, without its content."""

    id: str
    version_id: int
    stamp: int
    """The stamp at which it became current, in microseconds since 1970."""
    size: int
    """The bytes of its line, -1 for a deletion."""
    content_hash: int
    """As in `Resource.content_hash`; 0 for a deletion."""
    line_hash: int
    """The `line_hash` of the line; 0 for a deletion."""
    patients: str
    """The ids of its patients, separated by spaces; a deletion keeps those of its predecessor."""
    left: str = ""
    """The ids of patients of the version before whose compartments the resource left."""

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.size == _DELETED

    @property
    def compartments(self) -> Collection[str]:
        """The compartments that it is stored in, including those that it left."""
        patients = {*self.patients.split(), *self.left.split()}
        return (SHARED,) if len(patients) > MOST_PATIENTS else patients


def deletion(resource_id: str, version_id: int, stamp: int, patients: str) -> Row:
    """Return the row of a deletion."""
    return Row(resource_id, version_id, stamp, _DELETED, 0, 0, patients)


class Block(msgspec.Struct, frozen=True, array_like=True):
    """
    Some rows of one collection, sorted by id and version, and where they are in an extent.

    An extent is an object; of each block it has the lines, each ended by a newline, then the rows,
    then the sorted hashes of the ids. All versions of one id are in one block of a run.
    """

    extent: str
    collection: str
    first: str
    last: str
    rows: int
    resources: int
    """How many rows have content."""
    earliest: int
    latest: int
    """The stamps of the rows lie between these, both inclusive."""
    offset: int
    """The offset of the block in the extent."""
    line_bytes: int
    row_bytes: int
    row_hash: int
    """The 64-bit XXH3 hash of the encoded rows."""
    ids: int
    """The number of different ids."""
    id_hash: int
    """The 64-bit XXH3 hash of the encoded hashes of the ids."""

    @property
    def row_range(self) -> tuple[int, int]:
        """The byte range of the rows in the extent."""
        begin = self.offset + self.line_bytes
        return begin, begin + self.row_bytes

    @property
    def id_range(self) -> tuple[int, int]:
        """The byte range of the hashes of the ids in the extent."""
        begin = self.offset + self.line_bytes + self.row_bytes
        return begin, begin + self.ids * HASH_BYTES


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Entries of some patients in one collection, compressed."""

    collection: str
    first: str
    last: str
    """The lowest and the highest of the patients."""
    patients: int
    rows: int
    bytes: int
    """The approximate size of its lines."""
    offset: int
    size: int
    hash: int
    """The 64-bit XXH3 hash of the compressed bytes."""

    @property
    def start(self) -> tuple[str, str]:
        """Its sort key by the first patient."""
        return self.collection, self.first

    @property
    def end(self) -> tuple[str, str]:
        """Its sort key by the last patient."""
        return self.collection, self.last

    @property
    def range(self) -> tuple[int, int]:
        """Its byte range in the extent."""
        return self.offset, self.offset + self.size


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """An extent of adjacent pieces, followed by its directory: the list of these pieces."""

    extent: str
    first: tuple[str, str]
    last: tuple[str, str]
    """The start of the first piece and the end of the last one."""
    offset: int
    """The offset of the directory in the extent."""
    size: int
    hash: int
    """The 64-bit XXH3 hash of the encoded directory."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Blocks sorted by collection and id, which do not overlap."""

    name: str
    level: int
    """0 for a run from the log; merged runs have one more than their sources."""
    blocks: tuple[Block, ...]
    segments: tuple[Segment, ...]
    """The same versions by compartment."""

    @property
    def collections(self) -> Iterator[str]:
        """The names of its collections, found without reading every block."""
        index = 0
        while index < len(self.blocks):
            yield self.blocks[index].collection
            index = bisect_right(self.blocks, self.blocks[index].collection, key=_COLLECTION)

    def blocks_of(self, collection: str) -> Sequence[Block]:
        """Return the blocks of a collection."""
        first = bisect_left(self.blocks, collection, key=_COLLECTION)
        return self.blocks[first : bisect_right(self.blocks, collection, key=_COLLECTION)]

    @property
    def extents(self) -> set[str]:
        """The keys of all its objects."""
        blocks = {block.extent for block in self.blocks}
        return blocks | {segment.extent for segment in self.segments}


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """All versions of the commits up to one of them, in sorted runs."""

    through: int = 0
    """The number of the last commit whose rows are in the runs."""
    runs: tuple[Run, ...] = ()


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """An object of the log: rows, followed by their lines in the same order, or a checkpoint."""

    number: int
    """Its number in the log, to detect an object under the key of another one."""
    token: str
    """A random token, by which a writer recognizes its own commit."""
    stamp: int
    """The stamp of its rows; not below that of the commit before, and above it with rows."""
    rows: tuple[tuple[str, tuple[Row, ...]], ...] = ()
    """By collection."""
    checkpoint: Checkpoint | None = None


class StoredRow(NamedTuple):
    """A row, and the location of its line."""

    row: Row
    block: Block | None
    """None if the line is in memory."""
    offset: int
    """The offset of the line in the extent."""
    line: bytes | None
    """The line if it is in memory."""


_encoder = msgspec.msgpack.Encoder()
_commits = msgspec.msgpack.Decoder(Commit)
_rows = msgspec.msgpack.Decoder(list[Row])
_pieces = msgspec.msgpack.Decoder(list[Piece])


def collection_of(key: TypeKey | ResourceKey) -> str:
    """Return the stored name of a collection."""
    return f"{key.tenant}/{key.fhir_version}/{key.resource_type}"


def key_of(collection: str) -> TypeKey:
    """Return the key of a collection from its stored name."""
    tenant, fhir_version, resource_type = collection.split("/")
    return TypeKey(tenant, FHIRVersion(fhir_version), resource_type)


def encode_commit(commit: Commit, lines: Iterable[bytes]) -> bytes:
    """Return the object of a commit; `lines` are those of its rows, without deletions."""
    head = _encoder.encode(commit)
    sums = len(head).to_bytes(8, "big") + xxh3_64_intdigest(head).to_bytes(8, "big")
    return b"".join((_MAGIC, sums, head, *lines))


def decode_commit(number: int, body: bytes) -> tuple[Commit, list[bytes]]:
    """
    Return a commit and its lines.

    Raises:
        BackendError: The object is damaged.
    """
    end = _HEAD + int.from_bytes(body[len(_MAGIC) : len(_MAGIC) + 8], "big")
    head = body[_HEAD:end]
    expected = int.from_bytes(body[len(_MAGIC) + 8 : _HEAD], "big")
    if body[: len(_MAGIC)] != _MAGIC or xxh3_64_intdigest(head) != expected:
        raise _damaged_commit(number)
    commit, lines = _commits.decode(head), list[bytes]()
    for _, rows in commit.rows:
        for row in rows:
            if not row.deleted:
                lines.append(body[end : end + row.size])
                end += row.size
    if end != len(body) or commit.number != number:
        raise _damaged_commit(number)
    return commit, lines


def _damaged_commit(number: int) -> BackendError:
    return BackendError(
        f"commit {number} of the primary bucket is damaged; restore the object from a backup"
    )


def encode_rows(rows: Sequence[Row]) -> bytes:
    """Return the encoded rows of a block."""
    return _encoder.encode(rows)


def decode_rows(block: Block, encoded: bytes) -> list[Row]:
    """
    Return the rows of a block.

    Raises:
        BackendError: They are damaged.
    """
    require_intact(block, encoded, block.row_hash)
    return _rows.decode(encoded)


def offset_of(block: Block, rows: Sequence[Row], index: int) -> int:
    """Return the offset in the extent of the line of the row with an index."""
    return block.offset + sum(row.size + 1 for row in rows[:index])


def found_rows(block: Block, rows: Sequence[Row]) -> list[StoredRow]:
    """Return all rows of a block with the offsets of their lines."""
    sizes = (row.size + 1 for row in rows)  # 0 for a deletion
    offsets = accumulate(sizes, initial=block.offset)
    return [
        StoredRow(row, block, offset, None) for row, offset in zip(rows, offsets, strict=False)
    ]


def encode_directory(pieces: Sequence[Piece]) -> bytes:
    """Return the encoded directory of a segment."""
    return _encoder.encode(pieces)


def decode_directory(segment: Segment, encoded: bytes) -> list[Piece]:
    """
    Return the pieces of a segment.

    Raises:
        BackendError: The directory is damaged.
    """
    require_intact(segment, encoded, segment.hash)
    return _pieces.decode(encoded)


def hash_id(resource_id: str) -> int:
    """Return the 64-bit hash of an id."""
    return xxh3_64_intdigest(resource_id.encode())


def encode_hashes(ids: Iterable[str]) -> bytes:
    """Return the sorted hashes of ids, 8 bytes each and the lowest first."""
    hashes = array("Q", sorted(map(hash_id, ids)))
    return _little(hashes).tobytes()


def decode_hashes(block: Block, encoded: bytes) -> "array[int]":
    """
    Return the hashes of the ids of a block.

    Raises:
        BackendError: They are damaged.
    """
    require_intact(block, encoded, block.id_hash)
    hashes = array("Q")
    hashes.frombytes(encoded)
    return _little(hashes)


def holds(hashes: "array[int]", hashed: int) -> bool:
    """Return whether a hash is in sorted hashes."""
    index = bisect_left(hashes, hashed)
    return index < len(hashes) and hashes[index] == hashed


def require_intact(part: Block | Segment, encoded: bytes, expected: int) -> None:
    """
    Check that a part of an extent agrees with its hash.

    Raises:
        BackendError: The part is damaged.
    """
    if xxh3_64_intdigest(encoded) != expected:
        raise BackendError(
            f"extent {part.extent} of the primary bucket is damaged; restore the object from a"
            " backup"
        )


def _little(hashes: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes
