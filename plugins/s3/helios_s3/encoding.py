"""What is written to the primary bucket: commits, rows, blocks, and their encoding."""

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
"""How long the hash of an id is."""

MOST_PATIENTS = 16
"""A version of more patients is not in their compartments, but in one that is always read."""

SHARED = "*"
"""The compartment that is always read; no id is lower."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version of a resource, without its content."""

    id: str
    version_id: int
    stamp: int
    """When it became current."""
    size: int
    """The bytes of its line, -1 for a deletion."""
    content_hash: int
    """As `Resource.content_hash`; 0 for a deletion."""
    line_hash: int
    """As `line_hash` of the line; 0 for a deletion."""
    patients: str
    """The ids of the patients whose compartments it is in; a deletion keeps those before it."""
    left: str = ""
    """The ids of those whose compartments only the version before was in."""

    @property
    def deleted(self) -> bool:
        """Whether it is a deletion."""
        return self.size == _DELETED

    @property
    def compartments(self) -> Collection[str]:
        """The compartments in which it is, be it as what left them."""
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
    """Where the block begins in the extent."""
    line_bytes: int
    row_bytes: int
    row_hash: int
    """The 64-bit XXH3 hash of the encoded rows."""
    ids: int
    """How many different ids there are."""
    id_hash: int
    """The 64-bit XXH3 hash of the encoded hashes of the ids."""

    @property
    def row_range(self) -> tuple[int, int]:
        """Where in the extent the rows are."""
        begin = self.offset + self.line_bytes
        return begin, begin + self.row_bytes

    @property
    def id_range(self) -> tuple[int, int]:
        """Where in the extent the hashes of the ids are."""
        begin = self.offset + self.line_bytes + self.row_bytes
        return begin, begin + self.ids * HASH_BYTES


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Some versions of one collection in the compartments of some patients, compressed."""

    collection: str
    first: str
    last: str
    """The lowest and the highest of the patients."""
    patients: int
    rows: int
    bytes: int
    """About what its lines have."""
    offset: int
    size: int
    hash: int
    """The 64-bit XXH3 hash of the compressed bytes."""

    @property
    def start(self) -> tuple[str, str]:
        """What sorts it by where it begins."""
        return self.collection, self.first

    @property
    def end(self) -> tuple[str, str]:
        """What sorts it by where it ends."""
        return self.collection, self.last

    @property
    def range(self) -> tuple[int, int]:
        """Where in the extent it is."""
        return self.offset, self.offset + self.size


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """An extent of pieces that follow each other, and of the list of these pieces."""

    extent: str
    first: tuple[str, str]
    last: tuple[str, str]
    """The start of the first piece and the end of the last one."""
    offset: int
    """Where the list begins in the extent."""
    size: int
    hash: int
    """The 64-bit XXH3 hash of the encoded list."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Blocks that follow each other by collection and id, and do not overlap."""

    name: str
    level: int
    """0 as it comes from the log; one more each time that runs are merged."""
    blocks: tuple[Block, ...]
    segments: tuple[Segment, ...]
    """The same versions, as they are in compartments."""

    @property
    def collections(self) -> Iterator[str]:
        """The names of the collections that it has rows of, without a look at every block."""
        place = 0
        while place < len(self.blocks):
            yield self.blocks[place].collection
            place = bisect_right(self.blocks, self.blocks[place].collection, key=_COLLECTION)

    def blocks_of(self, collection: str) -> Sequence[Block]:
        """Return the blocks of a collection."""
        first = bisect_left(self.blocks, collection, key=_COLLECTION)
        return self.blocks[first : bisect_right(self.blocks, collection, key=_COLLECTION)]

    @property
    def extents(self) -> set[str]:
        """The names of all objects that it needs."""
        return {block.extent for block in self.blocks} | {each.extent for each in self.segments}


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """All that the commits up to one of them have written, as sorted runs."""

    through: int = 0
    """The number of the last commit whose rows are in the runs."""
    runs: tuple[Run, ...] = ()


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """One object of the log: rows, whose lines follow it in their order, or a checkpoint."""

    number: int
    """Its place in the log, by which one is noticed that lies in the place of another."""
    token: str
    """What tells the writer of the commit from others that tried to make it."""
    stamp: int
    """The stamp of its rows; at least that of the commit before, and more if it has rows."""
    rows: tuple[tuple[str, tuple[Row, ...]], ...] = ()
    """By collection."""
    checkpoint: Checkpoint | None = None


