"""The doors of conditional changes: a search says which resource is meant."""

from litestar import Response, delete, put
from litestar.handlers import HTTPRouteHandler

from helios_core.fhir.resources import parse_resource
from helios_core.http.callers import Guard
from helios_core.http.requests import HTTPRequest, json_body, path_type, query_pairs
from helios_core.http.responses import version_etag
from helios_core.http.rest.crud import stored_response, type_paths
from helios_core.interactions.conditions import Conditions, parse_if_match, require_same_version
from helios_core.storage.data_provider import Delete, Put, SupportsWrites


class ConditionalRoutes:
    """Updates and deletes the resource that a search finds (FHIR R4, http.html#cond-update)."""

    def __init__(self, provider: SupportsWrites, guard: Guard, conditions: Conditions) -> None:
        self._provider = provider
        self._guard = guard
        self._conditions = conditions

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of updating and deleting by search."""
        return [put(type_paths())(self.update), delete(type_paths(), status_code=204)(self.delete)]

    async def update(self, request: HTTPRequest) -> Response[bytes]:
        """Store a new version of what matches, or a new resource where nothing does."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        if_match = parse_if_match(request.headers.get("if-match"))
        body = await json_body(request)

        async def change() -> Response[bytes]:
            resource_id, version = await self._conditions.place(
                caller, resource_type, query_pairs(request), body
            )
            resource = parse_resource(
                body,
                caller.fhir_version,
                resource_type=resource_type,
                resource_id=resource_id,
                base_urls=(caller.base,),
            )
            put = Put(resource=resource, if_match=require_same_version(version, if_match))
            [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [put])
            return stored_response(caller, resource, applied)

        return await self._conditions.exactly(caller, change)

    async def delete(self, request: HTTPRequest) -> Response[None]:
        """Delete what matches; where nothing does nothing changes."""
        caller = self._guard.admit(request)
        resource_type = path_type(request, caller)
        if_match = parse_if_match(request.headers.get("if-match"))

        async def change() -> Response[None]:
            match = await self._conditions.match(caller, resource_type, query_pairs(request))
            if match is None:
                return Response(None, status_code=204)
            version = require_same_version(match.version_id, if_match)
            gone = Delete(resource_type=resource_type, id=match.id, if_match=version)
            [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [gone])
            return Response(
                None, status_code=204, headers={"ETag": version_etag(applied.version_id)}
            )

        return await self._conditions.exactly(caller, change)
