"""The searches inside of a search: answered first, so that its filter can be used."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from helios_core.errors import TooCostly
from helios_core.fhir.search import Filter, Lookup
from helios_core.interactions.callers import Caller
from helios_core.storage.data_provider import SearchQuery, StoredVersion, SupportsSearch
from helios_core.storage.keys import TypeKey

PAGE: Final = 1000
"""How many resources are asked for at a time."""
MAX_LOOKUPS: Final = 20
"""How many chains and `_has` one search may have: each is a search of its own."""
MAX_FOUND: Final = 100_000
"""How many resources a chain or a `_has` may find on the way to its answer."""


async def resolve_chains(provider: SupportsSearch, caller: Caller, search: Filter) -> Filter:
    """
    Give a filter without open lookups.

    Raises:
        TooCostly: There are too many lookups, or one finds more than is looked at.
    """
    if len(search.lookups) > MAX_LOOKUPS:
        raise TooCostly(f"A search may have {MAX_LOOKUPS} chains and _has at most.")
    answers = {each.key: await _ids(provider, caller, each) for each in search.lookups}
    return search.resolved(answers) if answers else search


async def search_all(
    provider: SupportsSearch, caller: Caller, query: SearchQuery
) -> AsyncGenerator[StoredVersion]:
    """Give all matches of a query, page by page."""
    key = TypeKey.of(caller, query.filter.resource_type)
    after: str | None = None
    while True:
        page = await provider.search(key, query, count=PAGE, after=after)
        for stored in page.resources:
            yield stored
        after = page.next
        if after is None:
            return


async def _ids(provider: SupportsSearch, caller: Caller, lookup: Lookup) -> frozenset[str]:
    ids = set[str]()
    looked_at = 0
    async with aclosing(search_all(provider, caller, SearchQuery(filter=lookup.filter))) as found:
        async for stored in found:
            looked_at += 1
            if looked_at > MAX_FOUND:
                raise TooCostly(
                    f"A chain or _has by way of {lookup.resource_type} finds more than "
                    f"{MAX_FOUND} resources there; narrow what it asks of them."
                )
            ids |= lookup.ids_in(stored.content or b"")
    return frozenset(ids)
