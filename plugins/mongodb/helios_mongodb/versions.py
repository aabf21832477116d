"""Pages of the versions of many resources, newest first."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from bson.int64 import Int64

from helios_core import (
    COLLECTION_BITS,
    EXTENT_BITS,
    PageBuilder,
    SeqRange,
    VersionPage,
    VersionPosition,
    VersionQuery,
    make_version_token,
    parse_version_token,
)
from helios_core.fhir import FOREVER, to_stamp
from helios_mongodb.databases import Database, Document
from helios_mongodb.extents import extents_of
from helios_mongodb.lookups import stored_version
from helios_mongodb.searching import HEAD_FIELDS, Head, contents, cut, head_of
from helios_mongodb.views import within

EXTENTS_AT_ONCE = 8
"""How many extents are looked into together; at first it is one."""

_BEFORE_ALL = -FOREVER


async def versions(
    database: Database,
    collections: Mapping[str, int],
    query: VersionQuery,
    *,
    count: int,
    after: str | None,
) -> VersionPage:
    """
    Return a page of versions; what tells those of one instant apart is their seq.

    Raises:
        InvalidParameter: `after` is not something a page gave.
    """
    last = VersionPosition(FOREVER, FOREVER) if after is None else parse_version_token(after)
    names = {collection: name for name, collection in collections.items()}
    page = PageBuilder(count)
    position = last
    # One more, since whether there is a next page is asked as well.
    async with aclosing(cut(_heads(database, list(names), query, last), count + 1)) as runs:
        async for some in runs:
            found = await contents(database, some)
            for head in some:
                name = names[head.seq >> COLLECTION_BITS]
                if not page.add(await stored_version(database, name, found[head.seq])):
                    return VersionPage(versions=page.found, next=make_version_token(position))
                position = VersionPosition(head.stamp, head.seq)
    return VersionPage(versions=page.found, next=None)


async def _heads(
    database: Database, collections: Sequence[int], query: VersionQuery, last: VersionPosition
) -> AsyncGenerator[Head]:
    """
    Yield the versions behind one, newest first, without their contents.

    Extents of several types overlap in time. What is newer than the next extent can be given; the
    rest waits for it.
    """
    until = min(to_stamp(query.until), last.stamp)
    since = _BEFORE_ALL if query.since is None else to_stamp(query.since)
    shown: Document = {
        "s": {"$gte": Int64(since), "$lte": Int64(until)},
        "$or": [{"s": {"$lt": Int64(last.stamp)}}, {"_id": {"$lt": Int64(last.number)}}],
    }
    if query.current_from is not None:
        at = Int64(to_stamp(query.current_from))
        lasted = {"d": False, "u": {"$gt": at}}
        shown = {"$and": [shown, {"$or": [{"s": {"$gte": at}}, lasted]}]}
    waiting = list[Head]()
    looked_at, size, edge = 0, 1, FOREVER if collections else _BEFORE_ALL
    while edge > _BEFORE_ALL:
        possible = {
            "$or": [extents_of(collection) for collection in collections],
            "first": {"$lte": Int64(until)},
            "last": {"$gte": Int64(since)},
        }
        found = database["extents"].find(possible, {"last": 1}).sort([("last", -1), ("_id", 1)])
        extents = await found.skip(looked_at).limit(size + 1).to_list()
        edge = extents[size]["last"] if len(extents) > size else _BEFORE_ALL
        waiting += await _within(database, [each["_id"] for each in extents[:size]], shown)
        looked_at, size = looked_at + size, min(2 * size, EXTENTS_AT_ONCE)
        ready = [head for head in waiting if head.stamp > edge]
        waiting = [head for head in waiting if head.stamp <= edge]
        for head in sorted(ready, key=lambda head: (head.stamp, head.seq), reverse=True):
            yield head


async def _within(database: Database, extents: Sequence[int], shown: Document) -> list[Head]:
    if not extents:
        return []
    ranges = [
        within(SeqRange(first=extent << EXTENT_BITS, end=(extent + 1) << EXTENT_BITS))
        for extent in extents
    ]
    found = database["versions"].find({"$and": [{"$or": ranges}, shown]}, HEAD_FIELDS)
    return [head_of(version) async for version in found]
