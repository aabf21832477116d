"""The ASGI application and its routes."""

from ipaddress import ip_network
from typing import Final

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from helios_core.config.settings import NewlyAdded, Settings, TenantRouting
from helios_core.export.kickoff.dry_run import FileLimits
from helios_core.export.kickoff.request import ExportPolicy
from helios_core.fhir.bulk_data import GUIDES
from helios_core.http.access import AccessGuard
from helios_core.http.access_log import AccessLog
from helios_core.http.addresses import PublicAddress
from helios_core.http.bulk.downloads import DownloadRoutes
from helios_core.http.bulk.file_urls import FileURLSigner
from helios_core.http.bulk.kickoff import ExportQuota, KickoffRoutes, disabled_routes
from helios_core.http.bulk.listing import ListingRoutes
from helios_core.http.bulk.manifest import ManifestRenderer
from helios_core.http.bulk.status import PollLimits, StatusRoutes
from helios_core.http.callers import Guard
from helios_core.http.compression import CompressedResponses
from helios_core.http.discovery import DiscoveryRoutes
from helios_core.http.draining import Draining
from helios_core.http.errors import exception_handlers
from helios_core.http.options import Options
from helios_core.http.plugin_routes import plugin_routers
from helios_core.http.requests import require_path_of_text, require_small_headers
from helios_core.http.rest.bundles import BundleLimits, BundleRoutes
from helios_core.http.rest.compartments import CompartmentRoutes, EverythingRoutes
from helios_core.http.rest.conditional import ConditionalRoutes
from helios_core.http.rest.crud import ReadRoutes, WriteRoutes
from helios_core.http.rest.history import HistoryRoutes, TypeHistoryRoutes
from helios_core.http.rest.search import SearchRoutes
from helios_core.http.tenants import TenantPaths, Tenants
from helios_core.http.uncached import Uncached
from helios_core.interactions.bundles import Bundles
from helios_core.interactions.changes import Changes
from helios_core.interactions.conditions import Conditions
from helios_core.interactions.everything import Everything
from helios_core.storage.backends import Backends
from helios_core.storage.data_provider import (
    SupportsHistory,
    SupportsSearch,
    SupportsTypeHistory,
    SupportsWrites,
)
from helios_core.storage.permitted_reads import READING
from helios_core.storage.request_principal import ANY, guarded_backends
from helios_core.storage.transformed_reads import WithheldReads, visible_backends

CORS_REQUEST_HEADERS: Final = [
    *("Accept", "Authorization", "Content-Type", "If-Match", "If-Modified-Since"),
    *("If-None-Exist", "If-None-Match", "Prefer", "Range", "X-Request-ID", "X-Tenant-ID"),
]
"""The request headers that a web page of another origin may send."""
CORS_RESPONSE_HEADERS: Final = [
    *("Content-Location", "Content-Range", "ETag", "Last-Modified", "Location"),
    *("Preference-Applied", "Retry-After", "X-Export-Status", "X-Progress", "X-Request-ID"),
]
"""The response headers that it may read, besides those that browsers always allow."""


def create_app(settings: Settings, backends: Backends) -> ASGIApp:
    """
    Return the application that serves opened backends; their powers decide which routes it has.

    Raises:
        BrokenPlugin: A plugin's route cannot be used.
    """
    visible = visible_backends(guarded_backends(backends, READING))
    address = PublicAddress(
        settings.base_url,
        trusted_proxies=[ip_network(proxy) for proxy in settings.trusted_proxies],
        allowed_hosts=settings.allowed_hosts,
        authenticated=settings.auth_enabled,
    )
    tenants = Tenants(
        default=settings.default_tenant,
        routing=settings.tenant_routing_mode,
        strict=settings.tenant_strict_validation,
    )
    guard = Guard(address, tenants, default_version=settings.default_fhir_version)
    discovery = _discovery(settings, visible, guard)
    app = Litestar(
        [
            *discovery.routes(),
            *_exports(settings, backends, guard),
            *_resources(settings, backends, visible, guard, discovery),
            *plugin_routers(backends.routes, guard),
        ],
        guards=[
            require_small_headers,
            require_path_of_text,
            AccessGuard(backends.token_verifier, backends.file_authorizer),
        ],
        exception_handlers=exception_handlers(),
        request_max_body_size=settings.max_body_bytes,
        cors_config=_cors(settings),
        openapi_config=None,
        logging_config=None,
    )
    served: ASGIApp = Draining(CompressedResponses(Options(app)))
    if settings.tenant_routing_mode is not TenantRouting.HEADER:
        served = TenantPaths(served, app)
    return AccessLog(Uncached(served))


