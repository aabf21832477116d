"""The routes for starting an export, one per level, or estimating it (`_dryRun`)."""

from typing import Any, Final

import msgspec
import structlog
from litestar import Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.export.kickoff.accept import accept
from helios_core.export.kickoff.dry_run import Estimate, FileLimits, estimate, is_dry_run
from helios_core.export.kickoff.request import ExportPolicy, KickoffRequest
from helios_core.http.callers import Guard
from helios_core.http.rate_limits import RateLimiter
from helios_core.http.requests import HTTPRequest, json_body, query_pairs, request_url
from helios_core.http.responses import EmptyResponse, resource_response
from helios_core.model.exports import Level
from helios_core.storage.backends import Backends
from helios_core.storage.threads import compute

UCUM: Final = "http://unitsofmeasure.org"
"""The code system of units."""


class ExportsDisabled(HTTPException):
    """The operator has switched exports off."""

    status_code = 501


class ExportQuota(msgspec.Struct, frozen=True, kw_only=True):
    """How many exports may be started."""

    active: int
    """Maximum number of exports of one tenant that run at the same time."""
    per_minute: int
    """Maximum number of kick-offs of one client for one tenant; 0 means no limit."""


class KickoffRoutes:
    """Accepts exports (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    def __init__(
        self,
        backends: Backends,
        guard: Guard,
        *,
        policy: ExportPolicy,
        quota: ExportQuota,
        limits: FileLimits,
    ) -> None:
        self._backends = backends
        self._guard = guard
        self._policy = policy
        self._max_active = quota.active
        self._limits = limits
        self._rate_limiter = RateLimiter(quota.per_minute, "kick-offs")

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the route of every level, for the methods of the guide's version."""
        handlers = (
            ("/$export", self.system),
            ("/Patient/$export", self.patient),
            ("/Group/{resource_id:str}/$export", self.group),
        )
        methods = self._policy.guide.kick_off_methods
        return [
            route(path, http_method=methods, status_code=202)(handler)
            for path, handler in handlers
        ]

    async def system(self, request: HTTPRequest) -> Response[bytes]:
        """Export everything."""
        return await self._kick_off(request, Level.SYSTEM)

    async def patient(self, request: HTTPRequest) -> Response[bytes]:
        """Export the compartments of all patients."""
        return await self._kick_off(request, Level.PATIENT)

    async def group(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Export the compartments of a group's patients."""
        return await self._kick_off(request, Level.GROUP, group_id=resource_id)

    async def _kick_off(
        self, request: HTTPRequest, level: Level, *, group_id: str | None = None
    ) -> Response[bytes]:
        caller = self._guard.admit(request)
        self._rate_limiter.acquire((self._guard.client(request), caller.tenant))
        kickoff = KickoffRequest(
            tenant=caller.tenant,
            fhir_version=caller.fhir_version,
            level=level,
            group_id=group_id,
            url=request_url(request, caller.base),
            query=query_pairs(request),
            body=await json_body(request) if request.method == "POST" else None,
            prefer=request.headers.getall("prefer", []),
            base_url=caller.base,
            policy=self._policy,
            principal=caller.principal,
            authorizer=self._backends.file_authorizer,
        )
        if await compute(kickoff.size, is_dry_run, kickoff):
            estimated = await estimate(self._backends, kickoff, limits=self._limits)
            return resource_response(caller, _estimate_parameters(estimated))
        job = await accept(
            self._backends, kickoff, max_active=self._max_active, shard_bytes=self._limits.bytes
        )
        structlog.contextvars.bind_contextvars(job_id=job.id)
        headers = {"Content-Location": f"{caller.base}/export-status/{job.id}"}
        if job.request.separate_status:
            headers["Preference-Applied"] = "respond-async, separate-export-status"
        return EmptyResponse(status=202, headers=headers)


def disabled_routes() -> list[HTTPRouteHandler]:
    """Return the routes of a server on which exports are switched off; they respond with 501."""

    async def refuse() -> None:
        raise ExportsDisabled("Exports are switched off on this server (HFS_BULK_EXPORT_ENABLED).")

    paths = [
        "/$export",
        "/Patient/$export",
        "/Group/{resource_id:str}/$export",
        "/export-status",
        "/export-status/{job_id:str}",
        "/export-file/{job_id:str}/{name:str}",
    ]
    return [route(paths, http_method=["GET", "POST", "DELETE"], status_code=200)(refuse)]


def _estimate_parameters(estimated: Estimate) -> bytes:
    """Return an estimate as a Parameters resource; for a refused kick-off only the reasons."""
    accepted = not estimated.refused
    parameters = [
        _parameter("accepted", valueBoolean=accepted),
        *(_parameter("refused", valueString=reason) for reason in estimated.refused),
        *(_parameter("ignored", valueString=reason) for reason in estimated.ignored),
        *(_parameter("remark", valueString=remark) for remark in estimated.remarks),
        *(_amounts(estimated) if accepted else ()),
    ]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": parameters})


def _amounts(estimated: Estimate) -> list[dict[str, Any]]:
    resources = sum(amount.resources for amount in estimated.types.values())
    size = sum(amount.bytes for amount in estimated.types.values())
    return [
        _parameter("resources", valueDecimal=resources),
        _parameter("bytes", valueDecimal=size),
        _parameter("files", valueDecimal=estimated.files),
        *_expected_duration(estimated),
        *(
            _parameter(
                "type",
                part=[
                    _parameter("type", valueCode=resource_type),
                    _parameter("resources", valueDecimal=amount.resources),
                    _parameter("bytes", valueDecimal=amount.bytes),
                ],
            )
            for resource_type, amount in sorted(estimated.types.items())
        ),
    ]


def _expected_duration(estimated: Estimate) -> list[dict[str, Any]]:
    if estimated.duration is None:
        return []
    seconds = round(estimated.duration.total_seconds(), 3)
    value = {"value": seconds, "unit": "s", "system": UCUM, "code": "s"}
    return [_parameter("expectedDuration", valueDuration=value)]


def _parameter(name: str, **value: Any) -> dict[str, Any]:  # noqa: ANN401  any FHIR type
    return {"name": name, **value}
