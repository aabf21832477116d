"""Parse Bundles into entries without decoding their resources."""

import msgspec

from helios_core.errors import BodyTooLarge, InvalidResource
from helios_core.fhir.strict_json import compact_json, object_members

_TYPES = frozenset(
    {
        "batch",
        "batch-response",
        "collection",
        "document",
        "history",
        "message",
        "searchset",
        "subscription-notification",
        "transaction",
        "transaction-response",
    }
)
_TYPES_WITH_REQUEST = frozenset({"batch", "transaction"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_METHODS_WITH_RESOURCE = frozenset({"POST", "PUT", "PATCH"})


class ParsedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a Bundle; absent members are None."""

    full_url: str | None = None
    resource: bytes | None = None
    """Compact JSON, not validated; `parse_resource` validates it."""
    method: str | None = None
    """`request.method`; never None in a batch or transaction."""
    url: str | None = None
    """`request.url`; never None in a batch or transaction."""
    if_match: str | None = None
    """`request.ifMatch`, as sent: `W/"3"`."""
    if_none_exist: str | None = None
    """`request.ifNoneExist`, as sent: the search of a conditional create."""
    if_none_match: str | None = None
    """`request.ifNoneMatch`, as sent."""
    if_modified_since: str | None = None
    """`request.ifModifiedSince`, as sent."""

    @property
    def size(self) -> int:
        """Bytes of the URL, the condition and the resource; the time of parsing depends on it."""
        return sum(len(text or "") for text in (self.url, self.if_none_exist)) + len(
            self.resource or b""
        )


class ParsedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A Bundle with its entries in their order."""

    type: str
    entries: tuple[ParsedEntry, ...]


def parse_bundle(body: bytes, *, max_entries: int | None = None) -> ParsedBundle:
    """
    Parse a Bundle without decoding its resources.

    Raises:
        BodyTooLarge: It has more than `max_entries`.
        InvalidResource: The body is not a Bundle, or an entry is malformed. The message names the
            entry, counted from 0.
    """
    bundle = object_members(compact_json(body))
    if _text(bundle, "resourceType", where="the body") != "Bundle":
        raise InvalidResource("the body is not a Bundle: resourceType must be Bundle")
    bundle_type = _text(bundle, "type", where="the Bundle")
    if bundle_type not in _TYPES:
        raise InvalidResource(f"Bundle.type must be one of {', '.join(sorted(_TYPES))}")
    raw_entries = _raw_entries(bundle)
    if max_entries is not None and len(raw_entries) > max_entries:
        raise BodyTooLarge(
            f"the Bundle has {len(raw_entries)} entries; send at most {max_entries} at a time"
        )
    entries = (
        _parse_entry(entry, f"entry {index}", needs_request=bundle_type in _TYPES_WITH_REQUEST)
        for index, entry in enumerate(raw_entries)
    )
    return ParsedBundle(type=bundle_type, entries=tuple(entries))


def _raw_entries(bundle: dict[str, msgspec.Raw]) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(bundle.get("entry", b"[]"), type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        raise InvalidResource("Bundle.entry must be an array") from error


def _parse_entry(raw: msgspec.Raw, where: str, *, needs_request: bool) -> ParsedEntry:
    entry = _members(raw, where)
    resource = bytes(entry["resource"]) if "resource" in entry else None
    full_url = _text(entry, "fullUrl", where=where) if "fullUrl" in entry else None
    if "request" not in entry:
        if needs_request:
            raise InvalidResource(
                f"{where} has no request; every entry of a batch or transaction must have one"
            )
        return ParsedEntry(full_url=full_url, resource=resource)
    request = _members(entry["request"], f"{where}.request")
    method = _text(request, "method", where=f"{where}.request")
    if method not in _METHODS:
        raise InvalidResource(
            f"{where}.request.method must be one of {', '.join(sorted(_METHODS))}"
        )
    if needs_request and method in _METHODS_WITH_RESOURCE and resource is None:
        raise InvalidResource(f"{where} has no resource; {method} requires one")
    return ParsedEntry(
        full_url=full_url,
        resource=resource,
        method=method,
        url=_text(request, "url", where=f"{where}.request"),
        if_match=_optional(request, "ifMatch", where=where),
        if_none_exist=_optional(request, "ifNoneExist", where=where),
        if_none_match=_optional(request, "ifNoneMatch", where=where),
        if_modified_since=_optional(request, "ifModifiedSince", where=where),
    )


def _optional(parent: dict[str, msgspec.Raw], name: str, *, where: str) -> str | None:
    return _text(parent, name, where=where) if name in parent else None


def _members(raw: msgspec.Raw, where: str) -> dict[str, msgspec.Raw]:
    try:
        return object_members(raw)
    except InvalidResource as error:
        raise InvalidResource(f"{where}: {error}") from error


def _text(parent: dict[str, msgspec.Raw], name: str, *, where: str) -> str:
    try:
        return msgspec.json.decode(parent.get(name, b"null"), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource(f"{where}: {name} is missing or not a string") from error
