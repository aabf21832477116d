"""Turn documents into changes: a resource, or the entries of a Bundle."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

import msgspec

from helios_core.errors import InvalidResource
from helios_core.fhir.links import (
    TEMPORARY_NEEDLES,
    Links,
    is_temporary,
    normalized_link,
    rewrite_links,
)
from helios_core.fhir.references import conditional_references, conditional_search
from helios_core.fhir.resources import Resource, parse_resource
from helios_core.fhir.strict_json import compact_json
from helios_core.hashes import to_signed
from helios_core.loading.bundles import LoadedBundle, is_unpacked
from helios_core.loading.inputs import InputChunk, InputDocument
from helios_core.loading.link_index import LinkIndex, Match, is_unique
from helios_core.loading.resources import (
    LoadedResource,
    LoadOptions,
    LoadProblem,
    assigned_id,
    problem,
    resource_type_of,
    target_of_unusable_id,
)
from helios_core.storage.data_provider import Delete, Put

_TO_UNUSABLE_ID = re.compile(
    rb'"reference"\s*:\s*"[A-Z][A-Za-z]{1,63}/(?![A-Za-z0-9\-.]{1,64}(?:/_history/[^"]*)?")'
)
_CONDITIONAL = re.compile(rb'"reference"\s*:\s*"[^"?#]{1,2000}?(?:\?|\\u003[fF])')


class UnresolvedLink(msgspec.Struct, frozen=True, array_like=True):
    """A link that is kept unchanged because its target is unknown; reported once per resource."""

    path: str
    link: str
    match: Match | None = None
    """How a conditional reference matches; None for a temporary link."""


class ParsedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The changes and problems of one chunk."""

    changes: Sequence[Put | Delete]
    problems: Sequence[LoadProblem]
    unresolved: Sequence[UnresolvedLink]
    bytes_done: int


class Intake:
    """Parses the documents of a load."""

    def __init__(self, options: LoadOptions, index: LinkIndex | None = None) -> None:
        """Take an index, or open the one that the options name."""
        self.options = options
        if index is None and options.index_path is not None:
            index = LinkIndex(Path(options.index_path), read_only=True)
        self._index = index
        # Many resources link to the same ones in other files: a hospital, its doctors.
        self._target = lru_cache(maxsize=10_000)(index.target) if index else None

    def parse_chunk(self, chunk: InputChunk) -> ParsedChunk:
        """Turn the documents of a chunk into changes, and list those that cannot be loaded."""
        changes: list[Put | Delete] = []
        problems: list[LoadProblem] = []
        unresolved: list[UnresolvedLink] = []
        parsed = (self._parse(document, unresolved) for document in chunk.documents)
        for result in chain.from_iterable(parsed):
            if not isinstance(result, LoadProblem):
                changes.append(result)
                continue
            problems.append(result)
            if self.options.strict:
                break
        return ParsedChunk(
            changes=changes, problems=problems, unresolved=unresolved, bytes_done=chunk.bytes_done
        )

    def _parse(
        self, document: InputDocument, unresolved: list[UnresolvedLink]
    ) -> Iterator[Put | Delete | LoadProblem]:
        try:
            for resource in self.resources_of(document):
                if isinstance(resource, LoadProblem):
                    yield resource
                    continue
                try:
                    change, missing = self._change(document, resource)
                except Exception as error:  # noqa: BLE001 - one resource must not end the load
                    yield problem(document, _reason(error), entry=resource.entry)
                else:
                    unresolved += missing
                    yield change
        except Exception as error:  # noqa: BLE001 - one document must not end the load
            yield problem(document, _reason(error))

    def resources_of(self, document: InputDocument) -> Iterable[LoadedResource | LoadProblem]:
        """
        Return the resources of a document.

        Raises:
            InvalidResource: The document is a broken Bundle.
        """
        if document.unreadable is not None:
            return [problem(document, document.unreadable)]
        if is_unpacked(document):
            return LoadedBundle(document, self.options, self._index).resources(self._index)
        assigned = assigned_id(document.content) if self.options.assign_ids else None
        return [LoadedResource(content=document.content, assigned_id=assigned)]

    def _change(
        self, document: InputDocument, resource: LoadedResource
    ) -> tuple[Put | Delete, list[UnresolvedLink]]:
        if resource.content is None:
            return Delete(resource_type=resource.resource_type or "", id=resource.id or ""), []
        content, missing = self.with_links(resource)
        return Put(resource=self._stored(resource, content)), [
            UnresolvedLink(document.path, link, match) for link, match in missing.items()
        ]

    def content_hash(self, resource: LoadedResource) -> int:
        """
        Return the signed hash of a resource as it is stored, with its links resolved.

        Raises:
            InvalidResource: The content is invalid.
        """
        content, _ = self.with_links(resource)
        return to_signed(self._stored(resource, content).content_hash)

    def _stored(self, resource: LoadedResource, content: bytes) -> Resource:
        return parse_resource(
            content,
            self.options.fhir_version,
            resource_type=resource.resource_type,
            resource_id=resource.id,
            assigned_id=resource.assigned_id,
            base_urls=self.options.base_urls,
        )

    def with_links(self, resource: LoadedResource) -> tuple[bytes, dict[str, Match | None]]:
        """
        Return the content with its links rewritten, and the links that could not be resolved.

        Raises:
            InvalidResource: The content is invalid.
        """
        content = resource.content or b""
        missing: dict[str, Match | None] = {}
        own = resource.links.of_entry(resource.links_base) if resource.links else None
        needles = own.needles if own else TEMPORARY_NEEDLES
        assign_ids = self.options.assign_ids and _TO_UNUSABLE_ID.search(content) is not None
        lowered = content.lower()
        for needle in needles:
            if needle in lowered:
                break
        else:
            if not assign_ids and not _may_be_conditional(content):
                return content, missing
        resource_type = resource_type_of(content)
        if resource_type == "Bundle":
            return content, missing  # a stored Bundle refers to its own entries
        content = compact_json(content)
        conditional = dict[str, str]()
        for reference in conditional_references(content, self.options.base_urls):
            match, target = (
                self._index.conditional_target(reference) if self._index else (Match.NOTHING, None)
            )
            if target is None:
                missing[reference] = match
            else:
                conditional[reference] = target
        links = _LoadLinks(own, self._target, conditional, self.options)
        content, temporary = rewrite_links(
            content, self.options.fhir_version, resource_type, links
        )
        return content, missing | dict.fromkeys(temporary)


