"""The doors of conditional changes: a search says which resource is meant."""

from litestar import Response, delete, put
from litestar.handlers import HTTPRouteHandler

from helios_core.fhir.resources import parse_resource
from helios_core.http.callers import Guard
from helios_core.http.requests import Incoming, body_of, query_of, type_of
from helios_core.http.responses import etag_of
from helios_core.http.rest.crud import paths, stored_answer
from helios_core.interactions.conditions import Conditions, agreed, if_match_of
from helios_core.storage.data_provider import Delete, Put, SupportsWrites


class ConditionalWriting:
    """Updates and deletes the resource that a search finds (FHIR R4, http.html#cond-update)."""

    def __init__(self, provider: SupportsWrites, guard: Guard, conditions: Conditions) -> None:
        self._provider = provider
        self._guard = guard
        self._conditions = conditions

    def routes(self) -> list[HTTPRouteHandler]:
        """Give the doors of updating and deleting by search."""
        return [put(paths())(self.update), delete(paths(), status_code=204)(self.delete)]

    async def update(self, request: Incoming) -> Response[bytes]:
        """Store a new version of what matches, or a new resource where nothing does."""
        caller = self._guard.admit(request)
        resource_type = type_of(request, caller)
        if_match = if_match_of(request.headers.get("if-match"))
        body = await body_of(request)

        async def change() -> Response[bytes]:
            resource_id, version = await self._conditions.place(
                caller, resource_type, query_of(request), body
            )
            resource = parse_resource(
                body,
                caller.fhir_version,
                resource_type=resource_type,
                resource_id=resource_id,
                base_urls=(caller.base,),
            )
            put = Put(resource=resource, if_match=agreed(version, if_match))
            [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [put])
            return stored_answer(caller, resource, applied)

        return await self._conditions.exactly(caller, change)

    async def delete(self, request: Incoming) -> Response[None]:
        """Delete what matches; where nothing does nothing changes."""
        caller = self._guard.admit(request)
        resource_type = type_of(request, caller)
        if_match = if_match_of(request.headers.get("if-match"))

        async def change() -> Response[None]:
            match = await self._conditions.match(caller, resource_type, query_of(request))
            if match is None:
                return Response(None, status_code=204)
            version = agreed(match.version_id, if_match)
            gone = Delete(resource_type=resource_type, id=match.id, if_match=version)
            [applied] = await self._provider.write(caller.tenant, caller.fhir_version, [gone])
            return Response(None, status_code=204, headers={"ETag": etag_of(applied.version_id)})

        return await self._conditions.exactly(caller, change)
