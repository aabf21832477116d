"""
Compartments: copies of versions, grouped by patient.

Each run has such copies beside its blocks, sorted by collection, patient, id and version, in
compressed pieces. So the cost of a cohort depends on its patients' resources, not on the size of
collections. A version is in the compartments of its patients, and in those that the resource
leaves with it, so that the last version in a compartment says whether the resource is still in it.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from uuid import uuid4

import msgspec
from isal import isal_zlib
from xxhash import xxh3_64_intdigest

from helios_core import ExportView, Shard, TypeKey, in_thread
from helios_s3.encoding import (
    SHARED,
    Piece,
    Row,
    Run,
    Segment,
    StoredRow,
    collection_of,
    encode_directory,
    require_intact,
)
from helios_s3.log import Moment
from helios_s3.rows import Rows, current_at
from helios_s3.tail import Tail
from helios_s3.views import Shown, shown_by

PIECE_BYTES = 128 * 1024
PIECE_ROWS = 256
"""Limits of a piece, so that a patient with few resources is not read with thousands of others."""
SEGMENT_BYTES = 8 * 1024 * 1024

MARK = "~"
"""The prefix of shard bounds that are patients instead of resource ids."""

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PATIENTS = 256

AHEAD_BYTES = 1024 * 1024
"""How many bytes of a segment one request reads if the whole segment is read."""

LEVEL = 1
"""The compression level of pieces: the fastest."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version in one compartment."""

    patient: str
    row: Row
    line: bytes
    """Empty for a deletion."""


_encoder = msgspec.msgpack.Encoder()
_entries = msgspec.msgpack.Decoder(list[Entry])


def sorted_entries(found: Iterable[StoredRow]) -> list[Entry]:
    """Return the sorted entries of versions whose lines are in memory."""
    entries = [
        Entry(patient, stored.row, stored.line or b"")
        for stored in found
        for patient in stored.row.compartments
    ]
    entries.sort(key=_order)
    return entries


