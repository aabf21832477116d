"""Find rows in the runs and in the tail of the log, and the lines that belong to them."""

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
    Found,
    Piece,
    Run,
    Segment,
    decode_directory,
    decode_hashes,
    decode_rows,
    found_rows,
    hash_id,
    holds,
    offset_of,
)
from helios_s3.log import Log, Moment
from helios_s3.objects import Missing
from helios_s3.tail import Tail

T = TypeVar("T")

Hashes: TypeAlias = "array[int]"

ROW_CACHE_BYTES = 24 * 1024 * 1024
HASH_CACHE_BYTES = 24 * 1024 * 1024
DIRECTORY_CACHE_BYTES = 8 * 1024 * 1024
TAIL_AT_ONCE = 4096
"""Ids of the tail in one window."""
GAP_BYTES = 64 * 1024
"""Bytes between two lines that are read along rather than asked for separately."""
SPAN_BYTES = 4 * 1024 * 1024
"""How far lines may lie apart that one request is for."""
LINES_AT_ONCE = 5 * 1024 * 1024
"""Larger blocks, which have large resources, are never read as a whole."""
WHOLE_AT_ONCE = 2
REQUESTS_AT_ONCE = 8
REPEATS = 5

_ID = attrgetter("id")
_END_OF_RANGE = itemgetter(1)


