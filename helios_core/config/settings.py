"""The settings of the server; plugins describe their own."""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, structs

from helios_core.config.environment import (
    PREFIX,
    TEST_PREFIX,
    describe_variables,
    nearest_name,
    read_variables,
    to_text,
)
from helios_core.fhir.bulk_data import GuideVersion
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.parts import Compression
from helios_core.storage.secrets import Secret

TENANT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}$"
"""The form of a tenant id; it becomes a folder name, so it has no two dots in a row."""


ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:.]+\](:\d{1,5})?")
"""The form of an origin as browsers send it (RFC 6454 section 6.2)."""


HOST_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
"""The form of a name in HFS_ALLOWED_HOSTS; Host headers are compared with it without the port."""


class LogLevel(StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The format of log lines."""

    AUTO = "auto"
    """Text on a terminal, JSON in a file or pipe."""
    JSON = "json"
    CONSOLE = "console"


class NewlyAdded(StrEnum):
    """Whether an export includes group members who joined after `_since`, with all their data."""

    INCLUDE = "include"
    EXCLUDE = "exclude"


class TenantRouting(StrEnum):
    """Where a request names its tenant."""

    HEADER = "header"
    URL = "url"
    BOTH = "both"


class WithoutIndex(StrEnum):
    """What a search does while the search index cannot be used."""

    FALLBACK = "fallback"
    """The data provider searches by itself."""
    REFUSE = "refuse"
    """The response is 503."""


class AccessToken(StrEnum):
    """The `requiresAccessToken` of a manifest: whether its files need an access token."""

    AUTO = "auto"
    """False if the output store can sign URLs, else the value of HFS_AUTH_ENABLED."""
    TRUE = "true"
    """True; this server sends the files even if the output store can sign URLs."""
    FALSE = "false"
    """False; the output store must be able to sign URLs."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's configuration; field `x` is read from `HFS_X`, see `helios settings`."""

    server_host: Annotated[
        str, Meta(description="Address the server listens on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1"
    server_port: Annotated[
        int, Meta(ge=0, le=65535, description="Port the server listens on; 0 picks a free one.")
    ] = 8080
    base_url: (
        Annotated[
            str,
            Meta(
                pattern=r"^https?://[^\s/?#]+[^\s?#]*$",
                description="Public address of the server, without a final slash, for every URL "
                "in its responses.",
                extra={
                    "default": "the client's Host header",
                    "allowed": "an http or https address without query and fragment",
                },
            ),
        ]
        | None
    ) = None
    tls_cert: Annotated[
        Path | None,
        Meta(
            description="PEM file of the server's certificate, followed by its intermediate ones; "
            "with it the server speaks TLS 1.2 and 1.3, without it plain HTTP. On SIGHUP the "
            "server reads it again.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Meta(
            description="PEM file of the private key of HFS_TLS_CERT, without a password.",
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses and networks of the proxies in front of the server. Only their "
            "X-Forwarded-Proto, X-Forwarded-Host and Forwarded headers are trusted.",
            extra={"allowed": "IP addresses and networks like 10.0.0.0/8, joined by commas"},
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names, without ports, under which the server may be called, if "
            "HFS_BASE_URL is not set; any other gets 400. *.example.org stands for every name "
            "below example.org. By default every host is allowed, but with authentication, or if "
            "the server listens on a loopback address and HFS_ALLOW_ANONYMOUS is not true, only "
            "localhost, 127.0.0.1 and [::1]."
        ),
    ] = ()
    cors_allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of the web pages that may use the server in a browser, for "
            "example https://app.example.org; * is every page."
        ),
    ] = ()
    data_dir: Annotated[
        Path,
        Meta(
            description="Folder for everything that the server stores in files by default.",
            extra={"default": "./data"},
        ),
    ] = Path("./data")
    storage_backend: Annotated[
        str,
        Meta(
            description="Data provider; its plugin is also the job store if it has one. A search "
            "index may follow it behind a hyphen, as in `postgres-elasticsearch`.",
            pattern=r"\A[^-]+(-[^-]+)?\Z",
            extra={"allowed": "the name of a plugin, or two joined by a hyphen"},
        ),
    ] = "sqlite"
    search_index_interval: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How often a search index looks for changes that other processes made.",
        ),
    ] = timedelta(seconds=1)
    search_index_down: Annotated[
        WithoutIndex,
        Meta(
            description="Whether searches over REST fall back to the data provider or are refused "
            "with 503 while the search index is down, being built or far behind."
        ),
    ] = WithoutIndex.FALLBACK
    database_url: Annotated[
        Secret | None,
        Meta(
            description="Database of the data provider, in the form that its plugin documents.",
            extra={"default": "set by the plugin; sqlite: {HFS_DATA_DIR}/helios.db"},
        ),
    ] = None
    cluster: Annotated[
        bool,
        Meta(
            description="Whether this process is one of several on many machines; the server then "
            "does not start with a backend that only one machine can use."
        ),
    ] = False
    plugins: Annotated[
        tuple[str, ...],
        Meta(
            description="Additional plugins to activate, in this order, for what they add to the "
            "server: commands, routes, health checks, transforms, observers, a file authorizer."
        ),
    ] = ()
    auth_enabled: Annotated[
        bool,
        Meta(
            description="Whether requests need an access token, except to public routes; if not, "
            "everybody may do everything."
        ),
    ] = False
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Whether the server may listen on other than loopback addresses although "
            "HFS_AUTH_ENABLED is false, so that everybody on the network may do everything."
        ),
    ] = False
    auth_provider: Annotated[
        str,
        Meta(
            description="Verifier of access tokens: `keycloak` for those of an OpenID Connect "
            "issuer, `smart` for those that this server issues. NAME selects plugin NAME_auth, or "
            "if there is none, plugin NAME."
        ),
    ] = "keycloak"
    default_tenant: Annotated[
        str,
        Meta(
            pattern=TENANT_PATTERN,
            description="Tenant of a request without X-Tenant-ID.",
            extra={
                "allowed": "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or "
                "digit and without '..'"
            },
        ),
    ] = "default"
    tenant_routing_mode: Annotated[
        TenantRouting,
        Meta(
            description="Where requests name their tenant: in X-Tenant-ID (header), as the first "
            "segment of the path (url), or in either (both)."
        ),
    ] = TenantRouting.HEADER
    tenant_strict_validation: Annotated[
        bool,
        Meta(
            description="Whether a request that names another tenant than its access token is "
            "refused with 403; if not, the tenant of the token is used."
        ),
    ] = False
    default_fhir_version: Annotated[
        FHIRVersion,
        Meta(description="FHIR version of a request whose media type has no fhirVersion."),
    ] = FHIRVersion.R4
    max_body_bytes: Annotated[
        int, Meta(ge=1, title="bytes", description="Maximum size of a request body.")
    ] = 16 * 1024 * 1024
    max_bundle_entries: Annotated[
        int, Meta(ge=1, description="Maximum number of entries of a batch or transaction.")
    ] = 10_000
    max_bundle_response_bytes: Annotated[
        int,
        Meta(
            ge=1,
            title="bytes",
            description="Maximum size of the resources in the response to a batch or transaction, "
            "and of the matches on a page of a search. Entries that do not fit get an error of "
            "their own; a page ends early.",
        ),
    ] = 16 * 1024 * 1024
    log_level: Annotated[LogLevel, Meta(description="Lowest severity that is logged.")] = (
        LogLevel.INFO
    )
    log_format: Annotated[
        LogFormat,
        Meta(
            description="Format of log lines on standard output; auto is text on a terminal and "
            "JSON in a file or pipe."
        ),
    ] = LogFormat.AUTO
    worker_shutdown_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="Time that a stopping process has to hand back its shards and to finish "
            "responses; then it ends, whatever it still waits for.",
        ),
    ] = timedelta(seconds=20)
    bulk_export_enabled: Annotated[
        bool, Meta(description="Whether exports are offered; if not, every kick-off gets 501.")
    ] = True
    bulk_data_ig: Annotated[
        GuideVersion,
        Meta(
            description="Version of the Bulk Data Access guide that is served: 3, which clients "
            "of version 2 can use, or the ballot of version 4."
        ),
    ] = GuideVersion.CURRENT
    bulk_export_job_store: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]*$",
            description="Job store: the plugin that keeps exports and leases. auto is that of the "
            "data provider if it has one, else a SQLite file in the output folder.",
            extra={"allowed": "auto, or the name of a plugin such as sqlite or postgres"},
        ),
    ] = "auto"
    bulk_export_job_store_url: Annotated[
        Secret | None,
        Meta(
            description="Address of the job store, if it is not that of the data provider. By "
            "default, sqlite is a file in the output folder.",
        ),
    ] = None
    bulk_export_output_backend: Annotated[
        str, Meta(description="Output store; local-fs is plugin localfs.")
    ] = "local-fs"
    bulk_export_output_dir: Annotated[
        Path | None,
        Meta(
            description="Folder of the output files, and of the job database if the plugin of the "
            "data provider has no job store.",
            extra={"default": "{HFS_DATA_DIR}/exports"},
        ),
    ] = None
    bulk_export_requires_access_token: Annotated[
        AccessToken,
        Meta(
            description="Whether files are downloaded from this server with the token of the "
            "export (true), through signed URLs if the output store can sign them (auto), or only "
            "through signed URLs (false)."
        ),
    ] = AccessToken.AUTO
    bulk_export_file_url_ttl: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a signed URL is valid. Everybody who has it can download the "
            "file; every poll of the manifest returns new ones.",
        ),
    ] = timedelta(minutes=5)
    bulk_export_output_ttl: Annotated[
        timedelta,
        Meta(title="seconds", description="How long a finished export and its files are kept."),
    ] = timedelta(days=1)
    bulk_export_unfinished_ttl: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long an export that no worker works on stays active; then it ends in "
            "error. Must be above HFS_BULK_EXPORT_LEASE_DURATION.",
        ),
    ] = timedelta(days=7)
    bulk_export_worker_concurrency: Annotated[
        int,
        Meta(
            ge=1,
            description="Workers of one `helios serve` or `helios worker`; each exports one shard "
            "at a time, and each but the first has a process of its own.",
        ),
    ] = 2
    bulk_export_disable_local_worker: Annotated[
        bool,
        Meta(description="Whether `helios serve` leaves all exports to `helios worker`."),
    ] = False
    bulk_export_max_concurrent_per_tenant: Annotated[
        int,
        Meta(ge=1, description="Maximum number of active exports of a tenant; another gets 429."),
    ] = 4
    bulk_export_kickoffs_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            description="Kick-offs per minute of a client for a tenant, a sixth of them at once; "
            "more get 429. 0 is no limit. Every server process counts for itself.",
        ),
    ] = 600
    bulk_export_polls_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            description="Polls per minute of a client for one page of one export's status, a "
            "sixth of them at once; more get 429. 0 is no limit. Every server process counts for "
            "itself.",
        ),
    ] = 120
    bulk_export_max_refused_polls: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of consecutive refused polls after which a running export is "
            "cancelled; 0 is never.",
        ),
    ] = 0
    bulk_export_max_attempts: Annotated[
        int, Meta(ge=1, description="Attempts at a shard before its export fails.")
    ] = 3
    bulk_export_outage_patience: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a shard waits for a backend that is unavailable before that "
            "counts as an attempt; counted from its first failure since it made progress.",
        ),
    ] = timedelta(hours=1)
    bulk_export_batch_bytes: Annotated[
        int,
        Meta(ge=1, title="bytes", description="Resources read from the data provider at a time."),
    ] = 4 * 1024 * 1024
    bulk_export_batch_size: Annotated[
        int, Meta(ge=1, title="resources", description="Resources processed at a time.")
    ] = 1000
    bulk_export_part_bytes: Annotated[
        int,
        Meta(
            ge=1,
            title="bytes",
            description="Target size of an output file, as NDJSON before compression; also the "
            "size of a shard.",
        ),
    ] = 128 * 1024 * 1024
    bulk_export_part_rows: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            title="lines",
            description="Maximum number of lines of an output file.",
            extra={"default": "no limit"},
        ),
    ] = None
    bulk_export_compression: Annotated[
        Compression, Meta(description="Compression of stored output files.")
    ] = Compression.GZIP
    bulk_export_referenced_types: Annotated[
        tuple[str, ...],
        Meta(
            description="Types whose resources are added to exports of patients and groups, each "
            "once, if an exported resource refers to them; an empty value adds none.",
            extra={"empty": True},
        ),
    ] = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device")
    bulk_export_since_newly_added: Annotated[
        NewlyAdded,
        Meta(
            description="Whether an export includes all data of group members who joined after "
            "`_since`, or excludes these members."
        ),
    ] = NewlyAdded.INCLUDE
    bulk_export_lease_duration: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a worker that stopped renewing its lease keeps its shard; must "
            "be above HFS_BULK_EXPORT_HEARTBEAT_INTERVAL.",
        ),
    ] = timedelta(seconds=60)
    bulk_export_heartbeat_interval: Annotated[
        timedelta, Meta(title="seconds", description="How often a worker renews its lease.")
    ] = timedelta(seconds=20)
    bulk_export_cleanup_interval: Annotated[
        timedelta,
        Meta(title="seconds", description="How often expired and orphaned output is removed."),
    ] = timedelta(seconds=300)
    others: Annotated[Mapping[str, Secret], Meta(extra={"setting": None})] = {}
    """The `HFS_` variables that are not settings of the server; plugins read them."""

    def __post_init__(self) -> None:
        if self.base_url is not None:
            structs.force_setattr(self, "base_url", self.base_url.rstrip("/"))

    @property
    def output_dir(self) -> Path:
        """The folder of the output files."""
        return self.bulk_export_output_dir or self.data_dir / "exports"

    @property
    def backend_names(self) -> tuple[str, str]:
        """The data provider and the output store that are selected, as the settings spell them."""
        return self.storage_backend, self.bulk_export_output_backend

    def for_plugins(self) -> dict[str, str]:
        """Return every variable in effect by name, for plugins to read."""
        own = {variable.name: getattr(self, variable.field) for variable in OWN}
        own["HFS_BULK_EXPORT_OUTPUT_DIR"] = self.output_dir
        revealed = {
            name: value.reveal() if isinstance(value, Secret) else to_text(value)
            for name, value in (own | dict(self.others)).items()
        }
        return {name: text for name, text in revealed.items() if text}


