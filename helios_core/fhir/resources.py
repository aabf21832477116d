"""A resource on its way in: checked, compacted, and ready to be stamped with a version."""

from datetime import datetime

import msgspec

from helios_core.fhir.versions import FHIRVersion


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """
    A valid resource as compact bytes, cut where meta.versionId and meta.lastUpdated go.

    Numbers, escapes, unknown elements and the order of elements are those of the input.
    """

    resource_type: str
    id: str
    head: bytes
    """Compact JSON up to and including `"meta":{`."""
    tail: bytes
    """The rest: what else is in meta, then the other elements."""
    content_hash: int
    """xxh3_64 of head and tail: equal hashes mean nothing has changed."""
    patients: tuple[str, ...] = ()
    """Ids of the patients whose compartment the resource is in, sorted, without repeats."""

    def stamped(self, version_id: int, last_updated: datetime) -> bytes:
        """Give the line to store and to export: one compact JSON object without a newline."""
        raise NotImplementedError


def parse_resource(
    body: bytes,
    fhir_version: FHIRVersion,
    *,
    resource_type: str | None = None,
    resource_id: str | None = None,
) -> Resource:
    """
    Check a body and cut it.

    `resource_type` and `resource_id` are what the body must say; an absent id is filled in from
    `resource_id`.

    Raises:
        InvalidResource: What is wrong and where, without showing the content.
    """
    raise NotImplementedError
