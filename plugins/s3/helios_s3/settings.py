"""What an operator can set about the output bucket, and about that of the resources."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from helios_core import Secret

MEBIBYTE = 1024 * 1024

LONGEST_LINK = timedelta(days=7)
"""A signature of version 4 is good for no longer (AWS, Signature Version 4, query parameters)."""

_URL = r"^https?://[^\s/?#@]+/?$"


class Encryption(StrEnum):
    """Who encrypts what is stored, as S3 spells it."""

    S3 = "AES256"
    KMS = "aws:kms"
    KMS_TWICE = "aws:kms:dsse"


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Which bucket, how to reach it, who one is there and how objects are stored."""

    use: ClassVar[str] = "output"
    """What the bucket is, as messages name it."""
    variables: ClassVar[str] = "HFS_BULK_EXPORT_S3"
    """How the names of its settings begin."""
    guide: ClassVar[str] = "s3.md"

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
            description="Folder of the bucket that is the output's alone.",
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
                    "default": "as the AWS configuration says, else that of AWS in the region",
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
                description="Address of the same server as clients reach it; links use it.",
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
            description="Whether the bucket is named in the path, not in the host; most servers "
            "other than AWS want that.",
            extra={"name": "HFS_BULK_EXPORT_S3_FORCE_PATH_STYLE"},
        ),
    ] = False
    output_region: Annotated[
        str | None,
        Meta(
            description="Region of the output bucket.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_REGION",
                "default": "HFS_S3_REGION, then as the AWS configuration says, then us-east-1",
            },
        ),
    ] = None
    region: Annotated[
        str | None,
        Meta(description="Region of every bucket whose own setting does not say another."),
    ] = None
    access_key_id: Annotated[
        Secret | None,
        Meta(
            description="Key id for the output bucket alone.",
            extra={
                "name": "HFS_BULK_EXPORT_S3_ACCESS_KEY_ID",
                "default": "the AWS credential chain",
            },
        ),
    ] = None
    secret_access_key: Annotated[
        Secret | None,
        Meta(
            description="The secret that belongs to the key id.",
            extra={"name": "HFS_BULK_EXPORT_S3_SECRET_ACCESS_KEY"},
        ),
    ] = None
    session_token: Annotated[
        Secret | None,
        Meta(
            description="The token that belongs to a temporary key id.",
            extra={"name": "HFS_BULK_EXPORT_S3_SESSION_TOKEN"},
        ),
    ] = None
    profile: Annotated[
        str | None,
        Meta(
            description="Profile of the AWS configuration files for the output bucket alone.",
            extra={"name": "HFS_BULK_EXPORT_S3_PROFILE"},
        ),
    ] = None
    encryption: Annotated[
        Encryption | None,
        Meta(
            description="Encryption asked of the server for every part.",
            extra={"name": "HFS_BULK_EXPORT_S3_ENCRYPTION", "default": "as the bucket says"},
        ),
    ] = None
    kms_key_id: Annotated[
        str | None,
        Meta(
            description="Key of the encryption aws:kms or aws:kms:dsse.",
            extra={"name": "HFS_BULK_EXPORT_S3_KMS_KEY_ID", "default": "the account's own"},
        ),
    ] = None
    storage_class: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Z][A-Z0-9_-]*$",
                description="Storage class of every part; one that can be read at once.",
                extra={
                    "name": "HFS_BULK_EXPORT_S3_STORAGE_CLASS",
                    "default": "as the bucket says",
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
            description="Size of the blocks in which a part is sent; one up to this size is sent "
            "at once. Three blocks of each worker are in memory.",
            extra={"name": "HFS_BULK_EXPORT_S3_BLOCK_BYTES"},
        ),
    ] = 16 * MEBIBYTE
    file_url_ttl: Annotated[
        timedelta | None,
        Meta(title="seconds", extra={"setting": "HFS_BULK_EXPORT_FILE_URL_TTL"}),
    ] = None
    """How long links shall be valid, if the operator says so; the server passes it with each."""

    @property
    def bucket_region(self) -> str | None:
        """The region, or None if the AWS configuration says."""
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
                "HFS_BULK_EXPORT_FILE_URL_TTL is above 604800, the most that S3 takes",
            ),
        ]


class S3ResourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which bucket holds the resources, how to reach it, and who one is there."""

    use: ClassVar[str] = "primary"
    variables: ClassVar[str] = "HFS_S3"
    guide: ClassVar[str] = "s3-primary.md"
    public_endpoint: ClassVar[str | None] = None
    storage_class: ClassVar[str | None] = None
    block_bytes: ClassVar[int] = 0
    """Nothing is sent in blocks."""

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
            description="Folder of the bucket that is the resources' alone.",
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
                description="Address of the S3 server; it must honour `If-None-Match`.",
                extra={
                    "default": "as the AWS configuration says, else that of AWS in the region",
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
            description="Whether the bucket is named in the path, not in the host; most servers "
            "other than AWS want that."
        ),
    ] = False
    region: Annotated[
        str | None,
        Meta(description="Region of every bucket whose own setting does not say another."),
    ] = None
    access_key_id: Annotated[
        Secret | None,
        Meta(
            description="Key id for the bucket of the resources alone.",
            extra={"default": "the AWS credential chain"},
        ),
    ] = None
    secret_access_key: Annotated[
        Secret | None, Meta(description="The secret that belongs to the key id.")
    ] = None
    session_token: Annotated[
        Secret | None, Meta(description="The token that belongs to a temporary key id.")
    ] = None
    profile: Annotated[
        str | None,
        Meta(description="Profile of the AWS configuration files for this bucket alone."),
    ] = None
    encryption: Annotated[
        Encryption | None,
        Meta(
            description="Encryption asked of the server for every object.",
            extra={"default": "as the bucket says"},
        ),
    ] = None
    kms_key_id: Annotated[
        str | None,
        Meta(
            description="Key of the encryption aws:kms or aws:kms:dsse.",
            extra={"default": "the account's own"},
        ),
    ] = None

    @property
    def bucket_region(self) -> str | None:
        """The region, or None if the AWS configuration says."""
        return self.region

    def __post_init__(self) -> None:
        problems = [problem for wrong, problem in _access_contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))


def _access_contradictions(settings: "S3Settings | S3ResourceSettings") -> list[tuple[bool, str]]:
    """Return what can be wrong about how a bucket is reached: whether it is, and the sentence."""
    ours = settings.variables
    key_name = f"{ours}_ACCESS_KEY_ID"
    key, secret = bool(settings.access_key_id), bool(settings.secret_access_key)
    insecure = bool(settings.endpoint) and urlsplit(settings.endpoint).scheme == "http"
    return [
        (key != secret, f"{key_name} and {ours}_SECRET_ACCESS_KEY are set together or not at all"),
        (
            bool(settings.session_token) and not key,
            f"{ours}_SESSION_TOKEN is set without {key_name}",
        ),
        (bool(settings.profile) and key, f"{ours}_PROFILE and {key_name} are set both; use one"),
        (
            insecure and not settings.allow_http,
            f"{ours}_ENDPOINT is an http address and {ours}_ALLOW_HTTP is not true",
        ),
        (
            bool(settings.kms_key_id) and settings.encryption in (None, Encryption.S3),
            f"{ours}_KMS_KEY_ID is set without {ours}_ENCRYPTION=aws:kms or aws:kms:dsse",
        ),
    ]