class Found(NamedTuple):
    """A row, and where its line is."""

    row: Row
    block: Block | None
    """None if the line is in memory."""
    offset: int
    """Where the line begins in the extent."""
    line: bytes | None
    """The line if it is in memory."""


_encoder = msgspec.msgpack.Encoder()
_commits = msgspec.msgpack.Decoder(Commit)
_rows = msgspec.msgpack.Decoder(list[Row])
_pieces = msgspec.msgpack.Decoder(list[Piece])


def collection_of(key: TypeKey | ResourceKey) -> str:
    """Return the name under which a collection is stored."""
    return f"{key.tenant}/{key.fhir_version}/{key.resource_type}"


def key_of(collection: str) -> TypeKey:
    """Return the key of a collection by the name under which it is stored."""
    tenant, fhir_version, resource_type = collection.split("/")
    return TypeKey(tenant, FHIRVersion(fhir_version), resource_type)


def encode_commit(commit: Commit, lines: Iterable[bytes]) -> bytes:
    """Return the object of a commit; `lines` are those of its rows that have any."""
    head = _encoder.encode(commit)
    sums = len(head).to_bytes(8, "big") + xxh3_64_intdigest(head).to_bytes(8, "big")
    return b"".join((_MAGIC, sums, head, *lines))


def decode_commit(number: int, body: bytes) -> tuple[Commit, list[bytes]]:
    """
    Return a commit and the lines behind it.

    Raises:
        BackendError: It is not what was written.
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
    """Return the rows of a block as they are stored."""
    return _encoder.encode(rows)


def decode_rows(block: Block, encoded: bytes) -> list[Row]:
    """
    Return the rows of a block.

    Raises:
        BackendError: They are not what was written.
    """
    require_intact(block, encoded, block.row_hash)
    return _rows.decode(encoded)


def offset_of(block: Block, rows: Sequence[Row], place: int) -> int:
    """Return where in the extent the line of one of the rows of a block begins."""
    return block.offset + sum(row.size + 1 for row in rows[:place])


def found_rows(block: Block, rows: Sequence[Row]) -> list[Found]:
    """Return all rows of a block with the offsets of their lines."""
    sizes = (row.size + 1 for row in rows)  # of a deletion that is 0
    offsets = accumulate(sizes, initial=block.offset)
    return [Found(row, block, offset, None) for row, offset in zip(rows, offsets, strict=False)]


def encode_directory(pieces: Sequence[Piece]) -> bytes:
    """Return the list of the pieces of a segment as it is stored."""
    return _encoder.encode(pieces)


def decode_directory(segment: Segment, encoded: bytes) -> list[Piece]:
    """
    Return the pieces of a segment.

    Raises:
        BackendError: The list is not what was written.
    """
    require_intact(segment, encoded, segment.hash)
    return _pieces.decode(encoded)


def hash_id(resource_id: str) -> int:
    """Return the hash of an id in the list that a block has of its ids."""
    return xxh3_64_intdigest(resource_id.encode())


def encode_hashes(ids: Iterable[str]) -> bytes:
    """Return the sorted hashes of ids, 8 bytes each and the lowest first."""
    hashes = array("Q", sorted(hash_id(each) for each in ids))
    return _little(hashes).tobytes()


def decode_hashes(block: Block, encoded: bytes) -> "array[int]":
    """
    Return the hashes of the ids of a block.

    Raises:
        BackendError: They are not what was written.
    """
    require_intact(block, encoded, block.id_hash)
    hashes = array("Q")
    hashes.frombytes(encoded)
    return _little(hashes)


def holds(hashes: "array[int]", hashed: int) -> bool:
    """Return whether a hash is among sorted ones."""
    place = bisect_left(hashes, hashed)
    return place < len(hashes) and hashes[place] == hashed


def require_intact(place: Block | Segment, encoded: bytes, expected: int) -> None:
    """
    Compare a part of an extent with its hash.

    Raises:
        BackendError: It is not what was written.
    """
    if xxh3_64_intdigest(encoded) != expected:
        raise BackendError(
            f"extent {place.extent} of the primary bucket is damaged; restore the object from a"
            " backup"
        )


def _little(hashes: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes
