"""Parts, and the manifest that is a view of the published ones."""

from enum import StrEnum

import msgspec


class PartKind(StrEnum):
    """Which list of the manifest a part appears in."""

    OUTPUT = "output"
    DELETED = "deleted"
    ERROR = "error"


class Compression(StrEnum):
    """How a part's bytes are stored."""

    NONE = "none"
    GZIP = "gzip"


class PartKey(msgspec.Struct, frozen=True, kw_only=True):
    """Where a part lives; the token keeps a superseded attempt from touching a published part."""

    tenant: str
    job_id: str
    kind: PartKind
    resource_type: str
    """The type of the shard, also for deleted and error parts."""
    ordinal: int
    """The shard's place among those of its type, from 1."""
    number: int
    """The part's place within its shard and kind, from 1."""
    token: int
    """The fencing token of the lease under which the part was written."""
    compression: Compression = Compression.NONE

    @property
    def name(self) -> str:
        """The readable public file name, unique among the published parts of a job."""
        prefix = "" if self.kind is PartKind.OUTPUT else f"{self.kind}-"
        return f"{prefix}{self.resource_type}-{self.ordinal}-{self.number}.ndjson"

    @property
    def stored_name(self) -> str:
        """A readable name that no other part of the job has, nor another attempt at this one."""
        shard = f"{self.kind}-{self.resource_type}-{self.ordinal}"
        ending = ".gz" if self.compression is Compression.GZIP else ""
        return f"{shard}-{self.number}-{self.token}.ndjson{ending}"


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """What an output store says of bytes it has made durable."""

    size: int
    """Bytes at rest, after compression."""
    digest: str
    """Lower-case hexadecimal digest of the bytes at rest; it serves as the ETag."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One finished output file."""

    key: PartKey
    count: int
    """Lines in the file."""
    size: int
    """Bytes at rest, after compression."""
    plain_size: int
    """Bytes of NDJSON before compression."""
    digest: str
    """As in `StoredPart`."""
    digest_sum: int | None = None
    """The order-independent digest of the lines, see `completeness`; None where none was kept."""
    continues: bool = False
    """Whether the last block of lines goes on in the next part of the shard."""
    published: int = 0
    """The part's place among the published parts of its job, from 0; set by the job store."""

    @property
    def manifest_type(self) -> str:
        """What the manifest says the file holds (Bulk Data 2.0.0, Output Manifest)."""
        match self.key.kind:
            case PartKind.OUTPUT:
                return self.key.resource_type
            case PartKind.DELETED:
                return "Bundle"
            case PartKind.ERROR:
                return "OperationOutcome"