OWN = describe_variables(Settings)
"""The settings of the server, in the order of their declaration."""


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """
    Return the settings of the server, and one sentence for each problem with them.

    An invalid value counts as not set, so that the rest can still be checked. `Settings.others` is
    not checked: only the plugins know the names in it.
    """
    values, problems = read_variables(OWN, environ)
    names = {variable.name for variable in OWN}
    others = {
        name: Secret(text)
        for name, text in environ.items()
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name not in names
    }
    settings = Settings(**values, others=others)
    return settings, problems + _check(settings)


def _check(settings: Settings) -> list[str]:
    return [
        *_check_lease(settings),
        *_check_types(settings),
        *_check_address(settings),
        *_check_tls(settings),
        *_check_proxies(settings),
        *_check_hosts(settings),
        *_check_origins(settings),
    ]


def _check_tls(settings: Settings) -> list[str]:
    both = "HFS_TLS_CERT and HFS_TLS_KEY belong together; set both, or neither for plain HTTP"
    return [both] if (settings.tls_cert is None) != (settings.tls_key is None) else []


def _check_proxies(settings: Settings) -> list[str]:
    problems = list[str]()
    for proxy in settings.trusted_proxies:
        try:
            ip_network(proxy)
        except ValueError as error:
            problems.append(
                f"HFS_TRUSTED_PROXIES names {proxy!r}, which is not an IP address or network: "
                f"{error}"
            )
    return problems


