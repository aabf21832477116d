"""Pages of the versions of several types, newest first, and which types there are."""

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
from helios_s3.encoding import Block, Found, collection_of, key_of
from helios_s3.log import Moment
from helios_s3.lookups import stored_versions
from helios_s3.reading import chunks
from helios_s3.rows import Rows, current_at

BLOCKS_AT_ONCE = 4


class _Listed(NamedTuple):
    """One version of a page; its order is that of the fields before the row."""

    age: int
    """The negated stamp."""
    resource_type: str
    id: str
    back: int
    """The negated number of the version: of one instant, the later version comes first."""
    found: Found


class _Placed(NamedTuple):
    """One version of a page, and what a token says of it."""

    position: VersionPosition
    listed: _Listed


async def collections(rows: Rows) -> list[TypeKey]:
    """Return the key of every type that has a version."""
    await rows.log.ensure(None)
    state = rows.log.state
    names = set[str]().union(*(run.collections for run in state.checkpoint.runs))
    return [key_of(name) for name in sorted(names.union(state.tail.collections))]


async def versions(
    rows: Rows, query: VersionQuery, *, count: int, after: str | None
) -> VersionPage:
    """
    Return a page of versions.

    The number in a token is how many versions of its instant the query lists before. They were
    written by one commit, so it stays the same.

    Raises:
        InvalidParameter: `after` is not something a page gave.
    """
    last = None if after is None else parse_version_token(after)
    await rows.log.ensure(to_stamp(query.until))
    page, listing = PageBuilder(count), _Listing(rows, query, last, count)
    placed = await listing.found()
    position, begin = VersionPosition(0, 0), 0
    for chunk in chunks([each.listed.found for each in placed[:count]]):
        of_chunk = placed[begin : begin + len(chunk)]
        begin += len(chunk)
        stored = await _contents(rows, query, [each.listed for each in of_chunk])
        for version, each in zip(stored, of_chunk, strict=True):
            if not page.add(version):
                return VersionPage(versions=page.found, next=make_version_token(position))
            position = each.position
    more = len(placed) > count
    return VersionPage(versions=page.found, next=make_version_token(position) if more else None)


class _Listing:
    """What a page may have of a query: the newest versions behind the page before."""

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
        """Return at least one more than the page has room for, if there are so many."""
        self._newest = await self._rows.repeated(self._changed)
        if self._from is not None and not self._newest.full:
            for collection, name in self._types.items():
                async for window in self._rows.scan(collection, None, None):
                    standing = await in_thread(self._standing, self._from, window)
                    self._newest.take(name, standing)
        return list(self._placed())

    async def _changed(self, moment: Moment) -> "_Newest":
        """Return what changed within the period, whatever it replaced."""
        low = self._since if self._from is None else max(self._since, self._from)
        newest, high = _Newest(self._count, self._high), self._high
        if low > high:
            return newest
        for collection, name in self._types.items():
            rows, _ = moment.tail.between(collection, "", None, most=moment.tail.rows)
            newest.take(name, _within(rows, low, high))
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
            some = blocks[begin : begin + BLOCKS_AT_ONCE]
            loaded = await asyncio.gather(*map(self._rows.of_block, some))
            for block, of_block in zip(some, loaded, strict=True):
                within = await in_thread(_within, of_block, low, high)
                newest.take(self._types[block.collection], within)
        return newest

    def _standing(self, at: int, window: Sequence[Found]) -> list[Found]:
        """Return those that were current at an instant, and had become so before."""
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
    The newest of the versions that are taken: one more than a page has room for.

    Those of the instant `first`, at which a page may begin, are kept besides.
    """

    def __init__(self, count: int, first: int) -> None:
        self._most = count + 1
        self._first = first
        self._of_first = list[_Listed]()
        self._older = list[_Listed]()

    @property
    def full(self) -> bool:
        """Whether only what is not older than the oldest of them matters."""
        return len(self._older) == self._most

    @property
    def oldest(self) -> int:
        """The stamp of the oldest of them."""
        return -self._older[-1].age

    def take(self, resource_type: str, found: Iterable[Found]) -> None:
        """Take versions, none of which is younger than `first`."""
        older = list[_Listed]()
        for each in found:
            row = each.row
            listed = _Listed(-row.stamp, resource_type, row.id, -row.version_id, each)
            (self._of_first if row.stamp == self._first else older).append(listed)
        self._older = heapq.nsmallest(self._most, self._older + older, key=_order)

    def listed(self) -> list[_Listed]:
        """Return them, newest first."""
        return [*sorted(self._of_first, key=_order), *self._older]


async def _contents(
    rows: Rows, query: VersionQuery, listed: Sequence[_Listed]
) -> list[StoredVersion]:
    """Return versions in their order, having read those of one type at once."""
    by_type = defaultdict[str, list[int]](list)
    for place, each in enumerate(listed):
        by_type[each.resource_type].append(place)
    read = await asyncio.gather(
        *(
            stored_versions(rows, _key(query, name), [listed[place].found for place in places])
            for name, places in by_type.items()
        )
    )
    by_place = {
        place: stored
        for places, of_type in zip(by_type.values(), read, strict=True)
        for place, stored in zip(places, of_type, strict=True)
    }
    return [by_place[place] for place in range(len(listed))]


def _within(found: Iterable[Found], low: int, high: int) -> list[Found]:
    return [each for each in found if low <= each.row.stamp <= high]


def _key(query: VersionQuery, resource_type: str) -> TypeKey:
    return TypeKey(query.tenant, query.fhir_version, resource_type)


def _order(listed: _Listed) -> tuple[int, str, str, int]:
    return listed[:4]


def _age(listed: _Listed) -> int:
    return listed.age


def _latest(block: Block) -> int:
    return block.latest
