"""Rows: finding rows in the runs and the tail of the log, and reading their lines."""

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Generic, TypeAlias, TypeVar

from helios_core import BackendError, in_thread
from helios_s3.encoding import (
    Block,
    Piece,
    Run,
    Segment,
    StoredRow,
    decode_directory,
    decode_hashes,
    decode_rows,
    found_rows,
    hash_id,
    holds,
    offset_of,
)
from helios_s3.log import Log, Moment
from helios_s3.objects import MissingObject
from helios_s3.tail import Tail

T = TypeVar("T")

Hashes: TypeAlias = "array[int]"

ROW_CACHE_BYTES = 24 * 1024 * 1024
HASH_CACHE_BYTES = 24 * 1024 * 1024
DIRECTORY_CACHE_BYTES = 8 * 1024 * 1024
TAIL_AT_ONCE = 4096
"""How many ids of the tail are in one window."""
GAP_BYTES = 64 * 1024
"""Lines that are not further apart than this are read as one range."""
SPAN_BYTES = 4 * 1024 * 1024
"""The span of ranges in an extent that one request reads."""
LINES_AT_ONCE = 5 * 1024 * 1024
"""Blocks with more bytes of lines are never read as a whole."""
WHOLE_AT_ONCE = 2
REQUESTS_AT_ONCE = 8
REPEATS = 5

_ID = attrgetter("id")
_END_OF_RANGE = itemgetter(1)


