"""Parts: the files that an export consists of."""

from enum import StrEnum

import msgspec

from helios_core.errors import InvalidRequest


class PartKind(StrEnum):
    """The list of the manifest that a part appears in."""

    OUTPUT = "output"
    DELETED = "deleted"
    ERROR = "error"


class Compression(StrEnum):
    """How the bytes of a part are stored."""

    NONE = "none"
    GZIP = "gzip"


class PartKey(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a part; with the token in it, each attempt writes parts of its own."""

    tenant: str
    job_id: str
    kind: PartKind
    resource_type: str
    """The type of the shard, also for deleted and error parts."""
    ordinal: int
    """The number of the shard among those of its type, from 1."""
    number: int
    """The number of the part within its shard and kind, from 1."""
    token: int
    """The fencing token of the lease under which the part was written."""
    compression: Compression = Compression.NONE

    @property
    def name(self) -> str:
        """The public file name, unique among the published parts of a job."""
        prefix = "" if self.kind is PartKind.OUTPUT else f"{self.kind}-"
        return f"{prefix}{self.resource_type}-{self.ordinal}-{self.number}.ndjson"

    @property
    def stored_name(self) -> str:
        """The name in the output store, unique among all parts and attempts of a job."""
        shard = f"{self.kind}-{self.resource_type}-{self.ordinal}"
        ending = ".gz" if self.compression is Compression.GZIP else ""
        return f"{shard}-{self.number}-{self.token}.ndjson{ending}"

    @property
    def path(self) -> str:
        """
        `{tenant}/{job}/{stored name}`, for a path in a folder or the key of an object.

        Raises:
            InvalidRequest: One of the three is not a plain name.
        """
        return f"{job_path(self.tenant, self.job_id)}/{_plain(self.stored_name)}"


def job_path(tenant: str, job_id: str) -> str:
    """
    Return `{tenant}/{job}`, below which the parts of a job lie.

    Raises:
        InvalidRequest: One of the two is not a plain name.
    """
    return f"{_plain(tenant)}/{_plain(job_id)}"


def _plain(name: str) -> str:
    # Every id was checked when it came in; paths are built from them here, so once more.
    if not name or name[0] == "." or any(sign in name for sign in "/\\\0"):
        raise InvalidRequest(
            "a tenant, job or part has a name that cannot be part of a path;"
            " use letters, digits, '-', '_' and inner dots"
        )
    return name


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """What an output store reports of a part that it has made durable."""

    size: int
    """Bytes at rest, after compression."""
    digest: str
    """Lower-case hexadecimal digest of the bytes at rest; it serves as the ETag."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One finished file."""

    key: PartKey
    count: int
    """Lines in the file; headers of blocks do not count."""
    size: int
    """Bytes at rest, after compression."""
    plain_size: int
    """Bytes of NDJSON before compression."""
    digest: str
    """As in `StoredPart`."""
    digest_sum: int | None = None
    """The order-independent digest of the lines, see `completeness`; None if it is not known."""
    continues: bool = False
    """Whether the last block continues in the next part of the shard."""
    published: int = 0
    """The number of the part among the published ones of its job, from 0; set by the job store."""

    @property
    def manifest_type(self) -> str:
        """The type that the manifest states for the file (Bulk Data 2.0.0, Output Manifest)."""
        match self.key.kind:
            case PartKind.OUTPUT:
                return self.key.resource_type
            case PartKind.DELETED:
                return "Bundle"
            case PartKind.ERROR:
                return "OperationOutcome"
