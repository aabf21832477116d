"""Pages of a search: candidates are read in the requested order until a page is full."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from bson.int64 import Int64

from helios_core import (
    DESCENDING_ORDERS,
    EXTENT_BITS,
    ID_ORDERS,
    PagePosition,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
    collect_page,
    collection_range,
    parse_page_token,
)
from helios_mongodb.databases import Database, Document
from helios_mongodb.extents import extents_of
from helios_mongodb.indexing import condition_of
from helios_mongodb.integrity import damaged
from helios_mongodb.lookups import stored_version
from helios_mongodb.views import live_at, within

SORTED_AT_ONCE = 5000
"""The most candidates that are sorted by id; if there are more, the index by id is scanned."""

CONTENTS_AT_ONCE = 100
"""How many contents are read together at most."""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""How many bytes of contents are read together at most, unless a single one is larger."""

HEAD_FIELDS = {"_id": 1, "i": 1, "s": 1, "n": 1}
"""The fields of a `Head`."""


class Head(NamedTuple):
    """A version without its content; heads compare by stamp, then by id."""

    stamp: int
    id: str
    seq: int
    size: int


async def search(  # noqa: PLR0913
    database: Database,
    collection: int,
    query: SearchQuery,
    stamp: int,
    *,
    count: int,
    after: str | None,
) -> SearchPage:
    """
    Return a page of a search, as of a stamp.

    Raises:
        InvalidParameter: `after` is not from a page in this order.
    """
    searching = _Search(database, collection, query, stamp)
    position = None if after is None else parse_page_token(after, query.order)
    matches = searching.matches(searching.heads(position), count)
    return await collect_page(matches, query, count=count, after=after, count_all=searching.total)


