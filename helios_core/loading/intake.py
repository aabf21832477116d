"""What a body to load asks for: its resource, or the entries of its bundle, as changes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.bundles import ParsedBundle, ParsedEntry, parse_bundle
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.references import replace_temporary, split_reference
from helios_core.fhir.resources import parse_resource
from helios_core.fhir.strict_json import compact_json
from helios_core.loading.inputs import InputChunk, InputDocument
from helios_core.storage.data_provider import Delete, Put

UNPACKED = frozenset({"transaction", "batch", "collection", "searchset", "history"})
"""The bundles that are a way to send resources; the others are resources themselves."""

_LAST_SEGMENT = re.compile(r"[:/]([A-Za-z0-9\-.]{1,64})$")


class LoadProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One resource, or the rest of a file, that cannot be loaded."""

    path: str
    line: int | None
    """From 1; None for a file that is a single document."""
    entry: int | None
    """The index in the bundle's `entry`, from 0; None outside a bundle."""
    reason: str
    """What is wrong, without showing the content."""

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        entry = f", entry {self.entry}" if self.entry is not None else ""
        return f"{self.path}{line}{entry}: {self.reason}"


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How bodies are to be understood."""

    fhir_version: FHIRVersion
    base_urls: tuple[str, ...] = ()
    targets: Mapping[str, str] = msgspec.field(default_factory=dict)
    """From an entry's temporary fullUrl to its `Type/id`, of all bundles loaded together."""
    strict: bool = False
    """Whether to stop at the first problem."""


class ParsedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk comes to."""

    changes: Sequence[Put | Delete]
    problems: Sequence[LoadProblem]
    unresolved: Sequence[tuple[str, str]]
    """Temporary references that stay as they are, each once per resource."""
    bytes_done: int


class _Identity(msgspec.Struct):
    resource_type: str | None = msgspec.field(default=None, name="resourceType")
    id: str | None = None
    type: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_IDENTITY = msgspec.json.Decoder(_Identity)


class _Item(msgspec.Struct, frozen=True):
    """One resource of a body, not parsed yet."""

    content: bytes | None
    entry: int | None = None
    resource_type: str | None = None
    """What the content must say; with no content, what is to be deleted."""
    id: str | None = None


def parse_chunk(intake: LoadOptions, chunk: InputChunk) -> ParsedChunk:
    """Turn the bodies of a chunk into changes, and tell which could not be."""
    changes: list[Put | Delete] = []
    problems: list[LoadProblem] = []
    unresolved: list[tuple[str, str]] = []
    for found in chain.from_iterable(_found(intake, body, unresolved) for body in chunk.bodies):
        if not isinstance(found, LoadProblem):
            changes.append(found)
            continue
        problems.append(found)
        if intake.strict:
            break
    return ParsedChunk(
        changes=changes, problems=problems, unresolved=unresolved, bytes_done=chunk.bytes_done
    )


def bundle_targets(chunk: InputChunk) -> dict[str, str]:
    """Give `Type/id` by temporary fullUrl, for the entries of the bundles in a chunk."""
    found: dict[str, str] = {}
    for body in chunk.bodies:
        if not _is_unpacked(body):
            continue
        with suppress(InvalidResource):  # it is told when the bundle is loaded
            for entry in parse_bundle(body.content).entries:
                if entry.full_url and entry.full_url.startswith("urn:") and entry.resource:
                    found[entry.full_url] = "/".join(_target(entry))
    return found


def _found(
    intake: LoadOptions, body: InputDocument, unresolved: list[tuple[str, str]]
) -> Iterator[Put | Delete | LoadProblem]:
    for item in _items(body):
        if isinstance(item, LoadProblem):
            yield item
            continue
        try:
            change, missing = _change(intake, item)
        except InvalidResource as error:
            yield _problem(body, str(error), entry=item.entry)
        else:
            unresolved += ((body.path, reference) for reference in missing)
            yield change


def _items(body: InputDocument) -> Iterable[_Item | LoadProblem]:
    if body.unreadable is not None:
        return [_problem(body, body.unreadable)]
    if not _is_unpacked(body):
        return [_Item(body.content)]
    try:
        bundle = parse_bundle(body.content)
    except InvalidResource as error:
        return [_problem(body, str(error))]
    entries = ((i, e) for i, e in enumerate(bundle.entries) if not _is_remark(bundle, e))
    # A history lists the newest version first (FHIR R4, RESTful API, history).
    in_order = reversed(list(entries)) if bundle.type == "history" else entries
    return [_item(body, index, entry) for index, entry in in_order]


def _is_unpacked(body: InputDocument) -> bool:
    """
    Whether a body is a bundle that only carries resources.

    A line of NDJSON with an id is a resource to store, whatever its type: exporting bundles and
    loading the files again has to give the same bundles.
    """
    if b'"Bundle"' not in body.content:
        return False
    identity = _identity(body.content)
    if identity.resource_type != "Bundle" or (body.line is not None and identity.id is not None):
        return False
    return bytes(identity.type).strip(b'"').decode(errors="replace") in UNPACKED


def _is_remark(bundle: ParsedBundle, entry: ParsedEntry) -> bool:
    """Whether an entry only tells how a search went (FHIR R4, Bundle.entry.search.mode)."""
    return (
        bundle.type == "searchset"
        and _identity(entry.resource or b"").resource_type == "OperationOutcome"
    )


def _item(body: InputDocument, index: int, entry: ParsedEntry) -> _Item | LoadProblem:
    if entry.method == "DELETE":
        deleted = split_reference(entry.url or "")
        if deleted is None:
            return _problem(body, "a DELETE must name Type/id to be loaded", entry=index)
        return _Item(None, index, *deleted)
    if entry.resource is None:
        return _problem(body, "the entry has no resource to load", entry=index)
    if entry.method not in {None, "POST", "PUT"}:
        return _problem(body, f"a {entry.method} changes nothing that can be loaded", entry=index)
    put = split_reference(entry.url or "") if entry.method == "PUT" else None
    return _Item(entry.resource, index, *(put or (None, _target(entry)[1] or None)))


def _target(entry: ParsedEntry) -> tuple[str, str]:
    """Give the type and id an entry's resource will have, empty where nothing tells."""
    identity = _identity(entry.resource or b"")
    put = split_reference(entry.url or "") if entry.method == "PUT" else None
    last = _LAST_SEGMENT.search(entry.full_url or "")
    resource_id = identity.id or (put and put[1]) or (last and last[1]) or ""
    return identity.resource_type or "", resource_id


def _identity(content: bytes) -> _Identity:
    try:
        return _IDENTITY.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Identity()  # parsing the resource tells what is wrong


def _change(intake: LoadOptions, item: _Item) -> tuple[Put | Delete, Iterable[str]]:
    content, missing = item.content, set[str]()
    if content is None:
        return Delete(resource_type=item.resource_type or "", id=item.id or ""), missing
    if b"urn:uuid:" in content or b"urn:oid:" in content:
        content, missing = _resolved(intake, content)
    resource = parse_resource(
        content,
        intake.fhir_version,
        resource_type=item.resource_type,
        resource_id=item.id,
        base_urls=intake.base_urls,
    )
    return Put(resource=resource), missing


def _resolved(intake: LoadOptions, content: bytes) -> tuple[bytes, set[str]]:
    if b'"Bundle"' in content and _identity(content).resource_type == "Bundle":
        return content, set()  # a bundle that is stored refers to its own entries
    return replace_temporary(compact_json(content), intake.targets)


def _problem(body: InputDocument, reason: str, *, entry: int | None = None) -> LoadProblem:
    return LoadProblem(path=body.path, line=body.line, entry=entry, reason=reason)
