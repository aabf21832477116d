"""A bucket as its two drivers see it: obstore moves the bytes, botocore the rest."""

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
"""botocore renews temporary credentials 10 minutes before they end or earlier."""

DEFAULT_REGION = "us-east-1"


def retries(*, most: int, seconds: float) -> "RetryConfig":
    """Return how often and for how long a failed request is repeated."""
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
"""Long enough for a server to be restarted, short enough for its next lease to be asked for."""

_loader = functools.cache(botocore.loaders.create_loader)
"""botocore's description of S3 takes longer to read than all else that opens a bucket."""

SETTLE_SECONDS = 0.1
"""How long the driver's threads have to come to rest before the process ends."""

_REQUEST_TIMEOUT = timedelta(minutes=5)
"""For one block of an upload, or one window of a download with a slow client at its end."""


def quiet() -> None:
    """Keep the driver's own debug lines, which show signatures and credentials, out of the log."""
    for name in ("botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


@functools.cache
def settle_at_exit() -> None:
    """
    Have the process wait for the driver's threads before it ends.

    They let go of Python's objects a moment after their result is there, and one that does so
    while the interpreter ends aborts the process (before Python 3.14).
    """
    atexit.register(time.sleep, SETTLE_SECONDS)


class Bucket:
    """One bucket with the credentials and addresses under which it is used."""

    def __init__(self, settings: S3Settings | S3ResourceSettings) -> None:
        self.name = settings.bucket
        self.prefix = f"{settings.prefix}/" if settings.prefix else ""
        self.settings = settings
        quiet()
        settle_at_exit()
        self._session = botocore.session.Session(profile=settings.profile)
        with _configured():
            models = _loader(self._session.get_config_variable("data_path"))
            self._session.register_component("data_loader", models)
            self._credentials = self._found_credentials()
            region = settings.bucket_region or self._session.get_config_variable("region")
        self.region: str = region or DEFAULT_REGION
        endpoint: str = settings.endpoint or self.client.meta.endpoint_url
        self.endpoint = endpoint.rstrip("/")
        self._refuse_http()
        self.store = self._store(self.endpoint)
        public = settings.public_endpoint
        self.signer = self._store(public.rstrip("/")) if public else self.store

    def close(self) -> None:
        """Close the connections; a bucket that was closed is not used again."""
        if "client" in vars(self):
            self.client.close()

    @functools.cached_property
    def client(self) -> Any:  # noqa: ANN401  botocore has no types
        """
        The client of botocore, which is only made where one is needed.

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
                    # Checksums beyond the signature are unknown to many servers other than AWS.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    def attributes(self, name: str, *, gzip: bool) -> dict[str, str]:
        """Return the headers of a stored part, so that a link responds as the server would."""
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
        """How objects are stored, in the words of botocore."""
        own = self.settings
        options = {
            "ServerSideEncryption": own.encryption.value if own.encryption else None,
            "SSEKMSKeyId": own.kms_key_id,
            "StorageClass": own.storage_class,
        }
        return {name: value for name, value in options.items() if value}

    def _found_credentials(self) -> Any:  # noqa: ANN401  botocore has no types
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
                "give the process a profile or role of AWS"
            )
        return found

    @property
    def _in_path(self) -> bool:
        # No certificate is good for a dotted bucket name before a host.
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
        # The address may come from the AWS configuration, which the settings do not see.
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
    """Return the credential provider of the driver, which keeps it; so it keeps no bucket."""

    def credential() -> "S3Credential":
        # The driver calls it in threads of its own, where there is no event loop to wait in.
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + KEEP_CREDENTIALS,
        }

    return credential
