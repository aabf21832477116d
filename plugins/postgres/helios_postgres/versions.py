"""Pages of the versions of many resources, newest first."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from helios_core import (
    COLLECTION_BITS,
    PageBuilder,
    StoredVersion,
    VersionPage,
    VersionPosition,
    VersionQuery,
    make_version_token,
    parse_version_token,
    read_statements,
)
from helios_core.fhir import FOREVER, to_stamp
from helios_postgres.connections import Connection
from helios_postgres.lookups import stored_version
from helios_postgres.ordering import Candidate
from helios_postgres.searching import CONTENTS_AT_ONCE, contents, cut

_SQL = read_statements("helios_postgres", "versions")

EXTENTS_AT_ONCE = 8
"""How many extents one query reads at most; the first query reads one."""

_BEFORE_ALL = -FOREVER


async def versions(
    connection: Connection,
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
    page = PageBuilder(count)
    position = last
    async with aclosing(_versions(connection, collections, query, last, count)) as found:
        async for head, stored in found:
            if not page.add(stored):
                return VersionPage(versions=page.found, next=make_version_token(position))
            position = VersionPosition(head.stamp, head.seq)
    return VersionPage(versions=page.found, next=None)


async def _versions(
    connection: Connection,
    collections: Mapping[str, int],
    query: VersionQuery,
    last: VersionPosition,
    count: int,
) -> AsyncGenerator[tuple[Candidate, StoredVersion]]:
    """Yield the versions after a position, each with its head."""
    names = {collection: name for name, collection in collections.items()}
    # One more, to find out whether there is a next page.
    at_once = min(count + 1, CONTENTS_AT_ONCE)
    async with aclosing(_heads(connection, list(names), query, last)) as windows:
        async for heads in windows:
            for run in cut(heads, at_once):
                rows = await contents(connection, run)
                for head in run:
                    name = names[head.seq >> COLLECTION_BITS]
                    yield head, stored_version(name, rows[head.seq])


async def _heads(
    connection: Connection, collections: list[int], query: VersionQuery, last: VersionPosition
) -> AsyncGenerator[list[Candidate]]:
    """
    Yield the heads of versions after a position, newest first.

    Extents of several types or concurrent writers overlap in time. Versions that are newer than
    the next extent can be yielded at once; older ones wait until that extent has been read.
    """
    until = min(to_stamp(query.until), last.stamp)
    since = _BEFORE_ALL if query.since is None else to_stamp(query.since)
    current_from = None if query.current_from is None else to_stamp(query.current_from)
    waiting: list[Candidate] = []
    done, size, edge = 0, 1, FOREVER
    while edge > _BEFORE_ALL:
        *extents, edge = await _next_extents(connection, collections, (until, since), (size, done))
        done, size = done + size, min(2 * size, EXTENTS_AT_ONCE)
        rows = await connection.fetch(
            _SQL["in_extents"], extents, until, since, last.stamp, last.number, current_from
        )
        waiting += [Candidate(*row) for row in rows]
        ready = [head for head in waiting if head.stamp > edge]
        waiting = [head for head in waiting if head.stamp <= edge]
        yield sorted(ready, key=lambda head: (head.stamp, head.seq), reverse=True)


async def _next_extents(
    connection: Connection,
    collections: list[int],
    period: tuple[int, int],
    window: tuple[int, int],
) -> list[int]:
    """Return the next extents and, as the last item, the newest stamp of those after them."""
    size, offset = window
    rows = await connection.fetch(_SQL["newest_extents"], collections, *period, size + 1, offset)
    edge = rows[size][1] if len(rows) > size else _BEFORE_ALL
    return [*(extent for extent, _ in rows[:size]), edge]
