"""Routes of searches within compartments, and of patients' records (`$everything`)."""

from collections.abc import Iterator

from litestar import Response, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.fhir.preferences import (
    Handling,
    has_no_effect,
    parse_preferences,
)
from helios_core.http.callers import Guard
from helios_core.http.requests import (
    READ,
    HTTPRequest,
    form_pairs,
    json_body,
    path_type,
    query_pairs,
    query_parameters,
)
from helios_core.http.responses import BundleLink, BundleResource, bundle_response, page_link
from helios_core.http.rest.crud import type_paths
from helios_core.http.rest.search import outcome_entry, search_entry, searchset
from helios_core.interactions.callers import Caller, require_type
from helios_core.interactions.compartments import (
    ALL_TYPES,
    TypesPage,
    TypesQuery,
    parse_all_types,
    parse_compartment,
    parse_compartment_search,
    search_all_types,
    search_compartment,
)
from helios_core.interactions.everything import (
    EVERYTHING,
    EVERYTHING_PARAMETERS,
    Everything,
    EverythingPage,
    parameter_pairs,
    parse_everything,
)
from helios_core.interactions.parameters import Pairs
from helios_core.storage.data_provider import SupportsSearch
from helios_core.storage.threads import LARGE_BYTES, compute


class CompartmentRoutes:
    """Searches within the compartments of single resources."""

    def __init__(self, provider: SupportsSearch, guard: Guard, *, page_bytes: int) -> None:
        self._provider = provider
        self._guard = guard
        self._page_bytes = page_bytes

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of searches within a compartment, by URL and by form."""
        path = "/{resource_id:str}/{searched:str}"
        return [
            route(type_paths(path), http_method=READ, status_code=200)(self.search),
            post(type_paths(f"{path}/_search"), status_code=200)(self.search_by_form),
        ]

    async def search(
        self, request: HTTPRequest, resource_id: FromPath[str], searched: FromPath[str]
    ) -> Response[bytes]:
        """Return a page of the resources that match, of one type or of all."""
        return await self._search(request, resource_id, searched, query_pairs(request))

    async def search_by_form(
        self, request: HTTPRequest, resource_id: FromPath[str], searched: FromPath[str]
    ) -> Response[bytes]:
        """Return a page of the resources that match the parameters of both URL and form."""
        pairs = query_pairs(request) + await form_pairs(request)
        return await self._search(request, resource_id, searched, pairs)

    async def _search(
        self, request: HTTPRequest, resource_id: str, searched: str, pairs: Pairs
    ) -> Response[bytes]:
        caller = self._guard.admit(request)
        compartment = parse_compartment(caller, path_type(request, caller), resource_id)
        handling = parse_preferences(request.headers.getall("prefer", [])).handling
        if searched == ALL_TYPES:
            effective = [pair for pair in pairs if not has_no_effect(pair[0])]
            # The first search of a version compiles the parameters of every type.
            query = await compute(LARGE_BYTES, parse_all_types, caller, compartment, effective)
            page = await search_all_types(self._provider, caller, query)
            return bundle_response(caller, types_bundle(caller, query, page))
        search = await compute(
            sum(len(value) for _, value in pairs),
            parse_compartment_search,
            caller,
            compartment,
            require_type(searched, caller.fhir_version),
            pairs,
            lenient=handling is Handling.LENIENT,
        )
        result = await search_compartment(
            self._provider, caller, search, max_bytes=self._page_bytes
        )
        return bundle_response(caller, searchset(caller, result, path=search.path))


class EverythingRoutes:
    """Returns patients' records (FHIR R4, Patient-operation-everything)."""

    def __init__(self, everything: Everything, guard: Guard) -> None:
        self._everything = everything
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of the operation."""
        path = f"/Patient/{{resource_id:str}}/{EVERYTHING}"
        return [
            route(path, http_method=READ, status_code=200)(self.get),
            post(path, status_code=200)(self.post),
        ]

    async def get(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Return a page of a record."""
        pairs = query_parameters(request, EVERYTHING_PARAMETERS)
        return await self._page(request, resource_id, pairs)

    async def post(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Return a page of a record, by the parameters of both URL and body."""
        pairs = query_parameters(request, EVERYTHING_PARAMETERS)
        body = await json_body(request)
        pairs += await compute(len(body), parameter_pairs, body)
        return await self._page(request, resource_id, pairs)

    async def _page(self, request: HTTPRequest, resource_id: str, pairs: Pairs) -> Response[bytes]:
        caller = self._guard.admit(request)
        # The first request of a version compiles the parameters of every type.
        parsed = await compute(LARGE_BYTES, parse_everything, caller, resource_id, pairs)
        page = await self._everything.page(caller, parsed)
        return bundle_response(caller, everything_bundle(caller, page))


def types_bundle(caller: Caller, query: TypesQuery, page: TypesPage) -> BundleResource:
    """Return the Bundle of a page of a search of several types."""
    return BundleResource(
        type="searchset",
        link=tuple(_links(caller, query, page)),
        entry=tuple(search_entry(caller, stored, "match") for stored in page.matches),
    )


def everything_bundle(caller: Caller, page: EverythingPage) -> BundleResource:
    """Return the Bundle of a page of a record."""
    return BundleResource(
        type="searchset",
        link=tuple(_links(caller, page.request.query, page.page)),
        entry=(
            *(search_entry(caller, stored, "match") for stored in page.page.matches),
            *(search_entry(caller, stored, "include") for stored in page.included),
            *(outcome_entry(remark) for remark in page.remarks),
        ),
    )


def _links(caller: Caller, query: TypesQuery, page: TypesPage) -> Iterator[BundleLink]:
    for relation, after in (("self", query.after), ("next", page.next)):
        if relation == "self" or after is not None:
            pairs = [*query.parameters, *([] if after is None else [("_after", after)])]
            yield page_link(relation, f"{caller.base}/{query.path}", pairs)
