"""The doors of searches: the resources of a type that match, in pages."""

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlencode

from litestar import Response, post, route
from litestar.handlers import HTTPRouteHandler

from helios_core.fhir.outcomes import outcome_line
from helios_core.fhir.preferences import Handling, parse_preferences
from helios_core.fhir.subsetting import keep_elements
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, HTTPRequest, form_pairs, path_type, query_pairs
from helios_core.http.responses import (
    BundleEntry,
    BundleLink,
    BundleResource,
    EntrySearch,
    Mode,
    bundle_response,
    raw_json,
    resource_url,
)
from helios_core.http.rest.crud import type_paths
from helios_core.interactions.callers import Caller
from helios_core.interactions.chains import resolve_chains
from helios_core.interactions.includes import MAX_INCLUDED, find_included
from helios_core.interactions.search import ParsedSearch, TotalMode, parse_search
from helios_core.storage.data_provider import (
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.keys import TypeKey

CUT: Final = (
    f"This page includes {MAX_INCLUDED} resources, or as many bytes as it may; there are more "
    "that _include or _revinclude ask for. Ask for smaller pages with _count, or for the rest in "
    "searches of its own."
)


class SearchRoutes:
    """Finds current resources."""

    def __init__(self, provider: SupportsSearch, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of searching, by address and by form."""
        return [
            route(type_paths(), http_method=READ, status_code=200)(self.search),
            post(type_paths("/_search"), status_code=200)(self.search_by_form),
        ]

    async def search(self, request: HTTPRequest) -> Response[bytes]:
        """Give a page of resources that match."""
        return await self._answer(request, query_pairs(request))

    async def search_by_form(self, request: HTTPRequest) -> Response[bytes]:
        """Give a page of resources that match; address and form count together."""
        return await self._answer(request, query_pairs(request) + await form_pairs(request))

    async def _answer(
        self, request: HTTPRequest, pairs: Sequence[tuple[str, str]]
    ) -> Response[bytes]:
        caller = self._guard.admit(request)
        handling = parse_preferences(request.headers.getall("prefer", [])).handling
        asked = parse_search(
            caller, path_type(request, caller), pairs, lenient=handling is Handling.LENIENT
        )
        return bundle_response(caller, await self.searchset(caller, asked))

    async def searchset(self, caller: Caller, asked: ParsedSearch) -> BundleResource:
        """Give the answer to a search."""
        query = SearchQuery(
            filter=await resolve_chains(self._provider, caller, asked.filter),
            order=asked.order,
            total=asked.only_total or asked.total in (TotalMode.ACCURATE, TotalMode.ESTIMATE),
        )
        page = await self._provider.search(
            TypeKey.of(caller, query.filter.resource_type),
            query,
            count=1 if asked.only_total else asked.count,
            after=None if asked.only_total else asked.after,
        )
        entries = () if asked.only_total else await self._entries(caller, asked, page)
        return BundleResource(
            type="searchset",
            total=_total(asked, page),
            link=tuple(_links(caller, asked, page)),
            entry=(*entries, *(_remark(text, "not-supported") for text in asked.ignored)),
        )

    async def _entries(
        self, caller: Caller, asked: ParsedSearch, page: SearchPage
    ) -> tuple[BundleEntry, ...]:
        beside, cut = await find_included(self._provider, caller, asked.includes, page.resources)
        return (
            *(_entry(caller, asked, each, "match") for each in page.resources),
            *(_entry(caller, asked, each, "include") for each in beside),
            *([_remark(CUT, "incomplete")] if cut else []),
        )


def _total(asked: ParsedSearch, page: SearchPage) -> int | None:
    """Give the number of all matches where it was asked for, or where it is seen anyway."""
    if page.total is not None or asked.total is TotalMode.NONE:
        return page.total
    return len(page.resources) if asked.after is None and page.next is None else None


def _links(caller: Caller, asked: ParsedSearch, page: SearchPage) -> Iterator[BundleLink]:
    """Give the address of this page, without what was ignored, and of its neighbours."""
    where = f"{caller.base}/{asked.resource_type}"

    def link(relation: str, after: str | None) -> BundleLink:
        pairs = [*asked.given, *([] if after is None else [("_after", after)])]
        return BundleLink(relation, f"{where}?{urlencode(pairs)}" if pairs else where)

    yield link("self", asked.after)
    if asked.only_total:
        return
    yield link("first", None)
    if page.next is not None:
        yield link("next", page.next)


def _entry(caller: Caller, asked: ParsedSearch, stored: StoredVersion, mode: Mode) -> BundleEntry:
    content = stored.content or b""
    wanted = asked.elements.get(stored.resource_type)
    if wanted is not None:
        content = keep_elements(caller.fhir_version, stored.resource_type, wanted)(content)[0]
    return BundleEntry(
        full_url=resource_url(caller, stored.resource_type, stored.id),
        resource=raw_json(content),
        search=EntrySearch(mode),
    )


def _remark(text: str, code: str) -> BundleEntry:
    """Give an entry that says how the answer differs from what was asked."""
    outcome = outcome_line("warning", code, text)
    return BundleEntry(resource=raw_json(outcome), search=EntrySearch("outcome"))
