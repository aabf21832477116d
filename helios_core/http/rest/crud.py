"""The doors of single resources: read, create, update, delete."""

from typing import Any, Final
from uuid import uuid4

from litestar import Response, delete, post, put, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.errors import UnsupportedParameter
from helios_core.fhir.resources import Resource, parse_resource
from helios_core.http.callers import Guard
from helios_core.http.requests import READ, HTTPRequest, json_body, path_type, query_parameters
from helios_core.http.responses import (
    require_content,
    require_found,
    resource_response,
    resource_url,
    version_etag,
    version_headers,
    version_response,
)
from helios_core.http.rest.binary import binary_response, decode_binary, wants_resource
from helios_core.interactions.callers import Caller, require_type
from helios_core.interactions.conditions import Conditions, parse_condition, parse_if_match
from helios_core.interactions.search import Pairs
from helios_core.storage.data_provider import (
    AppliedChange,
    ChangeResult,
    DataProvider,
    Delete,
    Put,
    StoredVersion,
    SupportsWrites,
)
from helios_core.storage.keys import TypeKey

BINARY: Final = "Binary"


def type_paths(suffix: str = "") -> list[str]:
    """
    Give the paths of a door that every type has.

    Litestar's router never goes back from a literal segment, and the exports put Patient and Group
    into it; `path_type` reads the type in all three cases.
    """
    return [f"{prefix}{suffix}" for prefix in ("/{resource_type:str}", "/Patient", "/Group")]


class ReadRoutes:
    """Shows current resources."""

    def __init__(self, provider: DataProvider, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the door of reading."""
        path = type_paths("/{resource_id:str}")
        return [route(path, http_method=READ, status_code=200)(self.read)]

    async def read(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[Any]:
        """Give the current version, of a Binary what it holds."""
        resource_type = request.scope["path"].split("/")[1]
        caller = self._guard.admit(request, in_any_form=resource_type == BINARY)
        require_type(resource_type, caller.fhir_version)
        query_parameters(request)
        stored = await self._provider.get(TypeKey.of(caller, resource_type).resource(resource_id))
        if resource_type == BINARY:
            binary = decode_binary(require_found(stored))
            if not wants_resource(request, binary.content_type):
                return await binary_response(request, require_found(stored), binary)
        answer = version_response(request, caller, stored)
        if resource_type == BINARY:
            answer.headers["Vary"] = "Accept"
        return answer


class WriteRoutes:
    """Changes resources, one at a time; without conditions none are served."""

    def __init__(
        self, provider: SupportsWrites, guard: Guard, conditions: Conditions | None
    ) -> None:
        self._provider = provider
        self._guard = guard
        self._conditions = conditions

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of creating, updating and deleting."""
        one = type_paths("/{resource_id:str}")
        return [
            post(type_paths())(self.create),
            put(one)(self.update),
            delete(one, status_code=204)(self.delete),
        ]

    async def create(self, request: HTTPRequest) -> Response[bytes]:
        """Store a new resource under an id of the server's choice."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        criteria = self._criteria(request, resource_type)
        body = await json_body(request)

        def resource_of(resource_id: str) -> Resource:
            return parse_resource(
                body,
                caller.fhir_version,
                resource_type=resource_type,
                assigned_id=resource_id,
                base_urls=(caller.base,),
            )

        resource = resource_of(str(uuid4()))
        if criteria is None:
            return await self._put(caller, Put(resource=resource))
        conditions, pairs = criteria

        async def change() -> Response[bytes]:
            match = await conditions.match_or_vacancy(caller, resource_type, pairs)
            if isinstance(match, StoredVersion):
                return _found_answer(caller, match)
            put = Put(resource=resource_of(match.id), if_match=match.version)
            return await self._put(caller, put)

        return await conditions.exactly(caller, change)

    def _criteria(
        self, request: HTTPRequest, resource_type: str
    ) -> tuple[Conditions, Pairs] | None:
        """Give what If-None-Exist asks for, None where there is no condition."""
        values = request.headers.getall("if-none-exist", [])
        if not values:
            return None
        if self._conditions is None:
            raise UnsupportedParameter(
                "If-None-Exist is not served, because this storage cannot be searched."
            )
        return self._conditions, parse_condition("&".join(values), resource_type, "If-None-Exist")

    async def update(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Store a new version, or the first one under an id of the client's choice."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        query_parameters(request)
        resource = parse_resource(
            await json_body(request),
            caller.fhir_version,
            resource_type=resource_type,
            resource_id=resource_id,
            base_urls=(caller.base,),
        )
        if_match = parse_if_match(request.headers.get("if-match"))
        return await self._put(caller, Put(resource=resource, if_match=if_match))

    async def delete(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[None]:
        """Delete a resource; its versions stay. Deleting it again changes nothing."""
        caller = self._guard.admit(request)
        change = Delete(
            resource_type=path_type(request, caller),
            id=resource_id,
            if_match=parse_if_match(request.headers.get("if-match")),
        )
        query_parameters(request)
        [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [change])
        headers = {"ETag": version_etag(applied.version_id)} if applied.version_id else {}
        return Response(None, status_code=204, headers=headers)

    async def _put(self, caller: Caller, change: Put) -> Response[bytes]:
        [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [change])
        return stored_response(caller, change.resource, applied)


def _found_answer(caller: Caller, match: StoredVersion) -> Response[bytes]:
    """Answer a create with what is there already."""
    version = match.version_id
    where = f"{resource_url(caller, match.resource_type, match.id)}/_history/{version}"
    headers = {"Location": where, **version_headers(version, match.last_updated)}
    return resource_response(caller, require_content(match), headers=headers)


def stored_response(caller: Caller, resource: Resource, applied: AppliedChange) -> Response[bytes]:
    """Answer a create or update with what is stored now."""
    version, instant = applied.version_id, applied.last_updated
    assert instant is not None  # noqa: S101 - what was put is there
    created = applied.outcome is ChangeResult.CREATED
    where = f"{resource_url(caller, resource.resource_type, resource.id)}/_history/{version}"
    return resource_response(
        caller,
        resource.stamped(version, instant),
        status=201 if created else 200,
        headers={"Location": where, **version_headers(version, instant)},
    )
