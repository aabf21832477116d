"""Routes that describe the server and report its health."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from litestar import Response, route
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler

from helios_core.errors import BackendError, BackendUnavailable, StoreReplaced
from helios_core.export import oversight
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.definitions import FHIRVersion
from helios_core.http.callers import Guard
from helios_core.http.capability_statement import capability_statement
from helios_core.http.errors import outcome_response
from helios_core.http.health import HealthChecks
from helios_core.http.openapi import openapi_document
from helios_core.http.requests import READ, HTTPRequest, query_parameters
from helios_core.http.responses import resource_response
from helios_core.http.smart_configuration import smart_document
from helios_core.interactions.callers import Caller
from helios_core.storage.backends import Backends
from helios_core.storage.resource_keys import ResourceKey

UNUSED_ID: Final = "readiness"
"""An id that nothing has; a backend that reports so is available."""
TIMEOUT_SECONDS: Final = 5
"""How long all backends together may take to respond."""


class DiscoveryRoutes:
    """Describes the server and reports whether it is ready."""

    def __init__(
        self,
        backends: Backends,
        guard: Guard,
        *,
        guide: Guide | None,
        tenant: str,
        fhir_version: FHIRVersion,
    ) -> None:
        self._backends = backends
        self._checks = HealthChecks(backends.health_checks)
        self._guard = guard
        self._guide = guide
        self._tenant = tenant
        self._fhir_version = fhir_version
        self._date = datetime.now(UTC)

    def routes(self) -> list[HTTPRouteHandler]:
        """Return the routes of description and of health."""
        return [
            route("/metadata", http_method=READ, status_code=200)(self.metadata),
            route("/.well-known/smart-configuration", http_method=READ, status_code=200)(
                self.smart_configuration
            ),
            route("/openapi.json", http_method=READ, status_code=200)(self.openapi),
            route(["/health", "/_readiness"], http_method=READ, status_code=200)(self.ready),
            route("/_liveness", http_method=READ, status_code=200)(self.alive),
        ]

    async def metadata(self, request: HTTPRequest) -> Response[bytes]:
        """Return the CapabilityStatement of the requested FHIR version."""
        caller = self._guard.admit(request)
        query_parameters(request, ("mode",))
        return resource_response(caller, await self.statement(caller))

    async def statement(self, caller: Caller) -> bytes:
        """Return the CapabilityStatement for a caller."""
        # The first statement of a version compiles every search parameter there is.
        return await asyncio.to_thread(
            capability_statement,
            self._backends.data_provider,
            caller.fhir_version,
            base=caller.base,
            guide=self._guide,
            date=self._date,
            secured=self._backends.token_verifier is not None,
        )

    async def smart_configuration(self, request: HTTPRequest) -> Response[bytes]:
        """
        Return where tokens come from, as JSON whatever Accept says (SMART App Launch 2.2).

        Raises:
            NotFoundException: Nobody needs a token here.
            BackendError: The issuer does not say now.
        """
        verifier = self._backends.token_verifier
        if verifier is None:
            raise NotFoundException
        issuer = await verifier.smart_configuration(self._guard.base(request))
        return Response(smart_document(issuer), media_type="application/json")

    async def openapi(self, request: HTTPRequest) -> Response[bytes]:
        """Return the OpenAPI document of the exports and searches."""
        caller = self._guard.admit(request)
        query_parameters(request)
        document = openapi_document(
            self._backends.data_provider, caller.fhir_version, base=caller.base, guide=self._guide
        )
        return Response(document, media_type="application/json")

    async def alive(self) -> dict[str, str]:
        """Report that the process responds, whatever its backends do."""
        return {"status": "ok"}

    async def ready(self) -> dict[str, Any] | Response[bytes]:
        """
        Report that every backend responds and every health check of a plugin passes.

        The status is `degraded` if exports have to wait; requests are answered all the same.

        Raises:
            BackendUnavailable: A backend does not respond, or not within `TIMEOUT_SECONDS`.
        """
        failing, waiting = await asyncio.gather(self._checks.failing(), self._query_in_time())
        if failing:
            text = f"These health checks fail: {', '.join(failing)}. The reasons are in the log."
            return outcome_response(503, BackendUnavailable.code, text)
        return {
            "status": "degraded" if waiting else "ok",
            **({"problems": waiting} if waiting else {}),
            **({"checks": names} if (names := self._checks.names) else {}),
        }

    async def _query_in_time(self) -> list[str]:
        """Query every backend, and return why exports have to wait."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._query_all()
                return await oversight.problems(self._backends.job_store)
        except TimeoutError as error:
            raise BackendUnavailable(
                f"Not all backends responded within {TIMEOUT_SECONDS} seconds."
            ) from error
        except StoreReplaced:
            raise
        except BackendError as error:
            raise BackendUnavailable(f"A backend does not respond: {error}") from error

    async def _query_all(self) -> None:
        key = ResourceKey(self._tenant, self._fhir_version, "Patient", UNUSED_ID)
        await self._backends.data_provider.get(key)
        await self._backends.job_store.exists(self._tenant, UNUSED_ID)
        async for _ in self._backends.output_store.jobs():
            break
