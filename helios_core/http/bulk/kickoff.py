"""The doors where an export begins: one per level."""

from typing import Any

import msgspec
from litestar import Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from helios_core.export.kickoff import dry_run as dry_runs
from helios_core.export.kickoff.accept import accept
from helios_core.export.kickoff.dry_run import Estimate, FileLimits
from helios_core.export.kickoff.parameters import ExportPolicy, KickoffRequest
from helios_core.http.callers import Guard
from helios_core.http.rate_limits import RateLimiter, client_address
from helios_core.http.requests import HTTPRequest, json_body, query_pairs, request_url
from helios_core.http.responses import EmptyResponse, resource_response
from helios_core.model.exports import Level
from helios_core.storage.backends import Backends


class NotOffered(HTTPException):
    """The operator has switched this off."""

    status_code = 501


class ExportQuota(msgspec.Struct, frozen=True, kw_only=True):
    """How many exports there may be."""

    active: int
    """Of one tenant at the same time."""
    per_minute: int
    """Asked for by one client for one tenant; 0 is without a limit."""


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
        self._allowance = RateLimiter(quota.per_minute, "kick-offs")

    def routes(self) -> list[HTTPRouteHandler]:
        """Give a door for every level, open to the methods of the guide."""
        doors = (
            ("/$export", self.system),
            ("/Patient/$export", self.patient),
            ("/Group/{resource_id:str}/$export", self.group),
        )
        methods = self._policy.guide.kick_off_methods
        return [
            route(path, http_method=methods, status_code=202)(answer) for path, answer in doors
        ]

    async def system(self, request: HTTPRequest) -> Response[bytes]:
        """Export everything."""
        return await self._accept(request, Level.SYSTEM)

    async def patient(self, request: HTTPRequest) -> Response[bytes]:
        """Export the compartments of all patients."""
        return await self._accept(request, Level.PATIENT)

    async def group(self, request: HTTPRequest, resource_id: FromPath[str]) -> Response[bytes]:
        """Export the compartments of a group's patients."""
        return await self._accept(request, Level.GROUP, group_id=resource_id)

    async def _accept(
        self, request: HTTPRequest, level: Level, *, group_id: str | None = None
    ) -> Response[bytes]:
        caller = self._guard.admit(request)
        self._allowance.acquire((client_address(request), caller.tenant))
        call = KickoffRequest(
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
        )
        if dry_runs.is_dry_run(call):
            estimate = await dry_runs.estimate(self._backends, call, limits=self._limits)
            return resource_response(caller, estimate_response(estimate))
        job = await accept(
            self._backends, call, max_active=self._max_active, shard_bytes=self._limits.bytes
        )
        headers = {"Content-Location": f"{caller.base}/export-status/{job.id}"}
        if job.request.separate_status:
            headers["Preference-Applied"] = "respond-async, separate-export-status"
        return EmptyResponse(status=202, headers=headers)


def disabled_routes() -> list[HTTPRouteHandler]:
    """Give doors that say that this server offers no exports."""

    async def refuse() -> None:
        raise NotOffered("Exports are switched off on this server (HFS_BULK_EXPORT_ENABLED).")

    paths = [
        "/$export",
        "/Patient/$export",
        "/Group/{resource_id:str}/$export",
        "/export-status/{job_id:str}",
        "/export-file/{job_id:str}/{name:str}",
    ]
    return [route(paths, http_method=["GET", "POST", "DELETE"], status_code=200)(refuse)]


UNITS = "http://unitsofmeasure.org"


def estimate_response(estimate: Estimate) -> bytes:
    """Give an estimate as FHIR; of a call that would be refused only the reasons."""
    accepted = not estimate.refused
    parameters = [
        _entry("accepted", valueBoolean=accepted),
        *(_entry("refused", valueString=reason) for reason in estimate.refused),
        *(_entry("ignored", valueString=reason) for reason in estimate.ignored),
        *(_entry("remark", valueString=remark) for remark in estimate.remarks),
        *(_amounts(estimate) if accepted else ()),
    ]
    return msgspec.json.encode({"resourceType": "Parameters", "parameter": parameters})


def _amounts(estimate: Estimate) -> list[dict[str, Any]]:
    amounts = estimate.types.values()
    return [
        _entry("resources", valueDecimal=sum(amount.resources for amount in amounts)),
        _entry("bytes", valueDecimal=sum(amount.bytes for amount in amounts)),
        _entry("files", valueDecimal=estimate.files),
        *_duration(estimate),
        *(
            _entry(
                "type",
                part=[
                    _entry("type", valueCode=name),
                    _entry("resources", valueDecimal=amount.resources),
                    _entry("bytes", valueDecimal=amount.bytes),
                ],
            )
            for name, amount in sorted(estimate.types.items())
        ),
    ]


def _duration(estimate: Estimate) -> list[dict[str, Any]]:
    if estimate.duration is None:
        return []
    seconds = round(estimate.duration.total_seconds(), 3)
    value = {"value": seconds, "unit": "s", "system": UNITS, "code": "s"}
    return [_entry("expectedDuration", valueDuration=value)]


def _entry(name: str, **value: Any) -> dict[str, Any]:  # noqa: ANN401  a FHIR value of any type
    return {"name": name, **value}
