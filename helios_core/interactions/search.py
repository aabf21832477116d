"""Search-type: the resources of one type that match, in pages (FHIR R4, http.html#search)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from helios_core.fhir.search.sorting import Sort
from helios_core.fhir.subsetting import keep_elements
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.chains import resolve_chains
from helios_core.interactions.includes import (
    MAX_INCLUDED,
    MAX_ROUNDS,
    MAX_SEARCHES,
    find_included,
)
from helios_core.interactions.search_parameters import ParsedSearch, TotalMode
from helios_core.interactions.sorting import sorted_page
from helios_core.storage.data_provider import (
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.ordered_search import SupportsFirstMatches
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

INCOMPLETE: Final = (
    f"This page includes at most {MAX_INCLUDED} resources, a limited number of bytes, and what "
    f"{MAX_ROUNDS} rounds of :iterate and {MAX_SEARCHES} searches find; _include or _revinclude "
    "may match more. Request smaller pages with _count, or search for the included resources "
    "themselves."
)


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a result differs from what was requested."""

    code: str
    """The FHIR issue-type code (http://hl7.org/fhir/issue-type)."""
    text: str


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a search."""

    search: ParsedSearch
    matches: Sequence[StoredVersion] = ()
    """The resources of this page; with `_elements` their contents are subsets."""
    included: Sequence[StoredVersion] = ()
    """The resources that `_include` and `_revinclude` add to them."""
    total: int | None = None
    """The number of all matches; None if it was not requested and is not known anyway."""
    next: str | None = None
    """The `_after` of the next page; None on the last one."""
    remarks: Sequence[Remark] = ()


async def search_type(
    provider: SupportsSearch, caller: Caller, search: ParsedSearch, *, max_bytes: int
) -> SearchResult:
    """
    Return a page of the resources that match.

    Its matches as they are stored have at most `max_bytes` bytes in total, unless a single one has
    more; the included resources have at most `max_bytes` as well.

    Raises:
        ResourceNotFound: There is no such type.
        InvalidParameter: `_after` does not come from a page of this search.
        TooCostly: It has too many chains, or one that matches too much, or too much to sort.
    """
    authorize(caller, Interaction.SEARCH_TYPE, search.resource_type)
    page = await _page(provider, caller, search, max_bytes)
    ignored = [Remark(code="not-supported", text=text) for text in search.ignored]
    if search.only_total:
        return SearchResult(search=search, total=_total(search, page), remarks=ignored)
    included, truncated = await find_included(
        provider, caller, search.includes, page.resources, max_bytes=max_bytes
    )
    incomplete = [Remark(code="incomplete", text=INCOMPLETE)] if truncated else []
    return SearchResult(
        search=search,
        matches=await _cut(caller, search, page.resources),
        included=await _cut(caller, search, included),
        total=_total(search, page),
        next=page.next,
        remarks=[*incomplete, *ignored],
    )


async def _page(
    provider: SupportsSearch, caller: Caller, search: ParsedSearch, max_bytes: int
) -> SearchPage:
    query = SearchQuery(
        filter=await resolve_chains(provider, caller, search.filter),
        total=_is_total_requested(search),
        max_bytes=max_bytes,
    )
    key = TypeKey.of(caller, search.resource_type)
    find = partial(provider.search, key)
    if search.only_total:
        return await find(query, count=1)
    if isinstance(search.order, Sort):
        ordered = provider if isinstance(provider, SupportsFirstMatches) else None
        return await sorted_page(
            find,
            query,
            search.order,
            count=search.count,
            after=search.after,
            find_first=partial(ordered.first_matches, key) if ordered else None,
        )
    query = msgspec.structs.replace(query, order=search.order)
    return await find(query, count=search.count, after=search.after)


def _is_total_requested(search: ParsedSearch) -> bool | None:
    """Return whether the total is requested; None if it is returned when it costs nothing."""
    if search.only_total or search.total in (TotalMode.ACCURATE, TotalMode.ESTIMATE):
        return True
    return None if search.total is None else False


def _total(search: ParsedSearch, page: SearchPage) -> int | None:
    """Return the number of all matches if it was requested or this is the only page."""
    if search.total is TotalMode.NONE and not search.only_total:
        return None
    if page.total is not None:
        return page.total
    return len(page.resources) if search.after is None and page.next is None else None


async def _cut(
    caller: Caller, search: ParsedSearch, resources: Sequence[StoredVersion]
) -> Sequence[StoredVersion]:
    """Return resources reduced to the elements that the search requests of their type."""
    size = sum(len(stored.content or b"") for stored in resources)
    return await compute(size, lambda: tuple(_subsets(caller, search, resources)))


async def cut(
    caller: Caller, stored: StoredVersion, elements: frozenset[str] | None
) -> StoredVersion:
    """Return a resource reduced to the given and the mandatory root elements."""
    return await compute(len(stored.content or b""), _subset, caller, stored, elements)


def _subset(
    caller: Caller, stored: StoredVersion, elements: frozenset[str] | None
) -> StoredVersion:
    if elements is None or stored.content is None:
        return stored
    trim = keep_elements(caller.fhir_version, stored.resource_type, elements)
    return msgspec.structs.replace(stored, content=trim(stored.content)[0])


def _subsets(
    caller: Caller, search: ParsedSearch, resources: Sequence[StoredVersion]
) -> Iterator[StoredVersion]:
    for stored in resources:
        elements = search.kept_elements(caller.fhir_version, stored.resource_type)
        yield _subset(caller, stored, elements)
