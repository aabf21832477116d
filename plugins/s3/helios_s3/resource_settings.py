"""What an operator can set about the bucket that holds the resources."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from helios_core import Secret
from helios_s3.settings import Encryption, access_contradictions

_OURS = "HFS_S3"
_URL = r"^https?://[^\s/?#@]+/?$"


class S3ResourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which bucket holds the resources, how to reach it, and who one is there."""

    use: ClassVar[str] = "primary"
    variables: ClassVar[str] = _OURS
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
        problems = [problem for wrong, problem in access_contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
