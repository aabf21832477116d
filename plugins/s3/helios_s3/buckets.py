"""A bucket, used through two drivers: obstore transfers content, botocore does all else."""

import atexit
import functools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.config
import botocore.loaders
import botocore.session
from botocore.exceptions import BotoCoreError
from obstore.store import S3Store

from helios_core import ConfigurationError
from helios_s3.settings import S3ResourceSettings, S3Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import RetryConfig, S3Config, S3Credential

KEEP_CREDENTIALS = timedelta(minutes=5)
"""How long obstore keeps credentials; botocore renews them 10 minutes or more before they end."""

DEFAULT_REGION = "us-east-1"


def retries(*, most: int, seconds: float) -> "RetryConfig":
    """Return a configuration of how often and how long a failed request is repeated."""
    return {
        "max_retries": most,
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=8),
            "base": 2,
        },
        "retry_timeout": timedelta(seconds=seconds),
    }


RETRIES = retries(most=10, seconds=120)
"""Retries long enough for the restart of a server, and short enough for the renewal of a lease."""

_loader = functools.cache(botocore.loaders.create_loader)
"""Cached, since reading botocore's description of S3 takes most of the time to open a bucket."""

SETTLE_SECONDS = 0.1
"""How long the process waits for the driver's threads before it ends."""

_REQUEST_TIMEOUT = timedelta(minutes=5)
"""The timeout of one block of an upload, or of one window of a download to a slow client."""


def silence_debug_logs() -> None:
    """Keep debug lines of botocore, which contain signatures and credentials, out of the log."""
    for name in ("botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


@functools.cache
def settle_at_exit() -> None:
    """
    Make the process wait for the driver's threads before it ends.

    They release Python objects a moment after they have returned their result. Before Python 3.14,
    a release during the shutdown of the interpreter aborts the process.
    """
    atexit.register(time.sleep, SETTLE_SECONDS)


class Bucket:
    """One bucket, with the credentials and addresses for it."""

    def __init__(self, settings: S3Settings | S3ResourceSettings) -> None:
        self.name = settings.bucket
        self.prefix = f"{settings.prefix}/" if settings.prefix else ""
        self.settings = settings
        silence_debug_logs()
        settle_at_exit()
        self._session = botocore.session.Session(profile=settings.profile)
        with _configured():
            models = _loader(self._session.get_config_variable("data_path"))
            self._session.register_component("data_loader", models)
            self._credentials = self._load_credentials()
            region = settings.bucket_region or self._session.get_config_variable("region")
        self.region: str = region or DEFAULT_REGION
        endpoint: str = settings.endpoint or self.client.meta.endpoint_url
        self.endpoint = endpoint.rstrip("/")
        self._refuse_http()
        self.store = self._store(self.endpoint)
        public = settings.public_endpoint
        self.signer = self._store(public.rstrip("/")) if public else self.store

    def close(self) -> None:
        """Close the connections; the bucket must not be used afterwards."""
        if "client" in vars(self):
            self.client.close()

    @functools.cached_property
    def client(self) -> Any:  # noqa: ANN401  botocore has no types
        """
        The client of botocore, created when it is first used.

        Raises:
            ConfigurationError: The AWS configuration cannot be used.
        """
        with _configured():
            return self._session.create_client(
                "s3",
                region_name=self.region,
                endpoint_url=self.settings.endpoint,
                config=botocore.config.Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path" if self._in_path else "virtual"},
                    connect_timeout=5,
                    read_timeout=30,
                    retries={"mode": "standard", "total_max_attempts": 4},
                    # Many servers other than AWS do not know checksums beyond the signature.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    def attributes(self, name: str, *, gzip: bool) -> dict[str, str]:
        """Return the headers to store with a part, so that signed URLs respond like the server."""
        attributes = {
            "Content-Type": "application/fhir+ndjson",
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private",
        }
        if gzip:
            attributes["Content-Encoding"] = "gzip"
        if self.settings.storage_class:
            attributes["Storage-Class"] = self.settings.storage_class
        return attributes

    @property
    def storage(self) -> dict[str, str]:
        """The options of botocore for how objects are stored."""
        own = self.settings
        options = {
            "ServerSideEncryption": own.encryption.value if own.encryption else None,
            "SSEKMSKeyId": own.kms_key_id,
            "StorageClass": own.storage_class,
        }
        return {name: value for name, value in options.items() if value}

    def _load_credentials(self) -> Any:  # noqa: ANN401  botocore has no types
        own = self.settings
        if own.access_key_id and own.secret_access_key:
            self._session.set_credentials(
                own.access_key_id.reveal(),
                own.secret_access_key.reveal(),
                own.session_token.reveal() if own.session_token else None,
            )
        found = self._session.get_credentials()
        if found is None:
            raise ConfigurationError(
                f"there are no credentials for the {own.use} bucket; set "
                f"{own.variables}_ACCESS_KEY_ID and {own.variables}_SECRET_ACCESS_KEY, or "
                "run the process with a profile or role of AWS"
            )
        return found

    @property
    def _in_path(self) -> bool:
        # No certificate matches a bucket name with dots in front of the host.
        return self.settings.force_path_style or "." in self.name

    def _store(self, endpoint: str) -> S3Store:
        own = self.settings
        scheme, host = urlsplit(endpoint)[:2]
        options: S3Config = {"bucket": self.name}
        if own.encryption is not None:
            options["server_side_encryption"] = own.encryption.value
        if own.kms_key_id:
            options["sse_kms_key_id"] = own.kms_key_id
        return S3Store(
            endpoint=endpoint if self._in_path else f"{scheme}://{self.name}.{host}",
            region=self.region,
            virtual_hosted_style_request=not self._in_path,
            credential_provider=_provider_of(self._credentials),
            client_options={"allow_http": True, "timeout": _REQUEST_TIMEOUT},
            retry_config=RETRIES,
            config=options,
        )

    def _refuse_http(self) -> None:
        # The address may come from the AWS configuration, which the settings do not check.
        if urlsplit(self.endpoint).scheme == "http" and not self.settings.allow_http:
            raise ConfigurationError(
                f"the {self.settings.use} bucket would be reached without TLS at {self.endpoint};"
                f" use https, or set {self.settings.variables}_ALLOW_HTTP=true where the network"
                " is trusted"
            )


@contextmanager
def _configured() -> Iterator[None]:
    try:
        yield
    except BotoCoreError as error:
        raise ConfigurationError(f"the AWS configuration cannot be used: {error}") from error


def _provider_of(credentials: Any) -> "Callable[[], S3Credential]":  # noqa: ANN401  botocore
    """Return a credential provider; obstore keeps it, so it must not refer to the bucket."""

    def credential() -> "S3Credential":
        # obstore calls it in threads of its own, which have no event loop.
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + KEEP_CREDENTIALS,
        }

    return credential
