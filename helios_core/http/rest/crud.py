"""Routes of single resources: read, create, update, patch, delete."""

from typing import Any, Final

from litestar import Response, delete, patch, post, put, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.errors import UnsupportedParameter
from helios_core.fhir.outcomes import outcome_line
from helios_core.fhir.preferences import ReturnPreference
from helios_core.http.callers import Guard
from helios_core.http.requests import (
    READ,
    HTTPRequest,
    json_body,
    patch_body,
    path_type,
    preferred_return,
    query_parameters,
)
from helios_core.http.responses import (
    EmptyResponse,
    resource_response,
    resource_url,
    version_etag,
    version_headers,
    version_response,
)
from helios_core.http.rest.binary import binary_response, decode_binary, wants_resource
from helios_core.interactions.callers import Caller, Interaction, require_type
from helios_core.interactions.changes import ChangeRequest, Changes, CompletedChange
from helios_core.interactions.conditions import parse_condition, parse_if_match
from helios_core.interactions.parameters import Pairs
from helios_core.interactions.read import read
from helios_core.interactions.search import cut
from helios_core.interactions.search_parameters import SUBSET_PARAMETERS, parse_subset
from helios_core.storage.data_provider import ChangeResult, DataProvider

BINARY: Final = "Binary"
OUTCOMES: Final = {
    ChangeResult.CREATED: "The resource was created.",
    ChangeResult.UPDATED: "A new version of the resource was stored.",
    ChangeResult.UNCHANGED: "Nothing was stored: the resource is there already.",
    ChangeResult.DELETED: "The resource was deleted.",
    ChangeResult.ABSENT: "There was nothing to delete.",
}
"""The texts for clients that prefer an OperationOutcome."""


def type_paths(suffix: str = "") -> list[str]:
    """
    Return the paths of a route that every resource type has.

    Litestar's router does not backtrack from a literal segment, and the routes of exports have the
    literal segments Patient and Group. `path_type` reads the type in all three cases.
    """
    return [f"{prefix}{suffix}" for prefix in ("/{resource_type:str}", "/Patient", "/Group")]


class ReadRoutes:
    """Returns current resources."""

    def __init__(self, provider: DataProvider, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of reads."""
        path = type_paths("/{resource_id:str}")
        return [route(path, http_method=READ, status_code=200)(self.read)]

    async def read(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[Any]:
        """Return the current version; for a Binary, its content if the client prefers that."""
        resource_type = request.scope["path"].split("/")[1]
        caller = self._guard.admit(request, in_any_form=resource_type == BINARY)
        require_type(resource_type, caller.fhir_version)
        pairs = query_parameters(request, SUBSET_PARAMETERS)
        elements = parse_subset(caller.fhir_version, resource_type, pairs)
        stored = await read(self._provider, caller, resource_type, resource_id)
        if resource_type != BINARY:
            return version_response(request, caller, await cut(caller, stored, elements))
        binary = decode_binary(stored)
        if not wants_resource(request, binary.content_type):
            return await binary_response(request, stored, binary)
        response = version_response(request, caller, await cut(caller, stored, elements))
        response.headers["Vary"] = "Accept"
        return response


class WriteRoutes:
    """Changes resources that are named by their id."""

    def __init__(self, changes: Changes, guard: Guard) -> None:
        self._changes = changes
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of creates, updates, patches and deletes."""
        instance = type_paths("/{resource_id:str}")
        return [
            post(type_paths())(self.create),
            put(instance)(self.update),
            patch(instance)(self.patch),
            delete(instance, status_code=200)(self.delete),
        ]

    async def create(self, request: HTTPRequest) -> Response[bytes]:
        """Store a new resource under an id of the server's, unless If-None-Exist matches one."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        change = ChangeRequest(
            interaction=Interaction.CREATE,
            resource_type=resource_type,
            criteria=_if_none_exist(request, resource_type),
            body=await json_body(request),
        )
        return stored_response(request, caller, await self._changes.apply(caller, change))

    async def update(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Store a new version, or the first one under an id that the client chooses."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        change = ChangeRequest(
            interaction=Interaction.UPDATE,
            resource_type=resource_type,
            id=resource_id,
            body=await json_body(request),
            if_match=parse_if_match(request.headers.get("if-match")),
            only_create=_only_create(request),
        )
        return stored_response(request, caller, await self._changes.apply(caller, change))

    async def patch(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Store a new version: the current one, patched."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        change = ChangeRequest(
            interaction=Interaction.PATCH,
            resource_type=resource_type,
            id=resource_id,
            patch=await patch_body(request),
            if_match=parse_if_match(request.headers.get("if-match")),
        )
        return stored_response(request, caller, await self._changes.apply(caller, change))

    async def delete(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[Any]:
        """Delete a resource; its versions stay. Deleting it again changes nothing."""
        caller = self._guard.admit(request)
        change = ChangeRequest(
            interaction=Interaction.DELETE,
            resource_type=path_type(request, caller),
            id=resource_id,
            if_match=parse_if_match(request.headers.get("if-match")),
        )
        query_parameters(request)
        return deleted_response(request, caller, await self._changes.apply(caller, change))


def stored_response(
    request: HTTPRequest, caller: Caller, completed: CompletedChange
) -> Response[bytes]:
    """Return the response to a create, update or patch, with the content the client prefers."""
    version, instant = completed.version_id, completed.last_updated
    assert instant is not None  # noqa: S101 - a resource that was put has a version
    location = resource_url(caller, completed.resource_type, completed.id)
    status = 201 if completed.outcome is ChangeResult.CREATED else 200
    headers = {
        "Location": f"{location}/_history/{version}",
        **version_headers(version, instant),
    }
    preferred = preferred_return(request)
    if preferred is not None:
        headers["Preference-Applied"] = f"return={preferred}"
    match preferred:
        case ReturnPreference.MINIMAL:
            return EmptyResponse(status=status, headers=headers)
        case ReturnPreference.OPERATION_OUTCOME:
            content = change_outcome(completed)
        case _:
            content = completed.content() or b""
    return resource_response(caller, content, status=status, headers=headers)


def change_outcome(completed: CompletedChange) -> bytes:
    """Return the OperationOutcome of a change, whether or not anything had to be stored."""
    return outcome_line("information", "informational", OUTCOMES[completed.outcome])


def deleted_response(
    request: HTTPRequest, caller: Caller, completed: CompletedChange
) -> Response[Any]:
    """Return the response to a delete, with the ETag of the deletion if there is one."""
    version = completed.version_id
    headers = {"ETag": version_etag(version)} if version else {}
    if preferred_return(request) is not ReturnPreference.OPERATION_OUTCOME:
        return EmptyResponse(status=204, headers=headers)
    headers["Preference-Applied"] = f"return={ReturnPreference.OPERATION_OUTCOME}"
    return resource_response(caller, change_outcome(completed), headers=headers)


def _only_create(request: HTTPRequest) -> bool:
    """
    Return whether an update may only create a resource: `If-None-Match: *`.

    Raises:
        UnsupportedParameter: If-None-Match has another value.
    """
    values = request.headers.getall("if-none-match", [])
    if values and [value.strip() for value in values] != ["*"]:
        raise UnsupportedParameter(
            "If-None-Match of an update is only supported as *; send that, or leave it out."
        )
    return bool(values)


def _if_none_exist(request: HTTPRequest, resource_type: str) -> Pairs | None:
    """Return the criteria of a conditional create, None without If-None-Exist."""
    values = request.headers.getall("if-none-exist", [])
    return parse_condition("&".join(values), resource_type, "If-None-Exist") if values else None