def _cors(settings: Settings) -> CORSConfig | None:
    """Return the CORS settings for the allowed origins, without cookies: no route needs them."""
    if not settings.cors_allowed_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_allowed_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_RESPONSE_HEADERS,
    )


def _discovery(settings: Settings, backends: Backends, guard: Guard) -> DiscoveryRoutes:
    return DiscoveryRoutes(
        backends,
        guard,
        guide=GUIDES[settings.bulk_data_ig] if settings.bulk_export_enabled else None,
        tenant=settings.default_tenant,
        fhir_version=settings.default_fhir_version,
    )


def _exports(settings: Settings, backends: Backends, guard: Guard) -> list[HTTPRouteHandler]:
    if not settings.bulk_export_enabled:
        return disabled_routes()
    kick_off = KickoffRoutes(
        backends,
        guard,
        policy=_policy(settings, backends),
        quota=ExportQuota(
            active=settings.bulk_export_max_concurrent_per_tenant,
            per_minute=settings.bulk_export_kickoffs_per_minute,
        ),
        limits=FileLimits(
            bytes=settings.bulk_export_part_bytes, rows=settings.bulk_export_part_rows
        ),
    )
    status = StatusRoutes(
        backends,
        guard,
        manifests=ManifestRenderer(GUIDES[settings.bulk_data_ig], _links(settings, backends)),
        output_ttl=settings.bulk_export_output_ttl,
        poll_limits=PollLimits(
            per_minute=settings.bulk_export_polls_per_minute,
            max_refused=settings.bulk_export_max_refused_polls,
        ),
    )
    listing = ListingRoutes(
        backends,
        guard,
        output_ttl=settings.bulk_export_output_ttl,
        per_minute=settings.bulk_export_polls_per_minute,
    )
    downloads = DownloadRoutes(backends, guard)
    return [*kick_off.routes(), *status.routes(), *listing.routes(), *downloads.routes()]


def _links(settings: Settings, backends: Backends) -> FileURLSigner:
    return FileURLSigner(
        backends.output_store,
        access_token=settings.bulk_export_requires_access_token,
        valid_for=settings.bulk_export_file_url_ttl,
        secured=backends.token_verifier is not None,
    )


def _policy(settings: Settings, backends: Backends) -> ExportPolicy:
    newly_added = settings.bulk_export_since_newly_added
    return ExportPolicy(
        include_newly_added=newly_added is NewlyAdded.INCLUDE,
        referenced_types=settings.bulk_export_referenced_types,
        guide=GUIDES[settings.bulk_data_ig],
        transforms=backends.transforms,
    )


def _resources(
    settings: Settings,
    backends: Backends,
    visible: Backends,
    guard: Guard,
    discovery: DiscoveryRoutes,
) -> list[HTTPRouteHandler]:
    """Return the routes that read what clients may see, and change what is stored."""
    provider, writer = visible.data_provider, guarded_backends(backends, ANY).data_provider
    if isinstance(provider, WithheldReads):
        return []
    routes = ReadRoutes(provider, guard).routes()
    everything = None
    if isinstance(provider, SupportsSearch):
        everything = Everything(provider, provider, settings.bulk_export_referenced_types)
        routes += SearchRoutes(
            provider, guard, page_bytes=settings.max_bundle_response_bytes
        ).routes()
        routes += CompartmentRoutes(
            provider, guard, page_bytes=settings.max_bundle_response_bytes
        ).routes()
        routes += EverythingRoutes(everything, guard).routes()
    if isinstance(provider, SupportsWrites) and isinstance(writer, SupportsWrites):
        # The job store's identity is the same in every process, and never leaves the server.
        conditions = Conditions(
            writer,
            secret=backends.job_store.identity,
            searched=provider if isinstance(provider, SupportsSearch) else None,
            readable=provider,
            stored=backends.data_provider,
        )
        changes = Changes(writer, conditions)
        routes += WriteRoutes(changes, guard).routes()
        routes += BundleRoutes(
            Bundles(provider, changes, conditions, everything),
            guard,
            limits=BundleLimits(
                entries=settings.max_bundle_entries,
                response_bytes=settings.max_bundle_response_bytes,
            ),
            metadata=discovery.statement,
        ).routes()
        if isinstance(provider, SupportsSearch):
            routes += ConditionalRoutes(changes, guard).routes()
    if isinstance(provider, SupportsHistory):
        routes += HistoryRoutes(provider, guard).routes()
    if isinstance(provider, SupportsTypeHistory):
        routes += TypeHistoryRoutes(provider, guard).routes()
    return routes
