"""Chained parameters and `_has`: the searches on which another search depends."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from helios_core.errors import TooCostly
from helios_core.fhir.search import Filter, Lookup
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.storage.data_provider import (
    SearchQuery,
    SortOrder,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

PAGE_SIZE: Final = 1000
"""The number of resources that are read at a time."""
MAX_LOOKUPS: Final = 20
"""Maximum number of steps of all chains and `_has` in a search: each is a search of its own."""
MAX_FOUND: Final = 100_000
"""Maximum number of resources that one chain or `_has` may match."""


async def resolve_chains(provider: SupportsSearch, caller: Caller, filter_: Filter) -> Filter:
    """
    Return a filter whose lookups have been replaced by the ids that they find.

    Raises:
        Forbidden: The client may not search a type that a chain or `_has` searches.
        TooCostly: There are more than `MAX_LOOKUPS`, or one matches more than `MAX_FOUND`.
    """
    for lookup in filter_.lookups:
        authorize(caller, Interaction.SEARCH_TYPE, lookup.resource_type)
    if len(filter_.lookups) > MAX_LOOKUPS:
        raise TooCostly(
            f"The chains and _has of a search may have at most {MAX_LOOKUPS} steps together; "
            "several types that a reference can point to are a step each, so name the type."
        )
    ids: dict[str, frozenset[str]] = {}
    for lookup in filter_.lookups:
        ids[lookup.key] = await _ids(provider, caller, lookup.resolved(ids))
    return filter_.resolved(ids)


async def search_pages(
    provider: SupportsSearch, caller: Caller, query: SearchQuery
) -> AsyncGenerator[Sequence[StoredVersion]]:
    """Yield all matches of a query, page by page."""
    key = TypeKey.of(caller, query.filter.resource_type)
    after: str | None = None
    while True:
        page = await provider.search(key, query, count=PAGE_SIZE, after=after)
        yield page.resources
        after = page.next
        if after is None:
            return


async def search_all(
    provider: SupportsSearch, caller: Caller, query: SearchQuery
) -> AsyncGenerator[StoredVersion]:
    """Yield all matches of a query, read page by page."""
    async with aclosing(search_pages(provider, caller, query)) as pages:
        async for page in pages:
            for stored in page:
                yield stored


async def _ids(provider: SupportsSearch, caller: Caller, lookup: Lookup) -> frozenset[str]:
    ids = set[str]()
    number = 0

    def add(page: Sequence[StoredVersion]) -> None:
        for stored in page:
            ids.update(lookup.ids_in(stored.content or b""))

    # In this order a store reads many resources most cheaply, and misses none that changes.
    query = SearchQuery(filter=lookup.filter, order=SortOrder.LAST_UPDATED)
    async with aclosing(search_pages(provider, caller, query)) as pages:
        async for page in pages:
            number += len(page)
            if number > MAX_FOUND:
                raise TooCostly(
                    f"A chain or _has by way of {lookup.resource_type} matches more than "
                    f"{MAX_FOUND} resources there; narrow it."
                )
            await compute(sum(len(stored.content or b"") for stored in page), add, page)
    return frozenset(ids)
