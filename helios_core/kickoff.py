"""Accept an export: parse the request, check it, plan it, store the job."""

from collections.abc import Sequence

import msgspec

from helios_core.exports import Level
from helios_core.fhir.versions import FHIRVersion
from helios_core.jobs import Job
from helios_core.plugins import Backends


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A kick-off as it came in through the door, not yet looked at."""

    tenant: str
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    url: str
    """The absolute URL with query, exactly as the client sent it."""
    query: Sequence[tuple[str, str]] = ()
    """Decoded name and value pairs of the query string, in order, repeats kept."""
    body: bytes | None = None
    """The Parameters resource of a POST, None for a GET."""
    prefer: Sequence[str] = ()
    """The values of the Prefer header lines."""
    owner: str | None = None


async def accept(backends: Backends, call: Call, *, max_active: int, shard_bytes: int) -> Job:
    """
    Turn a call into a stored job with its shards (Bulk Data 2.0.0, Bulk Data Kick-off Request).

    Raises:
        InvalidRequest: The call is malformed, or `Prefer: respond-async` is missing.
        InvalidParameter: A parameter's value cannot mean anything.
        UnsupportedParameter: A parameter or value is not served, and must not be ignored.
        ResourceNotFound: The group does not exist.
        TooManyExports: The tenant's cap of active exports is reached.
        BackendUnavailable: The store cannot answer now.
    """
    raise NotImplementedError
