"""Parse and validate a resource, ready to be stored as a version."""

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
    A valid resource as compact JSON in two pieces, between which `stamped` puts the version.

    Numbers, escapes, unknown elements and the order of elements are those of the input.
    """

    resource_type: str
    id: str
    head: bytes
    """Compact JSON up to and including `"meta":{`."""
    tail: bytes
    """The rest: the other members of meta, then the other elements."""
    content_hash: int
    """The xxh3_64 of head and tail: equal hashes mean that the content is the same."""
    patients: tuple[str, ...] = ()
    """Ids of the patients in whose compartments the resource is, sorted and distinct."""
    terms: IndexTerms | None = None
    """The terms to index for searches; if None, a store with an index has to call `terms_of`."""

    def stamped(self, version_id: int, last_updated: datetime) -> bytes:
        """Return the line to store and to export: a compact JSON object without a newline."""
        stamp = f'"versionId":"{version_id}","lastUpdated":"{format_instant(last_updated)}"'
        return b"".join((self.head, stamp.encode(), self.tail))


def parse_resource(  # noqa: PLR0913 - what is required of the body, each with a default
    body: bytes,
    fhir_version: FHIRVersion,
    *,
    resource_type: str | None = None,
    resource_id: str | None = None,
    assigned_id: str | None = None,
    base_urls: Sequence[str] = (),
) -> Resource:
    """
    Parse and validate the JSON of a resource.

    If set, `resource_type` and `resource_id` must be equal to those of the body; a body without an
    id gets `resource_id`. `assigned_id` replaces any id of the body, as a create does. For
    `patients`, absolute references count only under one of `base_urls`.

    Raises:
        InvalidResource: The body is invalid. The message says what is wrong and where, without
            resource content.
    """
    tree, text = read_object(body)
    own_type = _require_type(tree, fhir_version, resource_type)
    tree["id"] = own_id = assigned_id or _require_id(tree, resource_id)
    patients = patients_of(tree, fhir_version, base_urls)
    terms = terms_of(tree, fhir_version, own_type)
    del tree  # frees as much memory as the next line takes
    head, tail = _split(text, own_type, own_id)
    return Resource(
        resource_type=own_type,
        id=own_id,
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


def _require_type(tree: dict[str, Any], fhir_version: FHIRVersion, expected: str | None) -> str:
    own_type = tree.get("resourceType")
    if not isinstance(own_type, str):
        raise InvalidResource(
            "resourceType is missing or not a string; every resource must have one"
        )
    if own_type not in load_definitions(fhir_version).root_elements:
        raise InvalidResource(_unknown_type(own_type, fhir_version))
    if expected is not None and own_type != expected:
        raise InvalidResource(f"the body is of type {own_type}; {expected} is required")
    return own_type


def _unknown_type(own_type: str, fhir_version: FHIRVersion) -> str:
    versions = [v.value for v in FHIRVersion if own_type in load_definitions(v).root_elements]
    if not versions:
        return (
            f"resourceType is not a resource type of FHIR {fhir_version}, nor of another version"
        )
    return (
        f"{own_type} is not a resource type of FHIR {fhir_version}, but of {', '.join(versions)}"
    )


def _require_id(tree: dict[str, Any], expected: str | None) -> str:
    own_id = tree.get("id", expected)
    if own_id is None and "id" not in tree:
        raise InvalidResource("the resource has no id")
    if not isinstance(own_id, str) or not _ID.fullmatch(own_id):
        raise InvalidResource(
            "id must be a string of 1 to 64 characters from A-Z, a-z, 0-9, hyphen and dot"
        )
    if expected is not None and own_id != expected:
        raise InvalidResource(
            "the id in the body is not the id in the request; they must be equal"
        )
    return own_id


def _split(text: bytes, resource_type: str, resource_id: str) -> tuple[bytes, bytes]:
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
