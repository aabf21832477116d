"""Pages of a search: rows in the order asked for, and the evaluator over their lines."""

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
from helios_s3.encoding import Found, collection_of
from helios_s3.lookups import stored_versions
from helios_s3.reading import chunks
from helios_s3.rows import Rows, current_at
from helios_s3.views import ids_in, may_satisfy

PAGE_ROWS = 100
"""Rows that are passed on at once where nothing has to be looked at."""


async def search(
    rows: Rows, key: TypeKey, query: SearchQuery, *, count: int, after: str | None
) -> SearchPage:
    """
    Return a page of a search.

    Raises:
        InvalidParameter: `after` is not something a page in this order gave.
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
        """Look at what follows by id until the page is full."""
        page = PageBuilder(count, self._query.max_bytes)
        start = None if after is None else after.id + "\0"
        async for chunk in self._matching(start):
            for stored in await stored_versions(self._rows, self._key, chunk):
                if not page.add(stored):
                    return self._page(page, more=True, total=None)
        return self._page(page, more=False, total=None)

    async def best_page(self, after: PagePosition | None, count: int) -> SearchPage:
        """Look at everything, and keep no more than the page may have and one."""
        start = None if after is None else place_in_order(after.stamp, after.id, self._query.order)
        best, total = list[Found](), 0
        async for chunk in self._matching(None):
            total += len(chunk)
            following = [each for each in chunk if start is None or self._place(each) > start]
            best = heapq.nsmallest(count + 1, [*best, *following], key=self._place)
        page = PageBuilder(count, self._query.max_bytes)
        for each in best:
            if not page.add((await stored_versions(self._rows, self._key, [each]))[0]):
                return self._page(page, more=True, total=total)
        return self._page(page, more=False, total=total)

    async def _matching(self, start: str | None) -> AsyncIterator[Sequence[Found]]:
        """Yield, by id, what matches."""
        async for window in self._candidates(start):
            live = [
                each
                for each in current_at(window, FOREVER)
                if not each.row.deleted and may_satisfy(self._prefilter, each.row)
            ]
            for chunk in chunks(live):
                if self._query.filter.passes_everything:
                    for begin in range(0, len(chunk), PAGE_ROWS):
                        yield chunk[begin : begin + PAGE_ROWS]
                    continue
                stored = await stored_versions(self._rows, self._key, chunk)
                yield await in_thread(self._matches, chunk, stored)

    async def _candidates(self, start: str | None) -> AsyncIterator[list[Found]]:
        ids = ids_in(self._prefilter)
        if ids is None:
            async for window in self._rows.scan(self._collection, start, None):
                yield window
            return
        found = await self._rows.find(self._collection, ids)
        yield [
            each
            for resource_id in sorted(found)
            if resource_id >= (start or "")
            for each in found[resource_id]
        ]

    def _matches(self, chunk: Sequence[Found], stored: Sequence[StoredVersion]) -> list[Found]:
        matches = self._query.filter.matches
        return [
            each
            for each, version in zip(chunk, stored, strict=True)
            if version.content is not None and matches(version.content)
        ]

    def _place(self, found: Found) -> tuple[int | str, ...]:
        return place_in_order(found.row.stamp, found.row.id, self._query.order)

    def _page(self, page: PageBuilder, *, more: bool, total: int | None) -> SearchPage:
        return SearchPage(
            resources=page.found,
            next=make_page_token(page.found[-1], self._query.order) if more else None,
            total=total if self._query.counts else None,
        )
