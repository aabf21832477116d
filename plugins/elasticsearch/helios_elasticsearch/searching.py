"""Searches within one resource type, whose hits are checked where a query is too broad."""

from collections.abc import Sequence
from typing import Any

import msgspec
from elasticsearch import AsyncElasticsearch

from helios_core import IndexedVersion, IndexQuery, TypeKey, place_in_index
from helios_core.fhir import ValueOrder, satisfies
from helios_elasticsearch.documents import FIELDS, INDEXED, Hit, collection
from helios_elasticsearch.errors import translated
from helios_elasticsearch.mappings import MAX_HITS
from helios_elasticsearch.queries import Request, place_of, requests, sort_of
from helios_elasticsearch.responses import hits_of, total_of
from helios_elasticsearch.states import State

LOOKED_AT = 500
"""The fewest hits that one request fetches if they have to be checked."""


class Search:
    """One query within one resource type of one build."""

    def __init__(
        self, client: AsyncElasticsearch, state: State, key: TypeKey, query: IndexQuery
    ) -> None:
        self._client = client
        self._index = state.entries
        self._collection = collection(state.build, key.resource_type)
        self._query = query
        self._requests = requests(self._collection, query)

    async def page(self, count: int, after: IndexedVersion | None) -> Sequence[IndexedVersion]:
        """Return at most `count` entries after a position, in the order of the query."""
        pages = [await self._page(request, count, after) for request in self._requests]
        if len(pages) == 1:
            return pages[0]
        found = list({version.id: version for page in pages for version in page}.values())
        found.sort(key=lambda version: place_in_index(version, self._query.order))
        return found[:count]

    async def total(self) -> int:
        """Return how many entries the query finds."""
        if len(self._requests) == 1 and self._requests[0].exact:
            return await total_of(self._client, self._index, self._requests[0].query)
        total, page = 0, await self.page(MAX_HITS, None)
        while page:
            total += len(page)
            page = await self.page(MAX_HITS, page[-1]) if len(page) == MAX_HITS else ()
        return total

    async def _page(
        self, request: Request, count: int, after: IndexedVersion | None
    ) -> list[IndexedVersion]:
        if request.exact:
            hits = await self._hits(request, count, after)
            return [hit.version(self._query.order) for hit in hits]
        found, size = list[IndexedVersion](), min(max(count, LOOKED_AT), MAX_HITS)
        while True:
            hits = await self._hits(request, size, after)
            found += (hit.version(self._query.order) for hit in hits if self._is_requested(hit))
            if len(found) >= count or len(hits) < size:
                return found[:count]
            after = hits[-1].version(self._query.order)

    async def _hits(
        self, request: Request, size: int, after: IndexedVersion | None
    ) -> Sequence[Hit]:
        order = self._query.order
        options: dict[str, Any] = {"source": False, "stored_fields": "_none_"}
        if not request.exact:
            options = {"source": INDEXED}
        if after is not None:
            options["search_after"] = place_of(order, self._collection, after)
        hits = await hits_of(
            self._client,
            self._index,
            parts=["fields", "_source", *(["sort"] if isinstance(order, ValueOrder) else [])],
            query=request.query,
            sort=sort_of(order),
            size=size,
            docvalue_fields=FIELDS,
            **options,
        )
        with translated():
            return msgspec.convert(hits, list[Hit])

    def _is_requested(self, hit: Hit) -> bool:
        query = self._query
        version = hit.version(query.order)
        if query.changed_after is not None and version.updated > query.changed_after:
            return True
        if version.deleted or query.prefilter is None:
            return not version.deleted
        terms = hit.source.decode()
        return satisfies(query.prefilter, terms, resource_id=version.id, updated=version.updated)
