"""A resource on its way in: checked, compacted, and ready to be stamped with a version."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import xxhash

from helios_core.errors import InvalidResource
from helios_core.fhir.compartments import patients_of
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.instants import format_instant
from helios_core.fhir.search import IndexTerms, terms_of
from helios_core.fhir.strict_json import object_members, read_object

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


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
    terms: IndexTerms | None = None
    """What to index for searches; None leaves it to the store to find out."""

    def stamped(self, version_id: int, last_updated: datetime) -> bytes:
        """Give the line to store and to export: one compact JSON object without a newline."""
        stamp = f'"versionId":"{version_id}","lastUpdated":"{format_instant(last_updated)}"'
        return b"".join((self.head, stamp.encode(), self.tail))


def parse_resource(  # noqa: PLR0913 - what the body must say, each with a default
    body: bytes,
    fhir_version: FHIRVersion,
    *,
    resource_type: str | None = None,
    resource_id: str | None = None,
    assigned_id: str | None = None,
    base_urls: Sequence[str] = (),
) -> Resource:
    """
    Check a body and cut it.

    `resource_type` and `resource_id` are what the body must say; an absent id is filled in from
    `resource_id`. `assigned_id` is the id to give whatever the body says, as a create does.
    Absolute references count for `patients` only under one of `base_urls`.

    Raises:
        InvalidResource: What is wrong and where, without showing the content.
    """
    tree, text = read_object(body)
    found_type = _checked_type(tree, fhir_version, resource_type)
    tree["id"] = found_id = assigned_id or _checked_id(tree, resource_id)
    patients = patients_of(tree, fhir_version, base_urls)
    terms = terms_of(tree, fhir_version, found_type)
    del tree  # as large as the text, which is cut next
    head, tail = _cut(text, found_type, found_id)
    return Resource(
        resource_type=found_type,
        id=found_id,
        head=head,
        tail=tail,
        content_hash=_hash(head, tail),
        patients=patients,
        terms=terms,
    )


def _hash(head: bytes, tail: bytes) -> int:
    digest = xxhash.xxh3_64(head)
    digest.update(tail)
    return digest.intdigest()


def _checked_type(tree: dict[str, Any], fhir_version: FHIRVersion, expected: str | None) -> str:
    found = tree.get("resourceType")
    if not isinstance(found, str):
        raise InvalidResource(
            "resourceType is missing or not a string; every resource names its type"
        )
    if found not in load_definitions(fhir_version).root_elements:
        raise InvalidResource(_unknown_type(found, fhir_version))
    if expected is not None and found != expected:
        raise InvalidResource(f"the body is of type {found} where {expected} is required")
    return found


def _unknown_type(found: str, fhir_version: FHIRVersion) -> str:
    others = [v.value for v in FHIRVersion if found in load_definitions(v).root_elements]
    if not others:
        return (
            f"resourceType is not a resource type of FHIR {fhir_version}, nor of another version"
        )
    return (
        f"{found} is not a resource type of FHIR {fhir_version}; it is one of {', '.join(others)}"
    )


def _checked_id(tree: dict[str, Any], expected: str | None) -> str:
    found = tree.get("id", expected)
    if found is None and "id" not in tree:
        raise InvalidResource("the resource has no id")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise InvalidResource(
            "id must be a string of 1 to 64 characters out of A-Z, a-z, 0-9, hyphen and dot"
        )
    if expected is not None and found != expected:
        raise InvalidResource(
            "the id in the body is not the id in the request; they must be equal"
        )
    return found


def _cut(text: bytes, resource_type: str, resource_id: str) -> tuple[bytes, bytes]:
    elements = object_members(text)
    del elements["resourceType"]
    elements.pop("id", None)
    meta = _remaining_meta(elements.pop("meta", None))
    head = f'{{"resourceType":"{resource_type}","id":"{resource_id}","meta":{{'
    rest = msgspec.json.encode(elements)[1:]
    return head.encode(), b"".join((meta, b"}," if elements else b"}", rest))


def _remaining_meta(meta: msgspec.Raw | None) -> bytes:
    if meta is None:
        return b""
    if not bytes(meta).startswith(b"{"):
        raise InvalidResource("meta must be an object")
    remaining = object_members(meta)
    remaining.pop("versionId", None)
    remaining.pop("lastUpdated", None)
    return b"," + msgspec.json.encode(remaining)[1:-1] if remaining else b""