class Rows:
    """The rows of all collections, as of what a log knows."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._encoded = _Cache[bytes](ROW_CACHE_BYTES)
        self._hashes = _Cache[Hashes](HASH_CACHE_BYTES)
        self._directories = _Cache[bytes](DIRECTORY_CACHE_BYTES)
        self._requests = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._whole = asyncio.Semaphore(WHOLE_AT_ONCE)

    async def repeated(self, look: Callable[[Moment], Awaitable[T]]) -> T:
        """Return what a look at the log gives, again where an extent was removed."""
        for _ in range(REPEATS):
            try:
                return await look(self.log.state.moment)
            except Missing:
                await self.log.reload()
        raise BackendError(
            "the primary bucket lacks an extent that its checkpoint names; restore the object from"
            " a backup"
        )

    async def find(self, collection: str, ids: Collection[str]) -> dict[str, list[Found]]:
        """Return all versions of those ids that there are, the oldest first."""
        return await self.repeated(lambda moment: self.find_in(moment, collection, ids))

    async def find_in(
        self, moment: Moment, collection: str, ids: Collection[str]
    ) -> dict[str, list[Found]]:
        """
        Return all versions of ids at one moment.

        Raises:
            Missing: An extent was removed meanwhile.
        """
        wanted = sorted(set(ids))
        tail = moment.tail.versions(collection, wanted)
        asked = [
            self._find_in_block(block, within)
            for run in moment.runs
            for block, within in _blocks_of_ids(run, collection, wanted)
        ]
        versions = defaultdict[str, list[Found]](list)
        for found in await asyncio.gather(*asked):
            for each in found:
                versions[each.row.id].append(each)
        for resource_id, found in tail.items():
            versions[resource_id] += found
        for found in versions.values():
            found.sort(key=_version)
        return versions

    def keep_hashes(self, block: Block, encoded: bytes) -> Hashes:
        """Return the hashes of the ids of a block, and remember them."""
        hashes = decode_hashes(block, encoded)
        self._hashes.put(block, hashes, len(hashes) * hashes.itemsize)
        return hashes

    async def scan(
        self, collection: str, start: str | None, end: str | None, *, with_lines: bool = False
    ) -> AsyncIterator[list[Found]]:
        """
        Yield the rows of the ids from `start` up to, but without, `end`, sorted, in windows.

        All versions of an id are in one window. Those that are committed meanwhile may be there
        or not. `with_lines` reads blocks as a whole, for those who need nearly all lines.
        """
        window = _Window(collection, start or "", end, with_lines=with_lines)
        while not window.at_end:
            yield await self.repeated(
                lambda moment: self._window(moment.runs, moment.tail, window)
            )

    async def of_block(self, block: Block) -> list[Found]:
        """
        Return the rows of a block, and remember them.

        Raises:
            Missing: Its extent was removed meanwhile.
        """
        return await in_thread(_decode_found, block, await self._remembered(block))

    def keep_directory(self, segment: Segment, encoded: bytes) -> None:
        """Remember the pieces of a segment."""
        self._directories.put(segment, encoded, len(encoded))

    async def directory(self, segment: Segment) -> list[Piece]:
        """
        Return the pieces of a segment, and remember them.

        Raises:
            Missing: It was removed meanwhile.
        """
        encoded = self._directories.get(segment)
        if encoded is None:
            place = (segment.offset, segment.offset + segment.size)
            [encoded] = await self.ranges(segment.extent, [place])
            self.keep_directory(segment, encoded)
        return await in_thread(decode_directory, segment, encoded)

    async def ranges(self, extent: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """
        Return ranges of an extent, once there are not too many requests.

        Raises:
            Missing: It was removed meanwhile.
        """
        async with self._requests:
            return await self.log.objects.ranges(extent, ranges)

    async def scan_runs(self, runs: Sequence[Run], collection: str) -> AsyncIterator[list[Found]]:
        """
        Yield the rows of a collection in runs, sorted, in windows.

        Raises:
            Missing: An extent was removed meanwhile.
        """
        window = _Window(collection, "", None, with_lines=True)
        while not window.at_end:
            yield await self._window(runs, None, window)

    async def lines(self, collection: str, found: Sequence[Found]) -> list[bytes]:
        """Return the line of each row; none of them is a deletion."""
        try:
            return await self.stored_lines(found)
        except Missing:
            await self.log.reload()

        async def again(moment: Moment) -> list[bytes]:
            moved = await self.find_in(moment, collection, {each.row.id for each in found})
            places = {
                (each.row.id, each.row.version_id): each
                for versions in moved.values()
                for each in versions
            }
            return await self.stored_lines(
                [places[each.row.id, each.row.version_id] for each in found]
            )

        return await self.repeated(again)

    async def stored_lines(self, found: Sequence[Found]) -> list[bytes]:
        """
        Return the line of each row from where it is said to be; of a deletion it is empty.

        Raises:
            Missing: An extent was removed meanwhile.
        """
        by_extent = defaultdict[str, list[int]](list)
        lines = [each.line or b"" for each in found]
        for place, each in enumerate(found):
            if each.block is not None and not each.row.deleted:
                by_extent[each.block.extent].append(place)
        await asyncio.gather(
            *(self._read_lines(name, found, places, lines) for name, places in by_extent.items())
        )
        return lines

    async def _read_lines(
        self, extent: str, found: Sequence[Found], places: list[int], lines: list[bytes]
    ) -> None:
        places.sort(key=lambda place: found[place].offset)
        ranges, members = list[tuple[int, int]](), list[list[int]]()
        for place in places:
            begin = found[place].offset
            end = begin + found[place].row.size
            if ranges and begin - ranges[-1][1] <= GAP_BYTES:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
                members[-1].append(place)
            else:
                ranges.append((begin, end))
                members.append([place])
        first = 0
        while first < len(ranges):
            # What lies between ranges is read along: all of an extent would be too much at once.
            limit = max(ranges[first][0] + SPAN_BYTES, ranges[first][1])
            after = bisect_right(ranges, limit, lo=first, key=_END_OF_RANGE)
            pieces = await self.ranges(extent, ranges[first:after])
            for (begin, _), piece, of_piece in zip(
                ranges[first:after], pieces, members[first:after], strict=True
            ):
                for place in of_piece:
                    skipped = found[place].offset - begin
                    lines[place] = piece[skipped : skipped + found[place].row.size]
            first = after

    async def _window(
        self, runs: Sequence[Run], tail: Tail | None, window: "_Window"
    ) -> list[Found]:
        """Return the rows of a window, and move it behind them."""
        collection, start, end = window.collection, window.start, window.end
        rows, bound = list[Found](), None
        if tail is not None:
            rows, bound = tail.between(collection, start, end, most=TAIL_AT_ONCE)
        blocks = list[Block]()
        for run in runs:
            place = _first_block(run, collection, start)
            if not _reaches(run, place, collection, end):
                continue
            blocks.append(run.blocks[place])
            if _reaches(run, place + 1, collection, end):
                last = run.blocks[place].last
                bound = last if bound is None else min(bound, last)
        loaded = await asyncio.gather(*(self._loaded(window, block) for block in blocks))
        window.loaded.clear()
        for block, of_block in zip(blocks, loaded, strict=True):
            ids = [each.row.id for each in of_block]
            first = bisect_left(ids, start)
            last_place = len(ids) if end is None else bisect_left(ids, end)
            if bound is not None:
                last_place = min(last_place, bisect_right(ids, bound))
            rows += of_block[first:last_place]
            if bound is not None and block.last > bound:
                window.loaded[block.extent, block.offset] = of_block[last_place:]
        if bound is not None:
            rows = [each for each in rows if each.row.id <= bound]
        rows.sort(key=_id_and_version)
        window.start, window.at_end = (bound or "") + "\0", bound is None
        return rows

    async def _loaded(self, window: "_Window", block: Block) -> list[Found]:
        found = window.loaded.get((block.extent, block.offset))
        if found is not None:
            return found
        if window.with_lines and block.line_bytes <= LINES_AT_ONCE:
            async with self._whole:
                text = await self._range(block, (block.offset, block.row_range[1]))
                return await in_thread(_found_with_lines, block, text)
        encoded = self._encoded.get(block) or await self._range(block, block.row_range)
        return await in_thread(_decode_found, block, encoded)

    async def _find_in_block(self, block: Block, ids: Sequence[str]) -> list[Found]:
        hashes = self._hashes.get(block)
        if hashes is None:
            hashes = self.keep_hashes(block, await self._range(block, block.id_range))
        present = [each for each in ids if holds(hashes, hash_id(each))]
        if not present:
            return []
        return await in_thread(_pick, block, await self._remembered(block), present)

    async def _remembered(self, block: Block) -> bytes:
        """Return the encoded rows of a block, and remember them."""
        encoded = self._encoded.get(block)
        if encoded is None:
            encoded = await self._range(block, block.row_range)
            self._encoded.put(block, encoded, len(encoded))
        return encoded

    async def _range(self, block: Block, begin_and_end: tuple[int, int]) -> bytes:
        return (await self.ranges(block.extent, [begin_and_end]))[0]


class _Window:
    """Where a scan has got to."""

    def __init__(self, collection: str, start: str, end: str | None, *, with_lines: bool) -> None:
        self.collection = collection
        self.start = start
        self.end = end
        self.with_lines = with_lines
        self.at_end = False
        self.loaded = dict[tuple[str, int], list[Found]]()
        """Blocks that reach beyond the window before."""


class _Cache(Generic[T]):
    """What was read of extents, the least used of it gone where there is too much."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._entries = OrderedDict[tuple[str, int], tuple[T, int]]()

    def get(self, place: Block | Segment) -> T | None:
        key = (place.extent, place.offset)
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, place: Block | Segment, value: T, size: int) -> None:
        key = (place.extent, place.offset)
        if key in self._entries:
            return
        self._entries[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most and len(self._entries) > 1:
            _, (_, gone) = self._entries.popitem(last=False)
            self._bytes -= gone


def current_at(rows: Iterable[Found], stamp: int) -> list[Found]:
    """Return of sorted rows those that are current at an instant, deletions included."""
    current = list[Found]()
    for each in rows:
        if each.row.stamp > stamp:
            continue
        if current and current[-1].row.id == each.row.id:
            current[-1] = each
        else:
            current.append(each)
    return current


def _blocks_of_ids(
    run: Run, collection: str, ids: Sequence[str]
) -> Iterable[tuple[Block, Sequence[str]]]:
    """Yield the blocks that may have any of sorted ids, with these ids."""
    first = 0
    while first < len(ids):
        place = _first_block(run, collection, ids[first])
        if not _reaches(run, place, collection, None):
            return
        block = run.blocks[place]
        low = bisect_left(ids, block.first, lo=first)
        high = bisect_right(ids, block.last, lo=first)
        if low < high:
            yield block, ids[low:high]
        first = high


def _first_block(run: Run, collection: str, resource_id: str) -> int:
    """Return the place of the first block that ends at an id or behind it."""
    return bisect_left(run.blocks, (collection, resource_id), key=_end_of)


def _reaches(run: Run, place: int, collection: str, end: str | None) -> bool:
    """Return whether there is a block at a place, of a collection and beginning before an end."""
    if place >= len(run.blocks) or run.blocks[place].collection != collection:
        return False
    return end is None or run.blocks[place].first < end


def _pick(block: Block, encoded: bytes, ids: Sequence[str]) -> list[Found]:
    rows = decode_rows(block, encoded)
    picked = list[Found]()
    for resource_id in ids:
        place = bisect_left(rows, resource_id, key=_ID)
        while place < len(rows) and rows[place].id == resource_id:
            picked.append(Found(rows[place], block, offset_of(block, rows, place), None))
            place += 1
    return picked


def _decode_found(block: Block, encoded: bytes) -> list[Found]:
    return found_rows(block, decode_rows(block, encoded))


def _found_with_lines(block: Block, text: bytes) -> list[Found]:
    """Return all rows of a block, with the lines that are before them."""
    return [
        each._replace(block=None, line=_line_of(each, text, block.offset))
        for each in _decode_found(block, text[block.line_bytes :])
    ]


def _line_of(found: Found, text: bytes, offset: int) -> bytes | None:
    begin = found.offset - offset
    return None if found.row.deleted else text[begin : begin + found.row.size]


def _end_of(block: Block) -> tuple[str, str]:
    return block.collection, block.last


def _version(found: Found) -> int:
    return found.row.version_id


def _id_and_version(found: Found) -> tuple[str, int]:
    return found.row.id, found.row.version_id
