"""The settings of the output bucket and of the bucket with the resources."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from helios_core import Secret

MEBIBYTE = 1024 * 1024

LONGEST_LINK = timedelta(days=7)
"""The longest validity of a signed URL (AWS Signature Version 4, query parameters)."""

_URL = r"^https?://[^\s/?#@]+/?$"


class Encryption(StrEnum):
    """The server-side encryption of objects, in the terms of S3."""

    S3 = "AES256"
    KMS = "aws:kms"
    KMS_TWICE = "aws:kms:dsse"


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The bucket, how to reach it, the credentials, and how objects are stored."""

    use: ClassVar[str] = "output"
    """The name of the bucket's purpose in messages."""
    variables: ClassVar[str] = "HFS_BULK_EXPORT_S3"
    """The prefix of the names of its settings."""
    guide: ClassVar[str] = "s3.md"
    """The guide in docs/how-to."""

    bucket: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            description="Bucket of the export output; it must exist.",
            extra={"name": "HFS_BULK_EXPORT_S3_BUCKET", "allowed": "the name of a bucket"},
        ),
    ]
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$",
            description="Folder of the bucket, used for output alone.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_PREFIX",
                "default": "the whole bucket",
                "allowed": "folder names of letters, digits, '.', '_' and '-', joined by slashes",
            },
        ),
    ] = ""
    endpoint: (
        Annotated[
            str,
            Meta(
                pattern=_URL,
                title="URL",
                description="Address of the S3 server.",
                extra={
                    "name": "HFS_BULK_EXPORT_S3_ENDPOINT",
                    "default": "from the AWS configuration, else that of AWS in the region",
                    "allowed": "an http or https address without a path",
                },
            ),
        ]
        | None
    ) = None
    public_endpoint: (
        Annotated[
            str,
            Meta(
                pattern=_URL,
                title="URL",
                description="Address under which clients reach the same server; "
                "signed URLs use it.",
                extra={
                    "default": "the endpoint itself",
                    "allowed": "an http or https address without a path",
                },
            ),
        ]
        | None
    ) = None
    allow_http: Annotated[
        bool,
        Meta(
            description="Whether the bucket may be used without TLS.",
            extra={"name": "HFS_BULK_EXPORT_S3_ALLOW_HTTP"},
        ),
    ] = False
    force_path_style: Annotated[
        bool,
        Meta(
            description="Whether the bucket is named in the path instead of the host, as most "
            "servers other than AWS need it.",
            extra={"name": "HFS_BULK_EXPORT_S3_FORCE_PATH_STYLE"},
        ),
    ] = False
    output_region: Annotated[
        str | None,
        Meta(
            description="Region of the output bucket.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_REGION",
                "default": "HFS_S3_REGION, else from the AWS configuration, else us-east-1",
            },
        ),
    ] = None
    region: Annotated[
        str | None,
        Meta(description="Region of all buckets without a region setting of their own."),
    ] = None
    access_key_id: Annotated[
        Secret | None,
        Meta(
            description="Access key id for the output bucket.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID",
                "default": "the AWS credential chain",
            },
        ),
    ] = None
    secret_access_key: Annotated[
        Secret | None,
        Meta(
            description="The secret of the access key.",
            extra={"name": "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY"},
        ),
    ] = None
    session_token: Annotated[
        Secret | None,
        Meta(
            description="The session token of a temporary access key.",
            extra={"name": "HFS_BULK_EXPORT_S3_SESSION_TOKEN"},
        ),
    ] = None
    profile: Annotated[
        str | None,
        Meta(
            description="Profile in the AWS configuration files for the output bucket.",
            extra={"name": "HFS_BULK_EXPORT_S3_PROFILE"},
        ),
    ] = None
    encryption: Annotated[
        Encryption | None,
        Meta(
            description="Server-side encryption of every part.",
            extra={"name": "HFS_BULK_EXPORT_S3_ENCRYPTION", "default": "that of the bucket"},
        ),
    ] = None
    kms_key_id: Annotated[
        str | None,
        Meta(
            description="KMS key for the encryption aws:kms or aws:kms:dsse.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_KMS_KEY_ID",
                "default": "the account's default key",
            },
        ),
    ] = None
    storage_class: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Z][A-Z0-9_-]*$",
                description="Storage class of every part; objects must be readable at once.",
                extra={
                    "name": "HFS_BULK_EXPORT_S3_STORAGE_CLASS",
                    "default": "that of the bucket",
                    "allowed": "a storage class in capitals, for example STANDARD_IA",
                },
            ),
        ]
        | None
    ) = None
    block_bytes: Annotated[
        int,
        Meta(
            ge=5 * MEBIBYTE,
            le=5 * 1024 * MEBIBYTE,
            title="bytes",
            description="Size of the blocks in which a part is uploaded; a part up to this size "
            "is uploaded at once. Each worker keeps three blocks in memory.",
            extra={"name": "HFS_BULK_EXPORT_S3_BLOCK_BYTES"},
        ),
    ] = 16 * MEBIBYTE
    file_url_ttl: Annotated[
        timedelta | None,
        Meta(title="seconds", extra={"setting": "HFS_BULK_EXPORT_FILE_URL_TTL"}),
    ] = None
    """How long signed URLs are valid, if it is configured; here it is only checked."""

    @property
    def bucket_region(self) -> str | None:
        """The configured region, or None if the AWS configuration decides."""
        return self.output_region or self.region

    def __post_init__(self) -> None:
        problems = [problem for wrong, problem in self._contradictions() if wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def _contradictions(self) -> list[tuple[bool, str]]:
        return [
            *_access_contradictions(self),
            (
                self.file_url_ttl is not None and self.file_url_ttl > LONGEST_LINK,
                "HFS_BULK_EXPORT_FILE_URL_TTL is above 604800, the maximum of S3",
            ),
        ]


class S3ResourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The bucket of resources, how to reach it, and the credentials."""

    use: ClassVar[str] = "primary"
    variables: ClassVar[str] = "HFS_S3"
    guide: ClassVar[str] = "s3-primary.md"
    public_endpoint: ClassVar[str | None] = None
    storage_class: ClassVar[str | None] = None
    block_bytes: ClassVar[int] = 0
    """Not used: nothing is uploaded in blocks."""

    bucket: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
            description="Bucket of the resources; it must exist.",
            extra={"allowed": "the name of a bucket"},
        ),
    ]
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$",
            description="Folder of the bucket, used for resources alone.",
            extra={
                "default": "the whole bucket",
                "allowed": "folder names of letters, digits, '.', '_' and '-', joined by slashes",
            },
        ),
    ] = ""
    endpoint: (
        Annotated[
            str,
            Meta(
                pattern=_URL,
                title="URL",
                description="Address of the S3 server; it must support `If-None-Match`.",
                extra={
                    "default": "from the AWS configuration, else that of AWS in the region",
                    "allowed": "an http or https address without a path",
                },
            ),
        ]
        | None
    ) = None
    allow_http: Annotated[
        bool, Meta(description="Whether the bucket may be used without TLS.")
    ] = False
    force_path_style: Annotated[
        bool,
        Meta(
            description="Whether the bucket is named in the path instead of the host, as most "
            "servers other than AWS need it."
        ),
    ] = False
    region: Annotated[
        str | None,
        Meta(description="Region of all buckets without a region setting of their own."),
    ] = None
    access_key_id: Annotated[
        Secret | None,
        Meta(
            description="Access key id for the bucket of resources.",
            extra={"default": "the AWS credential chain"},
        ),
    ] = None
    secret_access_key: Annotated[
        Secret | None, Meta(description="The secret of the access key.")
    ] = None
    session_token: Annotated[
        Secret | None, Meta(description="The session token of a temporary access key.")
    ] = None
    profile: Annotated[
        str | None,
        Meta(description="Profile in the AWS configuration files for this bucket."),
    ] = None
    encryption: Annotated[
        Encryption | None,
        Meta(
            description="Server-side encryption of every object.",
            extra={"default": "that of the bucket"},
        ),
    ] = None
    kms_key_id: Annotated[
        str | None,
        Meta(
            description="KMS key for the encryption aws:kms or aws:kms:dsse.",
            extra={"default": "the account's default key"},
        ),
    ] = None

    @property
    def bucket_region(self) -> str | None:
        """The configured region, or None if the AWS configuration decides."""
        return self.region

    def __post_init__(self) -> None:
        problems = [problem for wrong, problem in _access_contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))


def _access_contradictions(settings: "S3Settings | S3ResourceSettings") -> list[tuple[bool, str]]:
    """Return pairs of a condition and the message of the error that it means."""
    ours = settings.variables
    key_name = f"{ours}_ACCESS_KEY_ID"
    key, secret = bool(settings.access_key_id), bool(settings.secret_access_key)
    insecure = bool(settings.endpoint) and urlsplit(settings.endpoint).scheme == "http"
    return [
        (
            key != secret,
            f"{key_name} and {ours}_SECRET_ACCESS_KEY must be set together or not at all",
        ),
        (
            bool(settings.session_token) and not key,
            f"{ours}_SESSION_TOKEN is set without {key_name}",
        ),
        (bool(settings.profile) and key, f"{ours}_PROFILE and {key_name} are both set; use one"),
        (
            insecure and not settings.allow_http,
            f"{ours}_ENDPOINT is an http address and {ours}_ALLOW_HTTP is not true",
        ),
        (
            bool(settings.kms_key_id) and settings.encryption in (None, Encryption.S3),
            f"{ours}_KMS_KEY_ID is set without {ours}_ENCRYPTION=aws:kms or aws:kms:dsse",
        ),
    ]
