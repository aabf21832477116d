"""Routes of conditional updates, patches and deletes (FHIR R4, http.html#cond-update)."""

from typing import Any

from litestar import Response, delete, patch, put
from litestar.handlers import HTTPRouteHandler

from helios_core.http.callers import Guard
from helios_core.http.requests import HTTPRequest, json_body, patch_body, path_type, query_pairs
from helios_core.http.rest.crud import deleted_response, stored_response, type_paths
from helios_core.interactions.callers import Interaction
from helios_core.interactions.changes import ChangeRequest, Changes
from helios_core.interactions.conditions import parse_if_match


class ConditionalRoutes:
    """Changes the resource that a search matches."""

    def __init__(self, changes: Changes, guard: Guard) -> None:
        self._changes = changes
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of changes by search."""
        return [
            put(type_paths())(self.update),
            patch(type_paths())(self.patch),
            delete(type_paths(), status_code=200)(self.delete),
        ]

    async def update(self, request: HTTPRequest) -> Response[bytes]:
        """Store a new version of the resource that matches, or a new resource if none does."""
        caller = self._guard.admit(request)
        change = ChangeRequest(
            interaction=Interaction.UPDATE,
            resource_type=path_type(request, caller),
            if_match=parse_if_match(request.headers.get("if-match")),
            body=await json_body(request),
            criteria=query_pairs(request),
        )
        return stored_response(request, caller, await self._changes.apply(caller, change))

    async def patch(self, request: HTTPRequest) -> Response[bytes]:
        """Store a new version of the resource that matches: the current one, patched."""
        caller = self._guard.admit(request)
        change = ChangeRequest(
            interaction=Interaction.PATCH,
            resource_type=path_type(request, caller),
            if_match=parse_if_match(request.headers.get("if-match")),
            patch=await patch_body(request),
            criteria=query_pairs(request),
        )
        return stored_response(request, caller, await self._changes.apply(caller, change))

    async def delete(self, request: HTTPRequest) -> Response[Any]:
        """Delete the resource that matches; if none does, change nothing."""
        caller = self._guard.admit(request)
        change = ChangeRequest(
            interaction=Interaction.DELETE,
            resource_type=path_type(request, caller),
            if_match=parse_if_match(request.headers.get("if-match")),
            criteria=query_pairs(request),
        )
        return deleted_response(request, caller, await self._changes.apply(caller, change))