class _Search:
    """One query within one collection."""

    def __init__(
        self, database: Database, collection: int, query: SearchQuery, stamp: int
    ) -> None:
        self._database = database
        self._versions = database["versions"]
        self._collection = collection
        self._filter = query.filter
        self._order = query.order
        self._descending = query.order in DESCENDING_ORDERS
        self._live = live_at(stamp)
        prefilter = query.filter.prefilter()
        self._narrowed: Document = self._live
        if prefilter is not None:
            self._narrowed = {"$and": [self._live, condition_of(prefilter)]}
        self._has_prefilter = prefilter is not None

    async def heads(self, after: PagePosition | None) -> AsyncGenerator[Head]:
        """Yield the candidates after a position, in the order of the query."""
        heads = self._by_id(after) if self._order in ID_ORDERS else self._by_age(after)
        async with aclosing(heads):
            async for head in heads:
                yield head

    async def matches(
        self, heads: AsyncGenerator[Head], count: int
    ) -> AsyncGenerator[StoredVersion]:
        """Yield the candidates that match, with contents; about `count` will be consumed."""
        # One more, to find out whether there is a next page.
        async with aclosing(cut(heads, count + 1)) as runs:
            async for run in runs:
                for stored in await self._matching(run):
                    yield stored

    async def total(self) -> int:
        """Count all matches."""
        everything = within(collection_range(self._collection))
        if self._filter.passes_everything:
            return await self._versions.count_documents({"$and": [everything, self._live]})
        count = 0
        async for version in self._versions.find({"$and": [everything, self._narrowed]}):
            count += await self._match(version) is not None
        return count

    async def _matching(self, heads: Sequence[Head]) -> list[StoredVersion]:
        """Return the versions of the heads that match, in the same order."""
        found = await contents(self._database, heads)
        matches = [await self._match(found[head.seq]) for head in heads]
        return [stored for stored in matches if stored is not None]

    async def _match(self, version: Document) -> StoredVersion | None:
        stored = await stored_version(self._database, self._filter.resource_type, version)
        matches = stored.content is not None and self._filter.matches(stored.content)
        return stored if matches else None

    async def _by_id(self, after: PagePosition | None) -> AsyncGenerator[Head]:
        candidates = await self._few_candidates()
        if candidates is not None:
            for head in sorted(candidates, key=lambda head: head.id, reverse=self._descending):
                if after is None or (
                    head.id < after.id if self._descending else head.id > after.id
                ):
                    yield head
            return
        condition: Document = {"c": self._collection} | self._live
        if after is not None:
            condition["i"] = {"$lt" if self._descending else "$gt": after.id}
        found = self._versions.find(condition, HEAD_FIELDS)
        # In the order of the index by collection, id and version.
        direction = -1 if self._descending else 1
        async with found.sort([("i", direction), ("v", -direction)]) as versions:
            async for version in versions:
                yield head_of(version)

    async def _few_candidates(self) -> list[Head] | None:
        """Return all candidates, or None if there are more than `SORTED_AT_ONCE`."""
        if not self._has_prefilter:
            return None
        condition = {"$and": [within(collection_range(self._collection)), self._narrowed]}
        found = (
            await self._versions.find(condition, HEAD_FIELDS).limit(SORTED_AT_ONCE + 1).to_list()
        )
        return [head_of(version) for version in found] if len(found) <= SORTED_AT_ONCE else None

    async def _by_age(self, after: PagePosition | None) -> AsyncGenerator[Head]:
        """Read by seq, which ascends with the stamp, and sort heads of the same stamp by id."""
        seqs = await self._seqs_from(after)
        condition = {"$and": [seqs, self._narrowed]}
        found = self._versions.find(condition, HEAD_FIELDS)
        same_stamp = list[Head]()
        async with found.sort("_id", -1 if self._descending else 1) as versions:
            async for version in versions:
                head = head_of(version)
                if same_stamp and same_stamp[0].stamp != head.stamp:
                    for ready in _after(same_stamp, after):
                        yield ready
                    same_stamp = []
                same_stamp.append(head)
            for ready in _after(same_stamp, after):
                yield ready

    async def _seqs_from(self, after: PagePosition | None) -> Document:
        """Return the condition of versions that may come after a position."""
        everything = within(collection_range(self._collection))
        if after is None:
            return everything
        comparison = "$lte" if self._order is SortOrder.LAST_UPDATED_DESCENDING else "$gte"
        bound = {"s": {comparison: Int64(after.stamp)}}
        extents = self._database["extents"]
        of_collection = extents_of(self._collection)
        if self._descending:
            possible = of_collection | {"first": {"$lte": Int64(after.stamp)}}
            last = await extents.find_one(possible, {"_id": 1}, sort=[("_id", -1)])
            limit = {"$lt": Int64((last["_id"] + 1) << EXTENT_BITS)} if last else {}
        else:
            possible = of_collection | {"last": {"$gte": Int64(after.stamp)}}
            first = await extents.find_one(possible, {"_id": 1}, sort=[("_id", 1)])
            limit = {"$gte": Int64(first["_id"] << EXTENT_BITS)} if first else {}
        return {"_id": everything["_id"] | limit} | bound


async def cut(heads: AsyncGenerator[Head], at_most: int) -> AsyncGenerator[list[Head]]:
    """Yield runs of at most `at_most` heads, whose contents are read together."""
    at_once = min(at_most, CONTENTS_AT_ONCE)
    async with aclosing(heads):
        run, room = list[Head](), BYTES_AT_ONCE
        async for head in heads:
            if run and (len(run) == at_once or head.size > room):
                yield run
                run, room = [], BYTES_AT_ONCE
            run.append(head)
            room -= head.size
        if run:
            yield run


async def contents(database: Database, heads: Sequence[Head]) -> dict[int, Document]:
    """
    Return the documents of versions with their contents, by seq.

    Raises:
        BackendError: A version is missing.
    """
    seqs = [Int64(head.seq) for head in heads]
    found = database["versions"].find({"_id": {"$in": seqs}})
    by_seq = {version["_id"]: version async for version in found}
    if len(by_seq) < len(seqs):
        raise damaged("versions are missing")
    return by_seq


def head_of(version: Document) -> Head:
    """Return the head of a version's document."""
    return Head(stamp=version["s"], id=version["i"], seq=version["_id"], size=version["n"])


def _after(heads: Sequence[Head], after: PagePosition | None) -> list[Head]:
    """Return the heads of one stamp that come after a position, by id."""
    return [
        head
        for head in sorted(heads)
        if after is None or head.stamp != after.stamp or head.id > after.id
    ]