class Rows:
    """The rows of all collections, as far as the log was read."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._encoded = _Cache[bytes](ROW_CACHE_BYTES)
        self._hashes = _Cache[Hashes](HASH_CACHE_BYTES)
        self._directories = _Cache[bytes](DIRECTORY_CACHE_BYTES)
        self._requests = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._whole = asyncio.Semaphore(WHOLE_AT_ONCE)

    async def repeated(self, read: Callable[[Moment], Awaitable[T]]) -> T:
        """Return the result of a read; repeat it if an extent was removed meanwhile."""
        for _ in range(REPEATS):
            try:
                return await read(self.log.state.moment)
            except MissingObject:
                await self.log.reload()
        raise BackendError(
            "an extent of the primary bucket's checkpoint is missing; restore the object from"
            " a backup"
        )

    async def find(self, collection: str, ids: Collection[str]) -> dict[str, list[StoredRow]]:
        """Return all versions of ids, oldest first, by id."""
        return await self.repeated(lambda moment: self.find_in(moment, collection, ids))

    async def find_in(
        self, moment: Moment, collection: str, ids: Collection[str]
    ) -> dict[str, list[StoredRow]]:
        """
        Return all versions of ids at one moment, oldest first, by id.

        Raises:
            MissingObject: An extent was removed meanwhile.
        """
        sorted_ids = sorted(set(ids))
        tail = moment.tail.versions(collection, sorted_ids)
        reads = [
            self._find_in_block(block, within)
            for run in moment.runs
            for block, within in _blocks_of_ids(run, collection, sorted_ids)
        ]
        versions = defaultdict[str, list[StoredRow]](list)
        for found in await asyncio.gather(*reads):
            for stored in found:
                versions[stored.row.id].append(stored)
        for resource_id, found in tail.items():
            versions[resource_id] += found
        for found in versions.values():
            found.sort(key=_version)
        return versions

    def keep_hashes(self, block: Block, encoded: bytes) -> Hashes:
        """Return the hashes of the ids of a block, and cache them."""
        hashes = decode_hashes(block, encoded)
        self._hashes.put(block, hashes, len(hashes) * hashes.itemsize)
        return hashes

    async def scan(
        self, collection: str, start: str | None, end: str | None, *, with_lines: bool = False
    ) -> AsyncIterator[list[StoredRow]]:
        """
        Yield the sorted rows of ids from `start`, inclusive, to `end`, exclusive, in windows.

        All versions of an id are in one window. Versions that are committed meanwhile may be
        included or not. `with_lines` reads whole blocks, for callers that need nearly all lines.
        """
        window = _Window(collection, start or "", end, with_lines=with_lines)
        while not window.at_end:
            yield await self.repeated(
                lambda moment: self._window(moment.runs, moment.tail, window)
            )

    async def of_block(self, block: Block) -> list[StoredRow]:
        """
        Return the rows of a block, and cache them.

        Raises:
            MissingObject: Its extent was removed meanwhile.
        """
        return await in_thread(_decode_found, block, await self._cached(block))

    def keep_directory(self, segment: Segment, encoded: bytes) -> None:
        """Cache the directory of a segment."""
        self._directories.put(segment, encoded, len(encoded))

    async def directory(self, segment: Segment) -> list[Piece]:
        """
        Return the pieces of a segment, and cache them.

        Raises:
            MissingObject: The segment was removed meanwhile.
        """
        encoded = self._directories.get(segment)
        if encoded is None:
            directory = (segment.offset, segment.offset + segment.size)
            [encoded] = await self.ranges(segment.extent, [directory])
            self.keep_directory(segment, encoded)
        return await in_thread(decode_directory, segment, encoded)

    async def ranges(self, extent: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """
        Return ranges of an extent, by at most `REQUESTS_AT_ONCE` concurrent requests.

        Raises:
            MissingObject: The extent was removed meanwhile.
        """
        async with self._requests:
            return await self.log.objects.ranges(extent, ranges)

    async def scan_runs(
        self, runs: Sequence[Run], collection: str
    ) -> AsyncIterator[list[StoredRow]]:
        """
        Yield the rows of a collection in several runs, merged and sorted, in windows.

        Raises:
            MissingObject: An extent was removed meanwhile.
        """
        window = _Window(collection, "", None, with_lines=True)
        while not window.at_end:
            yield await self._window(runs, None, window)

    async def lines(self, collection: str, found: Sequence[StoredRow]) -> list[bytes]:
        """Return the line of each row; none of them may be a deletion."""
        try:
            return await self.stored_lines(found)
        except MissingObject:
            await self.log.reload()

        async def again(moment: Moment) -> list[bytes]:
            moved = await self.find_in(moment, collection, {stored.row.id for stored in found})
            by_version = {
                (stored.row.id, stored.row.version_id): stored
                for versions in moved.values()
                for stored in versions
            }
            return await self.stored_lines(
                [by_version[stored.row.id, stored.row.version_id] for stored in found]
            )

        return await self.repeated(again)

    async def stored_lines(self, found: Sequence[StoredRow]) -> list[bytes]:
        """
        Return the line of each row from its stored location, an empty one for a deletion.

        Raises:
            MissingObject: An extent was removed meanwhile.
        """
        by_extent = defaultdict[str, list[int]](list)
        lines = [stored.line or b"" for stored in found]
        for index, stored in enumerate(found):
            if stored.block is not None and not stored.row.deleted:
                by_extent[stored.block.extent].append(index)
        await asyncio.gather(
            *(self._read_lines(name, found, indexes, lines) for name, indexes in by_extent.items())
        )
        return lines

    async def _read_lines(
        self, extent: str, found: Sequence[StoredRow], indexes: list[int], lines: list[bytes]
    ) -> None:
        indexes.sort(key=lambda index: found[index].offset)
        ranges, members = list[tuple[int, int]](), list[list[int]]()
        for index in indexes:
            begin = found[index].offset
            end = begin + found[index].row.size
            if ranges and begin - ranges[-1][1] <= GAP_BYTES:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
                members[-1].append(index)
            else:
                ranges.append((begin, end))
                members.append([index])
        first = 0
        while first < len(ranges):
            # The driver also reads bytes between ranges, so one request must not span too much.
            limit = max(ranges[first][0] + SPAN_BYTES, ranges[first][1])
            after = bisect_right(ranges, limit, lo=first, key=_END_OF_RANGE)
            pieces = await self.ranges(extent, ranges[first:after])
            for (begin, _), piece, of_piece in zip(
                ranges[first:after], pieces, members[first:after], strict=True
            ):
                for index in of_piece:
                    skipped = found[index].offset - begin
                    lines[index] = piece[skipped : skipped + found[index].row.size]
            first = after

    async def _window(
        self, runs: Sequence[Run], tail: Tail | None, window: "_Window"
    ) -> list[StoredRow]:
        """Return the rows of a window, and advance the window."""
        collection, start, end = window.collection, window.start, window.end
        rows, bound = list[StoredRow](), None
        if tail is not None:
            rows, bound = tail.between(collection, start, end, most=TAIL_AT_ONCE)
        blocks = list[Block]()
        for run in runs:
            index = _first_block(run, collection, start)
            if not _is_within(run, index, collection, end):
                continue
            blocks.append(run.blocks[index])
            if _is_within(run, index + 1, collection, end):
                last = run.blocks[index].last
                bound = last if bound is None else min(bound, last)
        loaded = await asyncio.gather(*(self._loaded(window, block) for block in blocks))
        window.loaded.clear()
        for block, of_block in zip(blocks, loaded, strict=True):
            ids = [stored.row.id for stored in of_block]
            first = bisect_left(ids, start)
            after = len(ids) if end is None else bisect_left(ids, end)
            if bound is not None:
                after = min(after, bisect_right(ids, bound))
            rows += of_block[first:after]
            if bound is not None and block.last > bound:
                window.loaded[block.extent, block.offset] = of_block[after:]
        if bound is not None:
            rows = [stored for stored in rows if stored.row.id <= bound]
        rows.sort(key=_id_and_version)
        window.start, window.at_end = (bound or "") + "\0", bound is None
        return rows

    async def _loaded(self, window: "_Window", block: Block) -> list[StoredRow]:
        found = window.loaded.get((block.extent, block.offset))
        if found is not None:
            return found
        if window.with_lines and block.line_bytes <= LINES_AT_ONCE:
            async with self._whole:
                text = await self._range(block, (block.offset, block.row_range[1]))
                return await in_thread(_found_with_lines, block, text)
        encoded = self._encoded.get(block) or await self._range(block, block.row_range)
        return await in_thread(_decode_found, block, encoded)

    async def _find_in_block(self, block: Block, ids: Sequence[str]) -> list[StoredRow]:
        hashes = self._hashes.get(block)
        if hashes is None:
            hashes = self.keep_hashes(block, await self._range(block, block.id_range))
        present = [resource_id for resource_id in ids if holds(hashes, hash_id(resource_id))]
        if not present:
            return []
        return await in_thread(_pick, block, await self._cached(block), present)

    async def _cached(self, block: Block) -> bytes:
        """Return the encoded rows of a block, and cache them."""
        encoded = self._encoded.get(block)
        if encoded is None:
            encoded = await self._range(block, block.row_range)
            self._encoded.put(block, encoded, len(encoded))
        return encoded

    async def _range(self, block: Block, begin_and_end: tuple[int, int]) -> bytes:
        return (await self.ranges(block.extent, [begin_and_end]))[0]


class _Window:
    """The progress of a scan."""

    def __init__(self, collection: str, start: str, end: str | None, *, with_lines: bool) -> None:
        self.collection = collection
        self.start = start
        self.end = end
        self.with_lines = with_lines
        self.at_end = False
        self.loaded = dict[tuple[str, int], list[StoredRow]]()
        """The remaining rows of blocks that extend beyond the last window."""


class _Cache(Generic[T]):
    """A least recently used cache of blocks or segments, limited by bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._entries = OrderedDict[tuple[str, int], tuple[T, int]]()

    def get(self, part: Block | Segment) -> T | None:
        key = (part.extent, part.offset)
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, part: Block | Segment, value: T, size: int) -> None:
        key = (part.extent, part.offset)
        if key in self._entries:
            return
        self._entries[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most and len(self._entries) > 1:
            _, (_, gone) = self._entries.popitem(last=False)
            self._bytes -= gone


def current_at(rows: Iterable[StoredRow], stamp: int) -> list[StoredRow]:
    """Return those of sorted rows that were current at a stamp, deletions included."""
    current = list[StoredRow]()
    for stored in rows:
        if stored.row.stamp > stamp:
            continue
        if current and current[-1].row.id == stored.row.id:
            current[-1] = stored
        else:
            current.append(stored)
    return current


def _blocks_of_ids(
    run: Run, collection: str, ids: Sequence[str]
) -> Iterable[tuple[Block, Sequence[str]]]:
    """Yield the blocks of a run that may have any of these sorted ids, with these ids."""
    first = 0
    while first < len(ids):
        index = _first_block(run, collection, ids[first])
        if not _is_within(run, index, collection, None):
            return
        block = run.blocks[index]
        low = bisect_left(ids, block.first, lo=first)
        high = bisect_right(ids, block.last, lo=first)
        if low < high:
            yield block, ids[low:high]
        first = high


def _first_block(run: Run, collection: str, resource_id: str) -> int:
    """Return the index of the first block that ends at an id or after it."""
    return bisect_left(run.blocks, (collection, resource_id), key=_end_of)


def _is_within(run: Run, index: int, collection: str, end: str | None) -> bool:
    """Return whether the block with an index exists, in a collection and before an end."""
    if index >= len(run.blocks) or run.blocks[index].collection != collection:
        return False
    return end is None or run.blocks[index].first < end


def _pick(block: Block, encoded: bytes, ids: Sequence[str]) -> list[StoredRow]:
    rows = decode_rows(block, encoded)
    picked = list[StoredRow]()
    for resource_id in ids:
        index = bisect_left(rows, resource_id, key=_ID)
        while index < len(rows) and rows[index].id == resource_id:
            picked.append(StoredRow(rows[index], block, offset_of(block, rows, index), None))
            index += 1
    return picked


def _decode_found(block: Block, encoded: bytes) -> list[StoredRow]:
    return found_rows(block, decode_rows(block, encoded))


def _found_with_lines(block: Block, text: bytes) -> list[StoredRow]:
    """Return all rows of a block with their lines; `text` is the lines, then the rows."""
    return [
        stored._replace(block=None, line=_line_of(stored, text, block.offset))
        for stored in _decode_found(block, text[block.line_bytes :])
    ]


def _line_of(found: StoredRow, text: bytes, offset: int) -> bytes | None:
    begin = found.offset - offset
    return None if found.row.deleted else text[begin : begin + found.row.size]


def _end_of(block: Block) -> tuple[str, str]:
    return block.collection, block.last


def _version(found: StoredRow) -> int:
    return found.row.version_id


def _id_and_version(found: StoredRow) -> tuple[str, int]:
    return found.row.id, found.row.version_id
