"""Turn documents into changes: a resource, or the entries of a Bundle."""

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
"""The types of Bundles that only carry resources; the others are stored as resources."""

_LAST_SEGMENT = re.compile(r"[:/]([A-Za-z0-9\-.]{1,64})$")


class LoadProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One resource, or the rest of a file, that cannot be loaded."""

    path: str
    line: int | None
    """Counted from 1; None for a file that is a single document."""
    entry: int | None
    """The index in the `entry` of the Bundle, from 0; None outside a Bundle."""
    reason: str
    """What is wrong; contains nothing of the resource."""

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        entry = f", entry {self.entry}" if self.entry is not None else ""
        return f"{self.path}{line}{entry}: {self.reason}"


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are parsed."""

    fhir_version: FHIRVersion
    base_urls: tuple[str, ...] = ()
    targets: Mapping[str, str] = msgspec.field(default_factory=dict)
    """`Type/id` by temporary fullUrl, of the entries of all Bundles that are loaded together."""
    strict: bool = False
    """Whether to stop at the first problem."""


class ParsedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The changes and problems of one chunk."""

    changes: Sequence[Put | Delete]
    problems: Sequence[LoadProblem]
    unresolved: Sequence[tuple[str, str]]
    """Paths and temporary references that could not be replaced, each once per resource."""
    bytes_done: int


class _Identity(msgspec.Struct):
    resource_type: str | None = msgspec.field(default=None, name="resourceType")
    id: str | None = None
    type: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_IDENTITY = msgspec.json.Decoder(_Identity)


class _Item(msgspec.Struct, frozen=True):
    """One resource of a document, not parsed yet."""

    content: bytes | None
    entry: int | None = None
    resource_type: str | None = None
    """The type the content must have; without content, the type of the resource to delete."""
    id: str | None = None


def parse_chunk(options: LoadOptions, chunk: InputChunk) -> ParsedChunk:
    """Turn the documents of a chunk into changes, and list those that cannot be loaded."""
    changes: list[Put | Delete] = []
    problems: list[LoadProblem] = []
    unresolved: list[tuple[str, str]] = []
    parsed = (_parse(options, document, unresolved) for document in chunk.documents)
    for result in chain.from_iterable(parsed):
        if not isinstance(result, LoadProblem):
            changes.append(result)
            continue
        problems.append(result)
        if options.strict:
            break
    return ParsedChunk(
        changes=changes, problems=problems, unresolved=unresolved, bytes_done=chunk.bytes_done
    )


def bundle_targets(chunk: InputChunk) -> dict[str, str]:
    """Return `Type/id` by temporary fullUrl for the entries of the Bundles in a chunk."""
    targets: dict[str, str] = {}
    for document in chunk.documents:
        if not _is_unpacked(document):
            continue
        with suppress(InvalidResource):  # it is reported when the Bundle is loaded
            for entry in parse_bundle(document.content).entries:
                if entry.full_url and entry.full_url.startswith("urn:") and entry.resource:
                    targets[entry.full_url] = "/".join(_target(entry))
    return targets


def _parse(
    options: LoadOptions, document: InputDocument, unresolved: list[tuple[str, str]]
) -> Iterator[Put | Delete | LoadProblem]:
    for item in _items(document):
        if isinstance(item, LoadProblem):
            yield item
            continue
        try:
            change, missing = _change(options, item)
        except InvalidResource as error:
            yield _problem(document, str(error), entry=item.entry)
        else:
            unresolved += ((document.path, reference) for reference in missing)
            yield change


def _items(document: InputDocument) -> Iterable[_Item | LoadProblem]:
    if document.unreadable is not None:
        return [_problem(document, document.unreadable)]
    if not _is_unpacked(document):
        return [_Item(document.content)]
    try:
        bundle = parse_bundle(document.content)
    except InvalidResource as error:
        return [_problem(document, str(error))]
    entries = ((i, e) for i, e in enumerate(bundle.entries) if not _is_search_outcome(bundle, e))
    # A history lists the newest version first (FHIR R4, RESTful API, history).
    in_order = reversed(list(entries)) if bundle.type == "history" else entries
    return [_item(document, index, entry) for index, entry in in_order]


def _is_unpacked(document: InputDocument) -> bool:
    """
    Return whether a document is a Bundle that only carries resources.

    A line of NDJSON with an id is a resource to store, whatever its type: loading exported Bundles
    has to store the same Bundles.
    """
    if b'"Bundle"' not in document.content:
        return False
    identity = _identity(document.content)
    if identity.resource_type != "Bundle" or (
        document.line is not None and identity.id is not None
    ):
        return False
    return bytes(identity.type).strip(b'"').decode(errors="replace") in UNPACKED


def _is_search_outcome(bundle: ParsedBundle, entry: ParsedEntry) -> bool:
    """Return whether an entry only reports on a search (FHIR R4, Bundle.entry.search.mode)."""
    return (
        bundle.type == "searchset"
        and _identity(entry.resource or b"").resource_type == "OperationOutcome"
    )


def _item(document: InputDocument, index: int, entry: ParsedEntry) -> _Item | LoadProblem:
    if entry.method == "DELETE":
        deleted = split_reference(entry.url or "")
        if deleted is None:
            return _problem(document, "a DELETE must name Type/id to be loaded", entry=index)
        return _Item(None, index, *deleted)
    if entry.resource is None:
        return _problem(document, "the entry has no resource to load", entry=index)
    if entry.method not in {None, "POST", "PUT"}:
        return _problem(
            document, f"a {entry.method} changes nothing that can be loaded", entry=index
        )
    put = split_reference(entry.url or "") if entry.method == "PUT" else None
    return _Item(entry.resource, index, *(put or (None, _target(entry)[1] or None)))


def _target(entry: ParsedEntry) -> tuple[str, str]:
    """Return the type and id of an entry's resource, each empty if nothing specifies it."""
    identity = _identity(entry.resource or b"")
    put = split_reference(entry.url or "") if entry.method == "PUT" else None
    last = _LAST_SEGMENT.search(entry.full_url or "")
    resource_id = identity.id or (put and put[1]) or (last and last[1]) or ""
    return identity.resource_type or "", resource_id


def _identity(content: bytes) -> _Identity:
    try:
        return _IDENTITY.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Identity()  # parsing the resource reports what is wrong


def _change(options: LoadOptions, item: _Item) -> tuple[Put | Delete, Iterable[str]]:
    content, missing = item.content, set[str]()
    if content is None:
        return Delete(resource_type=item.resource_type or "", id=item.id or ""), missing
    if b"urn:uuid:" in content or b"urn:oid:" in content:
        content, missing = _replace_references(options, content)
    resource = parse_resource(
        content,
        options.fhir_version,
        resource_type=item.resource_type,
        resource_id=item.id,
        base_urls=options.base_urls,
    )
    return Put(resource=resource), missing


def _replace_references(options: LoadOptions, content: bytes) -> tuple[bytes, set[str]]:
    if b'"Bundle"' in content and _identity(content).resource_type == "Bundle":
        return content, set()  # a stored Bundle refers to its own entries
    return replace_temporary(compact_json(content), options.targets)


def _problem(document: InputDocument, reason: str, *, entry: int | None = None) -> LoadProblem:
    return LoadProblem(path=document.path, line=document.line, entry=entry, reason=reason)
