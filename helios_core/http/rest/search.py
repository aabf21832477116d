"""Routes of searches within one type."""

from collections.abc import Iterator
from uuid import NAMESPACE_URL, uuid5

from litestar import Response, post, route
from litestar.handlers import HTTPRouteHandler

from helios_core.fhir.outcomes import outcome_line
from helios_core.fhir.preferences import Handling, parse_preferences
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, HTTPRequest, form_pairs, path_type, query_pairs
from helios_core.http.responses import (
    BundleEntry,
    BundleLink,
    BundleResource,
    EntrySearch,
    Mode,
    bundle_response,
    page_link,
    raw_json,
    resource_url,
)
from helios_core.http.rest.crud import type_paths
from helios_core.interactions.callers import Caller
from helios_core.interactions.parameters import Pairs
from helios_core.interactions.search import Remark, SearchResult, search_type
from helios_core.interactions.search_parameters import parse_search
from helios_core.storage.data_provider import StoredVersion, SupportsSearch
from helios_core.storage.threads import compute


class SearchRoutes:
    """Searches current resources."""

    def __init__(self, provider: SupportsSearch, guard: Guard, *, page_bytes: int) -> None:
        self._provider = provider
        self._guard = guard
        self._page_bytes = page_bytes

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of searches, by URL and by form."""
        return [
            route(type_paths(), http_method=READ, status_code=200)(self.search),
            post(type_paths("/_search"), status_code=200)(self.search_by_form),
        ]

    async def search(self, request: HTTPRequest) -> Response[bytes]:
        """Return a page of the resources that match."""
        return await self._search(request, query_pairs(request))

    async def search_by_form(self, request: HTTPRequest) -> Response[bytes]:
        """Return a page of the resources that match the parameters of both URL and form."""
        return await self._search(request, query_pairs(request) + await form_pairs(request))

    async def _search(self, request: HTTPRequest, pairs: Pairs) -> Response[bytes]:
        caller = self._guard.admit(request)
        handling = parse_preferences(request.headers.getall("prefer", [])).handling
        search = await compute(
            sum(len(value) for _, value in pairs),
            parse_search,
            caller,
            path_type(request, caller),
            pairs,
            lenient=handling is Handling.LENIENT,
        )
        result = await search_type(self._provider, caller, search, max_bytes=self._page_bytes)
        return bundle_response(caller, searchset(caller, result))


def searchset(caller: Caller, result: SearchResult, *, path: str | None = None) -> BundleResource:
    """Return the Bundle of a search's result; without `path` it is a search of the type."""
    return BundleResource(
        type="searchset",
        total=result.total,
        link=tuple(_links(caller, result, path or result.search.resource_type)),
        entry=(
            *(search_entry(caller, stored, "match") for stored in result.matches),
            *(search_entry(caller, stored, "include") for stored in result.included),
            *(outcome_entry(remark) for remark in result.remarks),
        ),
    )


def _links(caller: Caller, result: SearchResult, path: str) -> Iterator[BundleLink]:
    """Yield the URLs of this page, without ignored parameters, and of the first and next one."""
    search = result.search
    url = f"{caller.base}/{path}"

    def link(relation: str, after: str | None) -> BundleLink:
        pairs = [*search.parameters, *([] if after is None else [("_after", after)])]
        return page_link(relation, url, pairs)

    yield link("self", search.after)
    if search.only_total:
        return
    yield link("first", None)
    if result.next is not None:
        yield link("next", result.next)


def search_entry(caller: Caller, stored: StoredVersion, mode: Mode) -> BundleEntry:
    """Return the entry of a resource, which matches the search or is included."""
    return BundleEntry(
        full_url=resource_url(caller, stored.resource_type, stored.id),
        resource=raw_json(stored.content),
        search=EntrySearch(mode),
    )


def outcome_entry(remark: Remark) -> BundleEntry:
    """Return the entry of a remark."""
    outcome = outcome_line("warning", remark.code, remark.text)
    return BundleEntry(
        # Every entry of a searchset needs one, and two remarks never have the same text.
        full_url=uuid5(NAMESPACE_URL, remark.text).urn,
        resource=raw_json(outcome),
        search=EntrySearch("outcome"),
    )