class _LoadLinks:
    """Resolves the links of one resource: within its Bundle, and then in the other files."""

    def __init__(
        self,
        own: Links | None,
        target: Callable[[str], str | None] | None,
        conditional: Mapping[str, str],
        options: LoadOptions,
    ) -> None:
        self.needles = (
            *(own.needles if own else TEMPORARY_NEEDLES),
            *((b"?", b"\\u003f") if conditional else ()),
            *((b"/",) if options.assign_ids else ()),
        )
        self._own = own
        self._target = target
        self._conditional = conditional
        self._options = options

    def resolve(self, link: str) -> str | None:
        """Return the link that replaces another one, or None to keep it."""
        search = conditional_search(link, self._options.base_urls) if self._conditional else None
        if search and (target := self._conditional.get(search)):
            return target
        if self._own and (target := self._own.resolve(link)):
            return target
        url, mark, fragment = link.partition("#")
        if self._target and is_temporary(url) and is_unique(normalized := normalized_link(url)):
            target = self._target(normalized)
            return f"{target}{mark}{fragment}" if target else None
        if not self._options.assign_ids or (assigned := target_of_unusable_id(link)) is None:
            return None
        return (self._own and self._own.resolve(assigned)) or assigned


def find_conditional_references(content: bytes, options: LoadOptions) -> set[str]:
    """Return the conditional references of a resource; none if it is invalid or a Bundle."""
    if not _may_be_conditional(content) or resource_type_of(content) == "Bundle":
        return set()
    with suppress(InvalidResource):  # it is reported when the resource is loaded
        return conditional_references(compact_json(content), options.base_urls)
    return set()


def _may_be_conditional(content: bytes) -> bool:
    # Looking for one byte first is many times as fast, where a large string is all there is.
    may_be = b"?" in content or (b"\\" in content and b"\\u003" in content)
    return may_be and _CONDITIONAL.search(content) is not None


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidResource):
        return str(error)
    # The message of an unexpected error may quote the resource.
    return f"parsing it failed with {type(error).__name__}"
