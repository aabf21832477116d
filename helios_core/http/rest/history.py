"""The doors of earlier versions: one by its number, or all of them in pages."""

from typing import Any

from litestar import Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.errors import ResourceNotFound
from helios_core.fhir.instants import format_instant
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, HTTPRequest, path_type, query_parameters
from helios_core.http.responses import (
    BundleEntry,
    BundleLink,
    BundleResource,
    EntryRequest,
    EntryResponse,
    bundle_response,
    raw_json,
    require_found,
    resource_url,
    version_etag,
    version_response,
)
from helios_core.http.rest.crud import type_paths
from helios_core.interactions.callers import Caller
from helios_core.interactions.paging import parse_count, parse_number
from helios_core.storage.data_provider import StoredVersion, SupportsHistory
from helios_core.storage.keys import TypeKey


class HistoryRoutes:
    """Shows earlier versions."""

    def __init__(self, provider: SupportsHistory, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of one version and of all."""
        every = type_paths("/{resource_id:str}/_history")
        one = type_paths("/{resource_id:str}/_history/{version:str}")
        return [
            route(every, http_method=READ, status_code=200)(self.list),
            route(one, http_method=READ, status_code=200)(self.read),
        ]

    async def read(
        self, request: HTTPRequest, resource_id: FromPath[str], version: FromPath[str]
    ) -> Response[Any]:
        """Give one version."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        if not (version.isascii() and version.isdigit() and len(version) < 18):  # noqa: PLR2004
            raise ResourceNotFound("Versions are whole numbers; there is none of that name.")
        key = TypeKey.of(caller, resource_type).resource(resource_id)
        stored = await self._provider.get_version(key, int(version))
        return version_response(request, caller, stored)

    async def list(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Give a page of versions, newest first."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        given = query_parameters(request, ("_count", "_before"))
        count, before = parse_count(given), parse_number(given, "_before")
        key = TypeKey.of(caller, resource_type).resource(resource_id)
        versions = await self._provider.history(key, count=count + 1, before=before)
        if before is None:
            require_found(versions[0] if versions else None)
        where = f"{resource_url(caller, resource_type, resource_id)}/_history?_count={count}"
        links = [BundleLink("self", where if before is None else f"{where}&_before={before}")]
        if len(versions) > count:
            links.append(BundleLink("next", f"{where}&_before={versions[count - 1].version_id}"))
        return bundle_response(
            caller,
            BundleResource(
                type="history",
                link=tuple(links),
                entry=tuple(_entry(caller, version) for version in versions[:count]),
            ),
        )


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
