"""The settings of the bucket of resources."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from helios_core import Secret
from helios_s3.settings import Encryption, access_contradictions

_OURS = "HFS_S3"
_URL = r"^https?://[^\s/?#@]+/?$"


class S3ResourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The bucket of resources, how to reach it, and the credentials."""

    use: ClassVar[str] = "primary"
    variables: ClassVar[str] = _OURS
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
        problems = [problem for wrong, problem in access_contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
