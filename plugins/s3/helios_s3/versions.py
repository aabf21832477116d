"""Pages of the versions of several types, newest first, and the list of all types."""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from helios_core import (
    PageBuilder,
    StoredVersion,
    TypeKey,
    VersionPage,
    VersionPosition,
    VersionQuery,
    in_thread,
    make_version_token,
    parse_version_token,
)
from helios_core.fhir import FOREVER, to_stamp
from helios_s3.encoding import Block, StoredRow, collection_of, key_of
from helios_s3.log import Moment
from helios_s3.lookups import stored_versions
from helios_s3.reading import chunks
from helios_s3.rows import Rows, current_at

BLOCKS_AT_ONCE = 4


class _Listed(NamedTuple):
    """A version of a page, sorted by the fields before the row."""

    age: int
    """The negated stamp."""
    resource_type: str
    id: str
    back: int
    """The negated version id: with equal stamps, the later version comes first."""
    found: StoredRow


class _Placed(NamedTuple):
    """A version of a page, and its position for a token."""

    position: VersionPosition
    listed: _Listed


async def collections(rows: Rows) -> list[TypeKey]:
    """Return the key of every type that has versions."""
    await rows.log.ensure(None)
    state = rows.log.state
    names = set[str]().union(*(run.collections for run in state.checkpoint.runs))
    return [key_of(name) for name in sorted(names.union(state.tail.collections))]


async def versions(
    rows: Rows, query: VersionQuery, *, count: int, after: str | None
) -> VersionPage:
    """
    Return a page of versions, newest first.

    The number in a token counts the versions of the same stamp that the query lists before. One
    commit has written them all, so the number does not change.

    Raises:
        InvalidParameter: `after` is not the `next` of a page.
    """
    last = None if after is None else parse_version_token(after)
    await rows.log.ensure(to_stamp(query.until))
    page, listing = PageBuilder(count), _Listing(rows, query, last, count)
    placed = await listing.found()
    position, begin = VersionPosition(0, 0), 0
    for chunk in chunks([item.listed.found for item in placed[:count]]):
        of_chunk = placed[begin : begin + len(chunk)]
        begin += len(chunk)
        stored = await _contents(rows, query, [item.listed for item in of_chunk])
        for version, item in zip(stored, of_chunk, strict=True):
            if not page.add(version):
                return VersionPage(versions=page.found, next=make_version_token(position))
            position = item.position
    more = len(placed) > count
    return VersionPage(versions=page.found, next=make_version_token(position) if more else None)


class _Listing:
    """Lists the newest versions of a query after the last page."""

    def __init__(
        self, rows: Rows, query: VersionQuery, last: VersionPosition | None, count: int
    ) -> None:
        self._rows = rows
        self._types = {collection_of(_key(query, name)): name for name in query.types}
        self._last = last
        self._count = count
        until = to_stamp(query.until)
        self._high = until if last is None else min(until, last.stamp)
        self._since = -FOREVER if query.since is None else to_stamp(query.since)
        self._from = None if query.current_from is None else to_stamp(query.current_from)
        self._newest = _Newest(count, self._high)

    async def found(self) -> list[_Placed]:
        """Return the versions for the page and at least one more, if there are so many."""
        self._newest = await self._rows.repeated(self._changed)
        if self._from is not None and not self._newest.full:
            for collection, name in self._types.items():
                async for window in self._rows.scan(collection, None, None):
                    standing = await in_thread(self._standing, self._from, window)
                    self._newest.add(name, standing)
        return list(self._placed())

    async def _changed(self, moment: Moment) -> "_Newest":
        """Return the versions that became current within the period."""
        low = self._since if self._from is None else max(self._since, self._from)
        newest, high = _Newest(self._count, self._high), self._high
        if low > high:
            return newest
        for collection, name in self._types.items():
            rows, _ = moment.tail.between(collection, "", None, most=moment.tail.rows)
            newest.add(name, _within(rows, low, high))
        blocks = [
            block
            for run in moment.runs
            for block in run.blocks
            if block.collection in self._types and block.earliest <= high and block.latest >= low
        ]
        blocks.sort(key=_latest, reverse=True)
        for begin in range(0, len(blocks), BLOCKS_AT_ONCE):
            if newest.full and blocks[begin].latest < newest.oldest:
                break
            chunk = blocks[begin : begin + BLOCKS_AT_ONCE]
            loaded = await asyncio.gather(*map(self._rows.of_block, chunk))
            for block, of_block in zip(chunk, loaded, strict=True):
                within = await in_thread(_within, of_block, low, high)
                newest.add(self._types[block.collection], within)
        return newest

    def _standing(self, at: int, window: Sequence[StoredRow]) -> list[StoredRow]:
        """Return the rows that were current at a stamp and had become so before it."""
        current = (each for each in current_at(window, at) if not each.row.deleted)
        return _within(current, self._since, min(self._high, at - 1))

    def _placed(self) -> Iterator[_Placed]:
        last = None if self._last is None else (-self._last.stamp, self._last.number)
        for age, together in groupby(self._newest.listed(), key=_age):
            for number, listed in enumerate(together):
                if last is None or (age, number) > last:
                    yield _Placed(VersionPosition(-age, number), listed)


class _Newest:
    """
    Keeps the newest versions: one more than a page has room for.

    Versions of the stamp `first`, at which the page may begin, are all kept in addition.
    """

    def __init__(self, count: int, first: int) -> None:
        self._most = count + 1
        self._first = first
        self._of_first = list[_Listed]()
        self._older = list[_Listed]()

    @property
    def full(self) -> bool:
        """Whether older versions than `oldest` no longer matter."""
        return len(self._older) == self._most

    @property
    def oldest(self) -> int:
        """The stamp of the oldest version that is kept."""
        return -self._older[-1].age

    def add(self, resource_type: str, found: Iterable[StoredRow]) -> None:
        """Add versions, none of which may be younger than `first`."""
        older = list[_Listed]()
        for stored in found:
            row = stored.row
            listed = _Listed(-row.stamp, resource_type, row.id, -row.version_id, stored)
            (self._of_first if row.stamp == self._first else older).append(listed)
        self._older = heapq.nsmallest(self._most, self._older + older, key=_order)

    def listed(self) -> list[_Listed]:
        """Return the versions that are kept, newest first."""
        return [*sorted(self._of_first, key=_order), *self._older]


async def _contents(
    rows: Rows, query: VersionQuery, listed: Sequence[_Listed]
) -> list[StoredVersion]:
    """Return versions with contents in the given order, with one read per type."""
    by_type = defaultdict[str, list[int]](list)
    for index, item in enumerate(listed):
        by_type[item.resource_type].append(index)
    read = await asyncio.gather(
        *(
            stored_versions(rows, _key(query, name), [listed[index].found for index in indexes])
            for name, indexes in by_type.items()
        )
    )
    by_index = {
        index: stored
        for indexes, of_type in zip(by_type.values(), read, strict=True)
        for index, stored in zip(indexes, of_type, strict=True)
    }
    return [by_index[index] for index in range(len(listed))]


def _within(found: Iterable[StoredRow], low: int, high: int) -> list[StoredRow]:
    return [stored for stored in found if low <= stored.row.stamp <= high]


def _key(query: VersionQuery, resource_type: str) -> TypeKey:
    return TypeKey(query.tenant, query.fhir_version, resource_type)


def _order(listed: _Listed) -> tuple[int, str, str, int]:
    return listed[:4]


def _age(listed: _Listed) -> int:
    return listed.age


def _latest(block: Block) -> int:
    return block.latest
