"""Pages of a search: candidates are read in the requested order until a page is full."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from helios_core import (
    PagePosition,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
    collect_page,
    collection_range,
    parse_page_token,
    read_statements,
)
from helios_core.fhir import Filter
from helios_postgres.connections import Connection
from helios_postgres.lookups import stored_version
from helios_postgres.ordering import Candidate, Search

_SQL = read_statements("helios_postgres", "searching")


CONTENTS_AT_ONCE = 100
"""How many contents one query reads at most."""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""How many bytes of contents one query reads at most, unless a single one is larger."""

NOTHING = 0
"""The number of a collection that does not exist."""


async def search(
    connection: Connection, collection: int, query: SearchQuery, *, count: int, after: str | None
) -> SearchPage:
    """
    Return a page of a search.

    Raises:
        InvalidParameter: `after` is not from a page in this order.
    """
    ending = None if after is None else parse_page_token(after, query.order)
    searching = _Matching(Search(connection, collection, query.filter.prefilter()), query.filter)
    matches = searching.matches(query.order, ending, count)
    return await collect_page(matches, query, count=count, after=after, count_all=searching.total)


class _Matching:
    """The matches of one filter within one collection."""

    def __init__(self, search: Search, condition: Filter) -> None:
        self._search = search
        self._filter = condition

    async def matches(
        self, order: SortOrder, after: PagePosition | None, count: int
    ) -> AsyncGenerator[StoredVersion]:
        """Yield the matches in order; about `count` will be consumed."""
        async with aclosing(self._search.ordered(order, after)) as ordered:
            async for heads in ordered:
                # One more, to find out whether there is a next page.
                async for found in self._among(heads, min(count + 1, CONTENTS_AT_ONCE)):
                    for stored in found:
                        yield stored

    async def total(self) -> int:
        """Count all matches."""
        if self._filter.passes_everything:
            extents = collection_range(self._search.number).extents
            return int(await self._search.connection.fetchval(_SQL["count"], *extents))
        total = 0
        async with aclosing(self._search.unordered()) as unordered:
            async for heads in unordered:
                async for found in self._among(heads, CONTENTS_AT_ONCE):
                    total += len(found)
        return total

    async def _among(
        self, heads: Sequence[Candidate], at_once: int
    ) -> AsyncIterator[list[StoredVersion]]:
        """Yield the candidates that match, with their contents, in the same order."""
        for run in cut(heads, at_once):
            rows = await contents(self._search.connection, run)
            stored = {
                seq: stored_version(self._filter.resource_type, row) for seq, row in rows.items()
            }
            versions = [stored[head.seq] for head in run]
            yield [version for version in versions if self._matches(version)]

    def _matches(self, stored: StoredVersion) -> bool:
        return stored.content is not None and self._filter.matches(stored.content)


async def contents(connection: Connection, heads: Sequence[Candidate]) -> dict[int, Sequence[Any]]:
    """Return the rows of versions with their contents, by seq, for `stored_version`."""
    rows = await connection.fetch(_SQL["contents"], [head.seq for head in heads])
    return {seq: row for seq, *row in rows}


def cut(heads: Sequence[Candidate], at_once: int) -> list[list[Candidate]]:
    """Cut heads into runs that are read together."""
    runs: list[list[Candidate]] = []
    room = 0
    for head in heads:
        if not runs or len(runs[-1]) == at_once or room < head.size:
            runs.append([])
            room = BYTES_AT_ONCE
        runs[-1].append(head)
        room -= head.size
    return runs