class CompartmentWriter:
    """Writes sorted entries into segments."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._segments = list[Segment]()
        self._packed = list[bytes]()
        self._pieces = list[Piece]()
        self._size = 0
        self._collection = ""
        self._entries = list[Entry]()
        self._bytes = 0

    async def add(self, collection: str, entries: Iterable[Entry]) -> None:
        """Add the next entries, all of one collection."""
        for entry in entries:
            full = self._bytes >= PIECE_BYTES or len(self._entries) >= PIECE_ROWS
            if full or collection != self._collection:
                await self._end_piece()
                self._collection = collection
            self._entries.append(entry)
            self._bytes += len(entry.line) + len(entry.row.patients) + 1

    async def finish(self) -> tuple[Segment, ...]:
        """Return the segments, after writing all of them."""
        await self._end_piece()
        await self._end_segment()
        return tuple(self._segments)

    async def _end_piece(self) -> None:
        if not self._entries:
            return
        packed = await in_thread(_pack, self._entries)
        self._pieces.append(
            Piece(
                collection=self._collection,
                first=self._entries[0].patient,
                last=self._entries[-1].patient,
                patients=len({entry.patient for entry in self._entries}),
                rows=len(self._entries),
                bytes=self._bytes,
                offset=self._size,
                size=len(packed),
                hash=xxh3_64_intdigest(packed),
            )
        )
        self._packed.append(packed)
        self._size += len(packed)
        self._entries, self._bytes = [], 0
        if self._size >= SEGMENT_BYTES:
            await self._end_segment()

    async def _end_segment(self) -> None:
        if not self._pieces:
            return
        directory = encode_directory(self._pieces)
        segment = Segment(
            extent=f"extents/{uuid4().hex}",
            first=self._pieces[0].start,
            last=self._pieces[-1].end,
            offset=self._size,
            size=len(directory),
            hash=xxh3_64_intdigest(directory),
        )
        await self._rows.log.objects.put(segment.extent, b"".join((*self._packed, directory)))
        self._rows.keep_directory(segment, directory)
        self._segments.append(segment)
        self._packed, self._pieces, self._size = [], [], 0


async def merged_entries(
    rows: Rows, runs: Sequence[Run], collection: str
) -> AsyncIterator[list[Entry]]:
    """
    Yield the entries of a collection in several runs, merged and sorted, in windows.

    Raises:
        MissingObject: A segment was removed meanwhile.
    """
    readers = [_Reader(rows, await _pieces_of(rows, run, collection)) for run in runs]
    while True:
        await asyncio.gather(*(reader.fill() for reader in readers))
        bound = min(
            (_order(reader.read[-1]) for reader in readers if reader.has_more), default=None
        )
        window = [entry for reader in readers for entry in reader.take(bound)]
        if not window:
            return
        window.sort(key=_order)
        yield window


class _Reader:
    """Reads the pieces of one run in order, several per request."""

    def __init__(self, rows: Rows, pieces: Sequence[tuple[Segment, Piece]]) -> None:
        self.read = list[Entry]()
        self._rows = rows
        self._pieces = deque(pieces)
        self._packed = deque[tuple[Segment, Piece, bytes]]()

    @property
    def has_more(self) -> bool:
        """Whether there are pieces that were not read yet."""
        return bool(self._packed or self._pieces)

    async def fill(self) -> None:
        """Read the next piece if all entries before were taken."""
        if self.read or not self.has_more:
            return
        if not self._packed:
            await self._fetch()
        self.read = await in_thread(_unpack, *self._packed.popleft())

    async def _fetch(self) -> None:
        segment, first = self._pieces[0]
        pieces, end = list[Piece](), first.offset
        while (
            self._pieces
            and self._pieces[0][0] is segment
            and (not pieces or self._pieces[0][1].range[1] - first.offset <= AHEAD_BYTES)
        ):
            _, piece = self._pieces.popleft()
            pieces.append(piece)
            end = piece.range[1]
        [packed] = await self._rows.ranges(segment.extent, [(first.offset, end)])
        for piece in pieces:
            begin, after = (offset - first.offset for offset in piece.range)
            self._packed.append((segment, piece, packed[begin:after]))

    def take(self, bound: tuple[str, str, int] | None) -> list[Entry]:
        """Remove and return the entries that were read, up to and including a bound."""
        end = len(self.read) if bound is None else bisect_right(self.read, bound, key=_order)
        taken, self.read = self.read[:end], self.read[end:]
        return taken


async def estimate(
    rows: Rows, view: ExportView, resource_type: str
) -> tuple[int, list[tuple[str, float, float]]]:
    """
    Return how many entries must be read for the cohort of a view, and estimates for its shards.

    Each estimate is a patient, and the resources and bytes from this patient on.
    """
    shown, collection = shown_by(view), collection_of(TypeKey.of(view.request, resource_type))
    patients = await in_thread(_patients_between, view, None, None)

    async def read(moment: Moment) -> tuple[list[Piece], Tail]:
        picked = await _picked(rows, moment.runs, collection, [SHARED, *patients])
        return [piece for _, piece in picked], moment.tail

    pieces, tail = await rows.repeated(read)
    parts = list[tuple[str, float, float]]()
    for piece in pieces:
        first, last = bisect_left(patients, piece.first), bisect_right(patients, piece.last)
        if first < last:
            share = min(1.0, (last - first) / piece.patients)
            parts.append((patients[first], piece.rows * share, piece.bytes * share))
    cohort = shown.patients or frozenset()
    for patient, stored in tail.in_compartments(collection, cohort):
        owner = _owner(shown, stored.row)
        if owner is not None and patient in (owner, SHARED):
            parts.append((owner, not stored.row.deleted, stored.row.size + 1))
    return sum(piece.rows for piece in pieces), sorted(parts)


async def shown_of_cohort(
    rows: Rows, view: ExportView, shard: Shard
) -> AsyncIterator[list[StoredRow]]:
    """
    Yield the rows of a shard's patients that a view shows, in windows, deletions included.

    The order is by patient and id. A resource of several patients is shown with the first of them
    that is in the cohort.
    """
    shown = shown_by(view)
    collection = collection_of(TypeKey.of(view.request, shard.resource_type))
    patients = await in_thread(_patients_between, view, shard.start, shard.end)
    while patients:

        async def following(
            moment: Moment, rest: Sequence[str] = patients
        ) -> tuple[list[str], list[Entry]]:
            return await _batch(rows, moment, collection, rest)

        batch, entries = await rows.repeated(following)
        yield await in_thread(_shown, shown, batch, entries)
        del entries  # or they would stay in memory while the next ones are read
        patients = patients[len(batch) :]


async def _batch(
    rows: Rows, moment: Moment, collection: str, patients: Sequence[str]
) -> tuple[list[str], list[Entry]]:
    """Return the next batch of patients, and all entries of their compartments."""
    batch = [*patients[:BATCH_PATIENTS]]
    while True:
        names = [SHARED, *batch]
        picked = await _picked(rows, moment.runs, collection, names)
        if len(batch) == 1 or sum(piece.bytes for _, piece in picked) <= BATCH_BYTES:
            break
        batch = batch[: len(batch) // 2]
    by_segment = defaultdict[Segment, list[Piece]](list)
    for segment, piece in picked:
        by_segment[segment].append(piece)
    compartments = frozenset(names)
    read = await asyncio.gather(
        *(_read(rows, segment, pieces, compartments) for segment, pieces in by_segment.items())
    )
    entries = [entry for of_segment in read for entry in of_segment]
    entries += (
        Entry(patient, stored.row, stored.line or b"")
        for patient, stored in moment.tail.in_compartments(collection, frozenset(batch))
    )
    return batch, entries


async def _read(
    rows: Rows, segment: Segment, pieces: Sequence[Piece], patients: frozenset[str]
) -> list[Entry]:
    packed = await rows.ranges(segment.extent, [piece.range for piece in pieces])

    def unpacked() -> list[Entry]:
        return [
            entry
            for piece, content in zip(pieces, packed, strict=True)
            for entry in _unpack(segment, piece, content)
            if entry.patient in patients
        ]

    return await in_thread(unpacked)


async def _pieces_of(rows: Rows, run: Run, collection: str) -> list[tuple[Segment, Piece]]:
    """Return all pieces of a collection in a run."""
    return [
        (segment, piece)
        for segment in run.segments
        if segment.first[0] <= collection <= segment.last[0]
        for piece in await rows.directory(segment)
        if piece.collection == collection
    ]


async def _picked(
    rows: Rows, runs: Sequence[Run], collection: str, patients: Sequence[str]
) -> list[tuple[Segment, Piece]]:
    """Return the pieces that may have entries of these sorted patients."""
    low, high = (collection, patients[0]), (collection, patients[-1])
    segments = [
        segment
        for run in runs
        for segment in run.segments
        if segment.first <= high and segment.last >= low
    ]
    directories = await asyncio.gather(*map(rows.directory, segments))
    return [
        (segment, piece)
        for segment, directory in zip(segments, directories, strict=True)
        for piece in _between(directory, low, high)
        if bisect_left(patients, piece.first) < bisect_right(patients, piece.last)
    ]


def _between(
    directory: Sequence[Piece], low: tuple[str, str], high: tuple[str, str]
) -> Iterator[Piece]:
    for piece in directory[bisect_left(directory, low, key=_end) :]:
        if piece.start > high:
            return
        yield piece


def _shown(shown: Shown, batch: Sequence[str], entries: Iterable[Entry]) -> list[StoredRow]:
    """Return the rows that are shown with one of the patients of a batch, by patient and id."""
    versions = {(entry.row.id, entry.row.version_id): entry for entry in entries}
    found = [
        StoredRow(entry.row, None, 0, None if entry.row.deleted else entry.line)
        for _, entry in sorted(versions.items())
    ]
    patients = frozenset(batch)
    with_owners = [
        (owner, stored)
        for stored in current_at(found, shown.at)
        if shown.shows(stored.row)
        and (owner := _owner(shown, stored.row)) is not None
        and owner in patients
    ]
    with_owners.sort(key=_owner_and_id)
    return [stored for _, stored in with_owners]


def _owner(shown: Shown, row: Row) -> str | None:
    """Return the patient of the cohort with whom a version is shown, or None."""
    cohort = shown.patients or frozenset()
    return min((patient for patient in row.patients.split() if patient in cohort), default=None)


def _patients_between(view: ExportView, start: str | None, end: str | None) -> list[str]:
    """Return the sorted patients of a cohort from `start`, inclusive, to `end`, exclusive."""
    patients = sorted(() if view.cohort is None else view.cohort.patients)
    first = 0 if start is None else bisect_left(patients, start.removeprefix(MARK))
    last = len(patients) if end is None else bisect_left(patients, end.removeprefix(MARK))
    return patients[first:last]


def _pack(entries: Sequence[Entry]) -> bytes:
    return isal_zlib.compress(_encoder.encode(entries), LEVEL)


def _unpack(segment: Segment, piece: Piece, packed: bytes) -> list[Entry]:
    require_intact(segment, packed, piece.hash)
    return _entries.decode(isal_zlib.decompress(packed))


def _order(entry: Entry) -> tuple[str, str, int]:
    return entry.patient, entry.row.id, entry.row.version_id


def _owner_and_id(owned: tuple[str, StoredRow]) -> tuple[str, str]:
    return owned[0], owned[1].row.id


def _end(piece: Piece) -> tuple[str, str]:
    return piece.end
