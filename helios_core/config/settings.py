"""Every setting of the server; plugins describe their own."""

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, structs

from helios_core.config.environment import (
    PREFIX,
    TEST_PREFIX,
    describe_variables,
    read_variables,
    to_text,
)
from helios_core.fhir.bulk_data import GuideVersion
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.model.parts import Compression
from helios_core.storage.secrets import Secret

TENANT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,63}$"
"""What a tenant id looks like; it becomes a folder name, hence no two dots in a row."""


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    JSON = "json"
    CONSOLE = "console"


class NewlyAdded(StrEnum):
    """What becomes of group members who joined after `_since`."""

    INCLUDE = "include"
    EXCLUDE = "exclude"


class AccessToken(StrEnum):
    """Whether a manifest says that its files need an access token."""

    AUTO = "auto"
    """They need none; where the output store can sign links, clients get signed ones."""
    TRUE = "true"
    """They do, and this server sends them whatever the output store can do."""
    FALSE = "false"
    """They need none, and the output store must be able to sign links."""


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
                "it hands out.",
                extra={
                    "default": "what the client's Host header says",
                    "allowed": "an http or https address without query and fragment",
                },
            ),
        ]
        | None
    ) = None
    data_dir: Annotated[
        Path,
        Meta(
            description="Folder for everything the server keeps in files by default.",
            extra={"default": "./data"},
        ),
    ] = Path("./data")
    storage_backend: Annotated[
        str, Meta(description="Plugin that keeps the resources, and the jobs where it can.")
    ] = "sqlite"
    database_url: Annotated[
        Secret | None,
        Meta(
            description="Database of the storage backend, in the form its plugin documents.",
            extra={"default": "as the plugin says; sqlite: {HFS_DATA_DIR}/helios.db"},
        ),
    ] = None
    cluster: Annotated[
        bool,
        Meta(
            description="Whether this process is one of several on many machines; what only one "
            "machine can use then stops the start."
        ),
    ] = False
    plugins: Annotated[
        tuple[str, ...],
        Meta(description="Further plugins to activate, for example observers of jobs."),
    ] = ()
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
    default_fhir_version: Annotated[
        FHIRVersion,
        Meta(description="FHIR version of a request without fhirVersion in its media type."),
    ] = FHIRVersion.R4
    max_body_bytes: Annotated[
        int, Meta(ge=1, title="bytes", description="Largest request body that is accepted.")
    ] = 16 * 1024 * 1024
    log_level: Annotated[
        LogLevel, Meta(description="The least severe log line that is written.")
    ] = LogLevel.INFO
    log_format: Annotated[
        LogFormat, Meta(description="How log lines look on standard output.")
    ] = LogFormat.JSON
    worker_shutdown_timeout: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a stopping process may take to hand back its shards and to end "
            "its answers under way; then it ends whatever it still waits for.",
        ),
    ] = timedelta(seconds=20)
    bulk_export_enabled: Annotated[
        bool, Meta(description="Whether exports are offered; 501 for every one if not.")
    ] = True
    bulk_data_ig: Annotated[
        GuideVersion,
        Meta(
            description="Version of the Bulk Data Access guide that is spoken: 3, which clients "
            "of version 2 understand, or the ballot of version 4."
        ),
    ] = GuideVersion.CURRENT
    bulk_export_output_backend: Annotated[
        str, Meta(description="Plugin that keeps the output files; local-fs is plugin localfs.")
    ] = "local-fs"
    bulk_export_output_dir: Annotated[
        Path | None,
        Meta(
            description="Folder of the output files, and of the job database where the storage "
            "backend cannot keep jobs.",
            extra={"default": "{HFS_DATA_DIR}/exports"},
        ),
    ] = None
    bulk_export_requires_access_token: Annotated[
        AccessToken,
        Meta(
            description="Whether files are downloaded from this server with the token of the "
            "export (true), or through signed links where the output store has them (auto), or "
            "through nothing else (false)."
        ),
    ] = AccessToken.AUTO
    bulk_export_file_url_ttl: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a signed link is valid; every poll of the manifest gives new "
            "ones.",
        ),
    ] = timedelta(hours=1)
    bulk_export_output_ttl: Annotated[
        timedelta,
        Meta(title="seconds", description="How long a finished export and its files are kept."),
    ] = timedelta(days=1)
    bulk_export_worker_concurrency: Annotated[
        int,
        Meta(
            ge=1,
            description="Workers of one `helios serve` or `helios worker`: shards exported at the "
            "same time. Each but the first has a process of its own.",
        ),
    ] = 2
    bulk_export_disable_local_worker: Annotated[
        bool,
        Meta(description="Whether `helios serve` leaves all the work to `helios worker`."),
    ] = False
    bulk_export_max_concurrent_per_tenant: Annotated[
        int, Meta(ge=1, description="Active exports a tenant may have; the next one gets 429.")
    ] = 4
    bulk_export_kickoffs_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            description="Kick-offs a client may make for a tenant, a sixth of them at once; more "
            "are 429. 0 is without a limit. Every server process counts for itself.",
        ),
    ] = 600
    bulk_export_polls_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            description="Polls a client may make of one page of one export's status, a sixth of "
            "them at once; more are 429. 0 is without a limit. Every server process counts for "
            "itself.",
        ),
    ] = 120
    bulk_export_max_refused_polls: Annotated[
        int,
        Meta(
            ge=0,
            description="Polls refused in a row after which a running export is ended; 0 is "
            "never.",
        ),
    ] = 0
    bulk_export_max_attempts: Annotated[
        int, Meta(ge=1, description="Tries a shard gets before its export ends in error.")
    ] = 3
    bulk_export_batch_bytes: Annotated[
        int,
        Meta(ge=1, title="bytes", description="Resources read from the storage in one go."),
    ] = 4 * 1024 * 1024
    bulk_export_batch_size: Annotated[
        int, Meta(ge=1, title="resources", description="Resources written on in one go.")
    ] = 1000
    bulk_export_part_bytes: Annotated[
        int,
        Meta(
            ge=1,
            title="bytes",
            description="Size an output file aims at, as NDJSON before compression; also the size "
            "of a shard.",
        ),
    ] = 128 * 1024 * 1024
    bulk_export_part_rows: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            title="lines",
            description="Lines an output file has at most.",
            extra={"default": "no limit"},
        ),
    ] = None
    bulk_export_compression: Annotated[
        Compression, Meta(description="How output files are stored.")
    ] = Compression.GZIP
    bulk_export_referenced_types: Annotated[
        tuple[str, ...],
        Meta(
            description="Types that exports of patients and groups add where something refers to "
            "them, each resource once; an empty value switches that off.",
            extra={"empty": True},
        ),
    ] = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device")
    bulk_export_since_newly_added: Annotated[
        NewlyAdded,
        Meta(
            description="Whether group members who joined after `_since` bring all of their older "
            "data, or are left out."
        ),
    ] = NewlyAdded.INCLUDE
    bulk_export_lease_duration: Annotated[
        timedelta,
        Meta(
            title="seconds",
            description="How long a worker that went silent keeps its shard; above "
            "HFS_BULK_EXPORT_HEARTBEAT_INTERVAL.",
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
    """The `HFS_` variables that are not the server's own, for the plugins to read."""

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
        """Give every variable in effect by name, as plugins that share a setting read it."""
        own = {variable.name: getattr(self, variable.field) for variable in OWN}
        own["HFS_BULK_EXPORT_OUTPUT_DIR"] = self.output_dir
        revealed = {
            name: value.reveal() if isinstance(value, Secret) else to_text(value)
            for name, value in (own | dict(self.others)).items()
        }
        return {name: text for name, text in revealed.items() if text}


OWN = describe_variables(Settings)
"""The server's own settings, in the order of their declaration."""


def read_settings(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """
    Read the server's own settings, and give one sentence for everything wrong with them.

    An unreadable value counts as not set, so that the rest can still be looked at. What is left in
    `Settings.others` has not been checked: only the plugins know their names.
    """
    values, problems = read_variables(OWN, environ)
    names = {variable.name for variable in OWN}
    others = {
        name: Secret(text)
        for name, text in environ.items()
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name not in names
    }
    settings = Settings(**values, others=others)
    return settings, problems + _contradictions(settings)


def _contradictions(settings: Settings) -> list[str]:
    return [*_short_lease(settings), *_ambiguous_address(settings)]


def _short_lease(settings: Settings) -> list[str]:
    lease = settings.bulk_export_lease_duration
    heartbeat = settings.bulk_export_heartbeat_interval
    too_short = (
        f"HFS_BULK_EXPORT_LEASE_DURATION ({to_text(lease)}) must be above "
        f"HFS_BULK_EXPORT_HEARTBEAT_INTERVAL ({to_text(heartbeat)}), which renews the lease; "
        "three times as long is good"
    )
    return ([] if lease > heartbeat else [too_short]) + _unknown_types(settings)


def _unknown_types(settings: Settings) -> list[str]:
    """Tell which types to bring along no FHIR version has; one that not all have is fine."""
    problems = list[str]()
    for name in settings.bulk_export_referenced_types:
        if any(name in load_definitions(version).types for version in FHIRVersion):
            continue
        known = sorted(
            set[str]().union(*(load_definitions(version).types for version in FHIRVersion))
        )
        # In other case than it is spelt everything is far from everything.
        close = {each.lower(): each for each in known}
        guess = next(iter(get_close_matches(name.lower(), close, n=1)), None)
        advice = f"the nearest is {close[guess]}" if guess else "leave it out"
        problems.append(
            f"HFS_BULK_EXPORT_REFERENCED_TYPES names {name!r}, which is a resource type of no "
            f"FHIR version; {advice}"
        )
    return problems


def _ambiguous_address(settings: Settings) -> list[str]:
    """Without it each server would name itself in what it hands out."""
    no_address = (
        "HFS_CLUSTER is true and HFS_BASE_URL is not set; set it, for every process, to the one "
        "address under which clients reach all the servers"
    )
    return [no_address] if settings.cluster and settings.base_url is None else []
