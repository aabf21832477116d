"""The resources of documents: their ids, and what cannot be loaded."""

import re
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec
from xxhash import xxh3_128_hexdigest

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.links import BundleLinks
from helios_core.fhir.strict_json import compact_json
from helios_core.loading.inputs import InputDocument

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
"""An id that FHIR allows (FHIR R4, datatypes.html#id)."""

_REFERENCE_TO_UNUSABLE_ID = re.compile(r"([A-Z][A-Za-z]{1,63})/([^?#]+?)(?:/_history/[^/]+)?")


class LoadProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A resource, or the rest of a file, that cannot be loaded."""

    path: str
    line: int | None
    """Counted from 1; None for a file that is a single document."""
    entry: int | None
    """The index in the `entry` of the Bundle, from 0; None outside a Bundle."""
    reason: str
    """What is wrong, without quoting the resource."""

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        entry = f", entry {self.entry}" if self.entry is not None else ""
        return f"{self.path}{line}{entry}: {self.reason}"


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are parsed."""

    fhir_version: FHIRVersion
    base_urls: tuple[str, ...] = ()
    index_path: str | None = None
    """The path of the `LinkIndex`; None without one."""
    strict: bool = False
    """Whether to stop at the first problem."""
    assign_ids: bool = False
    """Whether to assign ids to resources without an id or with an invalid one."""


class LoadedResource(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of a document, not validated yet."""

    content: bytes | None
    """JSON; None for a resource to delete."""
    entry: int | None = None
    resource_type: str | None = None
    """The type that the content must have, or without content, that of the resource to delete."""
    id: str | None = None
    """The id that the content must have if it has one."""
    assigned_id: str | None = None
    """The id that replaces that of the content."""
    links: BundleLinks | None = None
    """The links of the Bundle; None outside a Bundle."""
    links_base: str | None = None
    """The fullUrl against which relative links are resolved."""

    @property
    def final_id(self) -> str | None:
        """The id under which the resource is stored; None if it has no valid one."""
        return self.assigned_id or self.id or identity_of(self.content or b"").usable_id


class Identity(msgspec.Struct):
    """The type and id of a resource, and the type of a Bundle; any of them may be invalid."""

    resource_type: Any = msgspec.field(default=None, name="resourceType")
    id: Any = None
    type: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)

    @property
    def usable_id(self) -> str | None:
        """The id if it is valid; an invalid one is reported when the resource is parsed."""
        return self.id if isinstance(self.id, str) and ID.fullmatch(self.id) else None


_IDENTITY = msgspec.json.Decoder(Identity)


def identity_of(content: bytes) -> Identity:
    """Return the type and id in JSON; None each if it is not a JSON object."""
    try:
        return _IDENTITY.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Identity()  # the error is reported when the resource is parsed


def problem(document: InputDocument, reason: str, *, entry: int | None = None) -> LoadProblem:
    """Return the problem of a document or an entry."""
    return LoadProblem(path=document.path, line=document.line, entry=entry, reason=reason)


def resource_type_of(content: bytes) -> str:
    """Return the resource type of JSON; empty if it has none."""
    resource_type = identity_of(content).resource_type
    return resource_type if isinstance(resource_type, str) else ""


def target_of_unusable_id(reference: str) -> str | None:
    """Return the replacement of a reference to an invalid id if ids are assigned."""
    url, mark, fragment = reference.partition("#")
    match = _REFERENCE_TO_UNUSABLE_ID.fullmatch(url)
    if match is None or ID.fullmatch(match[2]):
        return None
    return f"{match[1]}/{_replacement(match[1], match[2])}{mark}{fragment}"


def assigned_id(content: bytes) -> str | None:
    """
    Return the id to assign to a resource, or None if it has a valid one.

    It is derived from the type and the invalid id, or from the whole content if there is no id, so
    that loading again assigns the same id.
    """
    identity = identity_of(content)
    if identity.usable_id is not None or not isinstance(identity.resource_type, str):
        return None
    if identity.id is None or identity.id == "":
        digest = xxh3_128_hexdigest(compact_json(content))
        return str(uuid5(NAMESPACE_URL, f"{identity.resource_type}#{digest}"))
    return _replacement(identity.resource_type, str(identity.id))


def _replacement(resource_type: str, unusable_id: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{resource_type}/{unusable_id}"))
