"""Routes of versions: one by its number, or those of a resource, of a type or of all types."""

from collections.abc import Iterator
from typing import Any

from litestar import Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.fhir.instants import format_instant
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, HTTPRequest, path_type, query_parameters
from helios_core.http.responses import (
    BundleEntry,
    BundleLink,
    BundleMeta,
    BundleResource,
    EntryRequest,
    EntryResponse,
    bundle_response,
    page_link,
    raw_json,
    resource_url,
    version_etag,
    version_response,
)
from helios_core.http.rest.crud import type_paths
from helios_core.interactions.callers import Caller
from helios_core.interactions.history import (
    HISTORY_PARAMETERS,
    INSTANCE_HISTORY_PARAMETERS,
    HistoryPage,
    HistoryQuery,
    history_instance,
    history_system,
    history_type,
    parse_history,
)
from helios_core.interactions.read import vread
from helios_core.interactions.search import cut
from helios_core.interactions.search_parameters import SUBSET_PARAMETERS, parse_subset
from helios_core.storage.data_provider import (
    StoredVersion,
    SupportsHistory,
    SupportsTypeHistory,
)


class HistoryRoutes:
    """Returns the versions of a resource."""

    def __init__(self, provider: SupportsHistory, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of one version and of all versions of a resource."""
        history = type_paths("/{resource_id:str}/_history")
        version = type_paths("/{resource_id:str}/_history/{version_id:str}")
        return [
            route(history, http_method=READ, status_code=200)(self.history),
            route(version, http_method=READ, status_code=200)(self.vread),
        ]

    async def vread(
        self, request: HTTPRequest, resource_id: FromPath[str], version_id: FromPath[str]
    ) -> Response[Any]:
        """Return one version."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        pairs = query_parameters(request, SUBSET_PARAMETERS)
        elements = parse_subset(caller.fhir_version, resource_type, pairs)
        stored = await vread(self._provider, caller, resource_type, resource_id, version_id)
        return version_response(request, caller, await cut(caller, stored, elements))

    async def history(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Return a page of versions, newest first."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query = parse_history(query_parameters(request, INSTANCE_HISTORY_PARAMETERS))
        page = await history_instance(self._provider, caller, resource_type, resource_id, query)
        path = f"{resource_type}/{resource_id}/_history"
        return bundle_response(caller, history_bundle(caller, path, query, page))


class TypeHistoryRoutes:
    """Returns the versions of all resources of a type, or of all types."""

    def __init__(self, provider: SupportsTypeHistory, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of a type and of the system."""
        return [
            route(type_paths("/_history"), http_method=READ, status_code=200)(self.type_history),
            route("/_history", http_method=READ, status_code=200)(self.system_history),
        ]

    async def type_history(self, request: HTTPRequest) -> Response[bytes]:
        """Return a page of the versions of a type, newest first."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query = parse_history(query_parameters(request, HISTORY_PARAMETERS))
        page = await history_type(self._provider, caller, resource_type, query)
        path = f"{resource_type}/_history"
        return bundle_response(caller, history_bundle(caller, path, query, page))

    async def system_history(self, request: HTTPRequest) -> Response[bytes]:
        """Return a page of all versions, newest first."""
        caller = self._guard.admit(request)
        query = parse_history(query_parameters(request, HISTORY_PARAMETERS))
        page = await history_system(self._provider, caller, query)
        return bundle_response(caller, history_bundle(caller, "_history", query, page))


def history_bundle(
    caller: Caller, path: str, query: HistoryQuery, page: HistoryPage
) -> BundleResource:
    """Return the Bundle of a page of the history at a path."""
    complete_to = page.complete_to
    return BundleResource(
        type="history",
        meta=None if complete_to is None else BundleMeta(format_instant(complete_to)),
        link=tuple(_links(f"{caller.base}/{path}", query, page)),
        entry=tuple(_entry(caller, stored) for stored in page.versions),
    )


def _links(url: str, query: HistoryQuery, page: HistoryPage) -> Iterator[BundleLink]:
    this = [] if query.page is None else [query.page]
    yield page_link("self", url, [*query.parameters, *this])
    if page.next is not None:
        yield page_link("next", url, [*query.parameters, page.next])


def _entry(caller: Caller, stored: StoredVersion) -> BundleEntry:
    if stored.content is None:
        method, status = "DELETE", "204 No Content"
    else:
        method, status = "PUT", "201 Created" if stored.version_id == 1 else "200 OK"
    return BundleEntry(
        full_url=resource_url(caller, stored.resource_type, stored.id),
        resource=raw_json(stored.content),
        request=EntryRequest(method, f"{stored.resource_type}/{stored.id}"),
        response=EntryResponse(
            status=status,
            etag=version_etag(stored.version_id),
            last_modified=format_instant(stored.last_updated),
        ),
    )
