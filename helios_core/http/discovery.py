"""Routes that describe the server and report its health."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog
from litestar import Response, route
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler

from helios_core.errors import BackendError, BackendUnavailable, StoreReplaced
from helios_core.export import oversight
from helios_core.fhir.bulk_data import Guide
from helios_core.fhir.definitions import FHIRVersion
from helios_core.hashes import HASH_MODULUS, line_hash
from helios_core.http.callers import Guard
from helios_core.http.capability_statement import (
    OAuthURIs,
    capability_elements,
    capability_statement,
)
from helios_core.http.compression import compressed
from helios_core.http.errors import outcome_response
from helios_core.http.health import HealthChecks
from helios_core.http.negotiation import prefers_gzip
from helios_core.http.openapi import Service, openapi_document
from helios_core.http.ranges import is_not_modified
from helios_core.http.requests import READ, HTTPRequest, query_parameters
from helios_core.http.smart_configuration import smart_document
from helios_core.interactions.callers import Caller
from helios_core.interactions.search_parameters import SUBSET_PARAMETERS
from helios_core.storage.backends import Backends
from helios_core.storage.resource_keys import ResourceKey

log = structlog.stdlib.get_logger()

Subject = TypeVar("Subject", bound=Hashable)

UNUSED_ID: Final = "readiness"
"""An id without a resource or job; a backend that reports its absence is available."""
TIMEOUT_SECONDS: Final = 5
"""How long a backend may take to respond."""
MAX_DOCUMENTS: Final = 16
"""The size of the cache: without a configured base URL, clients could fill it with their own."""


class Document(msgspec.Struct, frozen=True):
    """A document in the forms in which it is sent."""

    content: bytes
    compressed: bytes
    etag: str


class Documents(Generic[Subject]):
    """A cache of documents by FHIR version and subject, such as a base URL."""

    def __init__(self, build: Callable[[FHIRVersion, Subject], bytes]) -> None:
        self._build = build
        self._cache = OrderedDict[tuple[FHIRVersion, Subject], Document]()

    async def get(self, version: FHIRVersion, subject: Subject) -> Document:
        """Return a document, built in a thread unless it was requested recently."""
        key = (version, subject)
        if key not in self._cache:
            self._cache[key] = await asyncio.to_thread(self._make, version, subject)
        self._cache.move_to_end(key)
        while len(self._cache) > MAX_DOCUMENTS:
            self._cache.popitem(last=False)
        return self._cache[key]

    def _make(self, version: FHIRVersion, subject: Subject) -> Document:
        content = self._build(version, subject)
        etag = f'W/"{line_hash(content) & (HASH_MODULUS - 1):016x}"'
        return Document(content, compressed(content), etag)


def _document_response(request: HTTPRequest, document: Document, media_type: str) -> Response[Any]:
    """Return a response with a document, or 304 if the client has it already."""
    headers = {
        "ETag": document.etag,
        "Vary": "Accept, Accept-Encoding",
        "Cache-Control": "private, no-cache",  # a cache must revalidate it before each use
    }
    if is_not_modified(request.headers.getall("if-none-match", []), document.etag):
        return Response(None, status_code=304, headers=headers)
    content = document.content
    if prefers_gzip(request.headers.getall("accept-encoding", [])):
        content = document.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


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
        self._elements = dict[FHIRVersion, dict[str, Any]]()
        self._statements = Documents(self._build_statement)
        self._descriptions = Documents(self._build_description)

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

    async def metadata(self, request: HTTPRequest) -> Response[Any]:
        """Return the CapabilityStatement of the requested FHIR version."""
        caller = self._guard.admit(request)
        # Servers need not reduce what they return (FHIR R4, search.html#summary).
        query_parameters(request, ("mode", *SUBSET_PARAMETERS))
        document = await self._statement(caller)
        return _document_response(request, document, caller.media_type)

    async def statement(self, caller: Caller) -> bytes:
        """Return the CapabilityStatement for a caller."""
        return (await self._statement(caller)).content

    async def _statement(self, caller: Caller) -> Document:
        urls = await self._issuer_urls(caller.base)
        authorize, token = urls.get("authorization_endpoint"), urls.get("token_endpoint")
        oauth = None
        if authorize is not None and token is not None:
            oauth = OAuthURIs(authorize=authorize, token=token)
        return await self._statements.get(caller.fhir_version, (caller.base, oauth))

    async def smart_configuration(self, request: HTTPRequest) -> Response[bytes]:
        """
        Return the SMART configuration, as JSON whatever Accept says (SMART App Launch 2.2).

        Raises:
            NotFoundException: The server needs no tokens.
            BackendError: The issuer does not respond now.
        """
        verifier = self._backends.token_verifier
        if verifier is None:
            raise NotFoundException
        issuer = await verifier.smart_configuration(self._guard.base(request))
        return Response(smart_document(issuer), media_type="application/json")

    async def openapi(self, request: HTTPRequest) -> Response[Any]:
        """Return the OpenAPI document of the exports and searches."""
        caller = self._guard.admit(request)
        query_parameters(request)
        service = Service(
            base=caller.base,
            secured=self._backends.token_verifier is not None,
            token_url=(await self._issuer_urls(caller.base)).get("token_endpoint"),
            tenants=self._guard.tenant_routing(request),
            default_tenant=self._tenant,
        )
        document = await self._descriptions.get(caller.fhir_version, service)
        return _document_response(request, document, "application/json")

    async def _issuer_urls(self, base: str) -> Mapping[str, str]:
        """Return the URLs that the issuer publishes, none if it does not respond."""
        verifier = self._backends.token_verifier
        if verifier is None:
            return {}
        try:
            published = await verifier.smart_configuration(base)
        except BackendError:
            return {}
        return {name: value for name, value in published.items() if isinstance(value, str)}

    def _build_statement(self, version: FHIRVersion, about: tuple[str, OAuthURIs | None]) -> bytes:
        if version not in self._elements:
            # This compiles all search parameters of the version, so it is done only once.
            self._elements[version] = capability_elements(
                self._backends.data_provider,
                version,
                guide=self._guide,
                date=self._date,
                secured=self._backends.token_verifier is not None,
            )
        base, oauth = about
        return capability_statement(self._elements[version], base=base, oauth=oauth)

    def _build_description(self, version: FHIRVersion, service: Service) -> bytes:
        return openapi_document(self._backends.data_provider, version, service, guide=self._guide)

    async def alive(self) -> dict[str, str]:
        """Report that the process responds, whatever its backends do."""
        return {"status": "ok"}

    async def ready(self) -> dict[str, Any] | Response[bytes]:
        """
        Report that every backend responds and every health check of a plugin passes.

        Otherwise the response is 503 and names those that do not. The status is `degraded` if
        exports have to wait or the search index is behind; the server still accepts requests.

        Raises:
            StoreReplaced: The database was removed or replaced.
        """
        failing, by_role = await asyncio.gather(self._checks.failing(), self._query_all())
        failures = {
            "These backends do not respond": [r for r, own in by_role.items() if own is None],
            "These health checks fail": failing,
        }
        sentences = [f"{what}: {', '.join(names)}." for what, names in failures.items() if names]
        if sentences:
            text = " ".join([*sentences, "The reasons are in the log."])
            return outcome_response(503, BackendUnavailable.code, text)
        indexer = self._backends.indexer
        problems = [*chain.from_iterable(filter(None, by_role.values()))]
        problems += indexer.problems() if indexer else ()
        return {
            "status": "degraded" if problems else "ok",
            **({"problems": problems} if problems else {}),
            **({"checks": names} if (names := self._checks.names) else {}),
        }

    async def _query_all(self) -> dict[str, list[str] | None]:
        """Return the problems that each backend reports, by role; None if it does not respond."""
        queries = {
            "data provider": self._query_data_provider(),
            "job store": self._query_job_store(),
            "output store": self._query_output_store(),
        }
        results = await asyncio.gather(*(_query(role, query) for role, query in queries.items()))
        return dict(zip(queries, results, strict=True))

    async def _query_data_provider(self) -> list[str]:
        key = ResourceKey(self._tenant, self._fhir_version, "Patient", UNUSED_ID)
        await self._backends.data_provider.get(key)
        return []

    async def _query_job_store(self) -> list[str]:
        await self._backends.job_store.exists(self._tenant, UNUSED_ID)
        return await oversight.problems(self._backends.job_store)

    async def _query_output_store(self) -> list[str]:
        async for _ in self._backends.output_store.jobs():
            break
        return []


async def _query(role: str, query: Coroutine[Any, Any, list[str]]) -> list[str] | None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await query
    except StoreReplaced:
        raise
    except BackendError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"no response within {TIMEOUT_SECONDS} seconds"
    log.error("backend.unresponsive", backend=role, reason=reason)
    return None
