"""Pages of the versions of many resources, newest first."""

import heapq
import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, closing

from helios_core import (
    PageBuilder,
    VersionPage,
    VersionPosition,
    VersionQuery,
    collection_range,
    make_version_token,
    parse_version_token,
    read_statements,
)
from helios_core.fhir import FOREVER, to_stamp
from helios_sqlite.collections import Collection, all_collections
from helios_sqlite.lookups import stored_version
from helios_sqlite.views import first_after

_SQL = read_statements("helios_sqlite", "versions")


def versions(
    connection: sqlite3.Connection, query: VersionQuery, *, count: int, after: str | None
) -> VersionPage:
    """
    Return a page of versions, newest first; those of the same instant are ordered by seq.

    Raises:
        InvalidParameter: `after` is not the `next` of a page.
    """
    last = VersionPosition(FOREVER, FOREVER) if after is None else parse_version_token(after)
    collections = all_collections(connection, query.tenant, query.fhir_version)
    page = PageBuilder(count)
    with ExitStack() as stack:
        heads = heapq.merge(
            *(
                stack.enter_context(closing(_heads(connection, collections[name], query, last)))
                for name in query.types
                if name in collections
            ),
            reverse=True,
        )
        position = last
        for stamp, seq, resource_type in heads:
            [row] = connection.execute(_SQL["content"], (seq,))
            if not page.add(stored_version(resource_type, row)):
                return VersionPage(versions=page.found, next=make_version_token(position))
            position = VersionPosition(stamp, seq)
    return VersionPage(versions=page.found, next=None)


def _heads(
    connection: sqlite3.Connection,
    collection: Collection,
    query: VersionQuery,
    last: VersionPosition,
) -> Generator[tuple[int, int, str]]:
    """Yield stamp, seq and type of a collection's versions after a position, newest first."""
    seqs = collection_range(collection.number)
    since = None if query.since is None else to_stamp(query.since)
    if since is not None and collection.last_stamp < since:
        return
    until = min(to_stamp(query.until), last.stamp)
    parameters = {
        "first": seqs.first if since is None else first_after(connection, seqs, since - 1),
        "end": first_after(connection, seqs, until),
        "stamp": last.stamp,
        "seq": last.number,
        "current_from": None if query.current_from is None else to_stamp(query.current_from),
    }
    with closing(connection.execute(_SQL["newest"], parameters)) as rows:
        for stamp, seq in rows:
            yield stamp, seq, collection.resource_type
