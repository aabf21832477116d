"""Pages of a search: rows in the requested order, whose lines are matched by the core."""

import heapq
from collections.abc import AsyncIterator, Sequence

from helios_core import (
    PageBuilder,
    PagePosition,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
    TypeKey,
    in_thread,
    make_page_token,
    parse_page_token,
    place_in_order,
)
from helios_core.fhir import FOREVER
from helios_s3.encoding import StoredRow, collection_of
from helios_s3.lookups import stored_versions
from helios_s3.reading import chunks
from helios_s3.rows import Rows, current_at
from helios_s3.views import ids_in, may_satisfy

PAGE_ROWS = 100
"""How many rows are passed on at once if the filter passes everything."""


async def search(
    rows: Rows, key: TypeKey, query: SearchQuery, *, count: int, after: str | None
) -> SearchPage:
    """
    Return a page of a search.

    Raises:
        InvalidParameter: `after` is not from a page in this order.
    """
    position = None if after is None else parse_page_token(after, query.order)
    await rows.log.ensure(None)
    searching = _Search(rows, key, query)
    if query.order is SortOrder.ID and not query.counts:
        return await searching.first_page(position, count)
    return await searching.best_page(position, count)


class _Search:
    """One query within one collection."""

    def __init__(self, rows: Rows, key: TypeKey, query: SearchQuery) -> None:
        self._rows = rows
        self._key = key
        self._collection = collection_of(key)
        self._query = query
        self._prefilter = query.filter.prefilter()

    async def first_page(self, after: PagePosition | None, count: int) -> SearchPage:
        """Return a page by id, reading only until it is full."""
        page = PageBuilder(count, self._query.max_bytes)
        start = None if after is None else after.id + "\0"
        async for chunk in self._matching(start):
            for stored in await stored_versions(self._rows, self._key, chunk):
                if not page.add(stored):
                    return self._page(page, more=True, total=None)
        return self._page(page, more=False, total=None)

    async def best_page(self, after: PagePosition | None, count: int) -> SearchPage:
        """Return a page in any order, reading everything and keeping at most `count` + 1 rows."""
        order = self._query.order
        start = None if after is None else place_in_order(after.stamp, after.id, order)
        best, total = list[StoredRow](), 0
        async for chunk in self._matching(None):
            total += len(chunk)
            following = [row for row in chunk if start is None or self._sort_key(row) > start]
            best = heapq.nsmallest(count + 1, [*best, *following], key=self._sort_key)
        page = PageBuilder(count, self._query.max_bytes)
        for row in best:
            if not page.add((await stored_versions(self._rows, self._key, [row]))[0]):
                return self._page(page, more=True, total=total)
        return self._page(page, more=False, total=total)

    async def _matching(self, start: str | None) -> AsyncIterator[Sequence[StoredRow]]:
        """Yield the rows that match, by id."""
        async for window in self._candidates(start):
            live = [
                stored
                for stored in current_at(window, FOREVER)
                if not stored.row.deleted and may_satisfy(self._prefilter, stored.row)
            ]
            for chunk in chunks(live):
                if self._query.filter.passes_everything:
                    for begin in range(0, len(chunk), PAGE_ROWS):
                        yield chunk[begin : begin + PAGE_ROWS]
                    continue
                versions = await stored_versions(self._rows, self._key, chunk)
                yield await in_thread(self._matches, chunk, versions)

    async def _candidates(self, start: str | None) -> AsyncIterator[list[StoredRow]]:
        ids = ids_in(self._prefilter)
        if ids is None:
            async for window in self._rows.scan(self._collection, start, None):
                yield window
            return
        found = await self._rows.find(self._collection, ids)
        yield [
            stored
            for resource_id in sorted(found)
            if resource_id >= (start or "")
            for stored in found[resource_id]
        ]

    def _matches(
        self, chunk: Sequence[StoredRow], versions: Sequence[StoredVersion]
    ) -> list[StoredRow]:
        matches = self._query.filter.matches
        return [
            stored
            for stored, version in zip(chunk, versions, strict=True)
            if version.content is not None and matches(version.content)
        ]

    def _sort_key(self, found: StoredRow) -> tuple[int | str, ...]:
        return place_in_order(found.row.stamp, found.row.id, self._query.order)

    def _page(self, page: PageBuilder, *, more: bool, total: int | None) -> SearchPage:
        return SearchPage(
            resources=page.found,
            next=make_page_token(page.found[-1], self._query.order) if more else None,
            total=total if self._query.counts else None,
        )
