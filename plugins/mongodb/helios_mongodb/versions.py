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
"""How many extents one query reads at most; the first query reads one."""

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
    Return a page of versions, newest first; those of the same instant are ordered by seq.

    Raises:
        InvalidParameter: `after` is not the `next` of a page.
    """
    last = VersionPosition(FOREVER, FOREVER) if after is None else parse_version_token(after)
    names = {collection: name for name, collection in collections.items()}
    page = PageBuilder(count)
    position = last
    # One more, to find out whether there is a next page.
    async with aclosing(cut(_heads(database, list(names), query, last), count + 1)) as runs:
        async for run in runs:
            found = await contents(database, run)
            for head in run:
                name = names[head.seq >> COLLECTION_BITS]
                if not page.add(await stored_version(database, name, found[head.seq])):
                    return VersionPage(versions=page.found, next=make_version_token(position))
                position = VersionPosition(head.stamp, head.seq)
    return VersionPage(versions=page.found, next=None)


async def _heads(
    database: Database, collections: Sequence[int], query: VersionQuery, last: VersionPosition
) -> AsyncGenerator[Head]:
    """
    Yield the heads of versions after a position, newest first.

    Extents of several types overlap in time. Versions that are newer than the next extent can be
    yielded at once; older ones wait until that extent has been read.
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
    done, size, edge = 0, 1, FOREVER if collections else _BEFORE_ALL
    while edge > _BEFORE_ALL:
        possible = {
            "$or": [extents_of(collection) for collection in collections],
            "first": {"$lte": Int64(until)},
            "last": {"$gte": Int64(since)},
        }
        found = database["extents"].find(possible, {"last": 1}).sort([("last", -1), ("_id", 1)])
        extents = await found.skip(done).limit(size + 1).to_list()
        edge = extents[size]["last"] if len(extents) > size else _BEFORE_ALL
        waiting += await _within(database, [extent["_id"] for extent in extents[:size]], shown)
        done, size = done + size, min(2 * size, EXTENTS_AT_ONCE)
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