def _check_hosts(settings: Settings) -> list[str]:
    return [
        f"HFS_ALLOWED_HOSTS names {host!r}, which is no host name; they have no scheme and no "
        "port, and IPv6 addresses are in brackets: fhir.example.org,*.example.org,[::1]"
        for host in settings.allowed_hosts
        if not HOST_NAME.fullmatch(host)
    ]


def _check_origins(settings: Settings) -> list[str]:
    return [
        f"HFS_CORS_ALLOWED_ORIGINS names {origin!r}, which is not an origin; allowed are * and a "
        "scheme with a host and optionally a port, for example https://app.example.org"
        for origin in settings.cors_allowed_origins
        if origin != "*" and not ORIGIN.fullmatch(origin)
    ]


def _check_lease(settings: Settings) -> list[str]:
    lease = settings.bulk_export_lease_duration
    heartbeat = settings.bulk_export_heartbeat_interval
    too_short = (
        f"HFS_BULK_EXPORT_LEASE_DURATION ({to_text(lease)}) must be above "
        f"HFS_BULK_EXPORT_HEARTBEAT_INTERVAL ({to_text(heartbeat)}), which renews the lease; "
        "three times as long is good"
    )
    unfinished = settings.bulk_export_unfinished_ttl
    too_soon = (
        f"HFS_BULK_EXPORT_UNFINISHED_TTL ({to_text(unfinished)}) must be above "
        f"HFS_BULK_EXPORT_LEASE_DURATION ({to_text(lease)}), in which a worker renews its lease; "
        "days are good"
    )
    problems = ((lease > heartbeat, too_short), (unfinished > lease, too_soon))
    return [problem for good, problem in problems if not good]


def _check_types(settings: Settings) -> list[str]:
    """Return a problem for each referenced type that no FHIR version has."""
    problems = list[str]()
    for name in settings.bulk_export_referenced_types:
        if any(name in load_definitions(version).types for version in FHIRVersion):
            continue
        known = sorted(
            set[str]().union(*(load_definitions(version).types for version in FHIRVersion))
        )
        # Compared in lower case: names that differ in case only would not be close matches.
        spellings = {known_name.lower(): known_name for known_name in known}
        guess = nearest_name(name.lower(), spellings)
        advice = f"the nearest is {spellings[guess]}" if guess else "remove it"
        problems.append(
            f"HFS_BULK_EXPORT_REFERENCED_TYPES names {name!r}, which is a resource type of no "
            f"FHIR version; {advice}"
        )
    return problems


def _check_address(settings: Settings) -> list[str]:
    """Require HFS_BASE_URL in a cluster: else each server would respond with its own address."""
    no_address = (
        "HFS_CLUSTER is true and HFS_BASE_URL is not set; set it in every process to the "
        "address under which clients reach all servers"
    )
    return [no_address] if settings.cluster and settings.base_url is None else []
