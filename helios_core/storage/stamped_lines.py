"""Read from a stored line which version of which resource it is."""

import msgspec

from helios_core.fhir.instants import parse_instant
from helios_core.storage.data_provider import StoredVersion


class _Meta(msgspec.Struct):
    version_id: str = msgspec.field(name="versionId")
    last_updated: str = msgspec.field(name="lastUpdated")


class _Stamped(msgspec.Struct):
    id: str
    meta: _Meta


_DECODER = msgspec.json.Decoder(_Stamped)


def stored_line(resource_type: str, line: bytes) -> StoredVersion:
    """
    Return the version whose content is a line.

    Raises:
        msgspec.DecodeError: It is not JSON, or lacks what every stored resource has.
    """
    stamped = _DECODER.decode(line)
    try:
        version_id = int(stamped.meta.version_id)
        last_updated = parse_instant(stamped.meta.last_updated)
    except ValueError as error:
        raise msgspec.ValidationError("meta is not that of a stored resource") from error
    return StoredVersion(
        resource_type=resource_type,
        id=stamped.id,
        version_id=version_id,
        last_updated=last_updated,
        content=line,
    )
