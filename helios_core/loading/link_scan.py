"""Resolve the links between the files of a load, before anything is written."""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.search import Filter, compile_query, id_term, necessary_terms, terms_of
from helios_core.loading.bundles import LoadedBundle, is_unpacked
from helios_core.loading.inputs import FoundFiles, InputChunk, InputDocument, read_chunks
from helios_core.loading.intake import Intake, find_conditional_references
from helios_core.loading.link_index import Claim, Content, LinkIndex, Match
from helios_core.loading.resources import (
    LoadedResource,
    LoadOptions,
    LoadProblem,
    problem,
    resource_type_of,
)
from helios_core.storage.data_provider import SearchPage, SearchQuery, SupportsSearch
from helios_core.storage.resource_keys import TypeKey

DISPLACED = (
    "another resource has its type and id; it is loaded under a new id, and the links in its "
    "Bundle lead to that"
)
CLASH = "its fullUrl is also that of another resource; links to it from other files are kept"
_TWO = 2
MAX_ROUNDS = 20
"""Maximum length of chains of links in a Bundle; resources beyond it get other ids."""
MAX_PAGE = 500
RetryUntilStop: TypeAlias = Callable[
    [Callable[[], Coroutine[Any, Any, SearchPage]]], Awaitable[SearchPage | None]
]
"""Calls a store, again while it does not respond; returns None once the load is to stop."""

_DECIDED = {Match.SEVERAL, Match.UNSUPPORTED}


class ScannedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The result of scanning one chunk."""

    clashes: tuple[LoadProblem, ...] = ()
    """The entries whose fullUrl or id is also that of another resource."""
    bytes_done: int


def scan(files: FoundFiles, options: LoadOptions, index: LinkIndex) -> Generator[ScannedChunk]:
    """Add globally unique fullUrls, conditional references and claims to the index."""
    for chunk in read_chunks(files):
        clashes = [
            clash for document in chunk.documents for clash in _scan(document, options, index)
        ]
        yield ScannedChunk(clashes=tuple(clashes), bytes_done=chunk.bytes_done)


def _scan(document: InputDocument, options: LoadOptions, index: LinkIndex) -> list[LoadProblem]:
    try:
        if not is_unpacked(document):
            if references := find_conditional_references(document.content, options):
                index.add_conditionals(references)
            index.has_lines = True
            return []
        bundle = LoadedBundle(document, options, index)
    except Exception:  # noqa: BLE001 - it is reported when the document is loaded
        return []
    clashes = dict.fromkeys(bundle.clashes, CLASH)
    clashes |= {entry: CLASH for entry, url in bundle.definitions() if index.define(url)}
    clashes |= dict.fromkeys(bundle.displaced, DISPLACED)
    index.add_claims(claim for _, claim in bundle.claims())
    for creation in bundle.conditions():
        index.add_condition(creation)
    for target, server in bundle.servers():
        index.add_server(target, server)
    for resource in bundle.resources():
        if isinstance(resource, LoadedResource) and resource.content is not None:
            references = find_conditional_references(resource.content, options)
            if references:
                index.add_conditionals(references)
    return [problem(document, reason, entry=entry) for entry, reason in sorted(clashes.items())]


class Contest:
    """Finds the entries that create a resource with the id of another one."""

    def __init__(self, index: LinkIndex, options: LoadOptions) -> None:
        """Take the index that a scan has filled."""
        self._index = index
        self._options = options
        self._intake = Intake(options, index)

    def note_named(self, files: FoundFiles) -> Generator[ScannedChunk]:
        """Add the contents of contested ids that PUTs and lines name; naming an id wins it."""
        in_bundles = self._index.has_contested
        for chunk in read_chunks(files):
            for document in chunk.documents:
                with suppress(Exception):  # it is reported when the document is loaded
                    if not is_unpacked(document):
                        self._note_line(document)
                    elif in_bundles:
                        self._index.add_contents(list(self._contents(document, self._is_named)))
            yield ScannedChunk(bytes_done=chunk.bytes_done)

    def _is_named(self, claim: Claim) -> bool:
        return not claim.creates and self._index.is_contested(claim.target)

    def _note_line(self, document: InputDocument) -> None:
        for line in self._intake.resources_of(document):
            if isinstance(line, LoadProblem):
                continue
            target = f"{resource_type_of(line.content or b'')}/{line.final_id}"
            if self._index.is_created(target):
                self._index.add_claims([Claim(target, creates=False, name="")])
                content = Content(target, self._intake.content_hash(line), name="")
                self._index.add_contents([content])

    def settle(self, files: FoundFiles) -> Generator[ScannedChunk]:
        """
        Note which resources must get another id.

        If several Bundles create resources with one id, and nothing names it, the first Bundle
        keeps it. Equal contents are one resource.
        """
        for chunk in read_chunks(files):
            for document in filter(is_unpacked, chunk.documents):
                with suppress(Exception):  # it is reported when the document is loaded
                    self._settle(document)
            yield ScannedChunk(bytes_done=chunk.bytes_done)

    def _settle(self, document: InputDocument) -> None:
        contents = list(self._created(document, self._index.is_contested))
        others = {content.target for content in contents if self._index.is_another(content)}
        if not others:
            self._index.add_contents(contents)
            return
        before = set(self._created(document, self._index.is_repeated))
        for _ in range(MAX_ROUNDS):
            self._index.displace(document.digest, others)
            # A link to a resource with another id makes a different content, whatever its name.
            contents = [
                content if content in before else msgspec.structs.replace(content, name="")
                for content in self._created(document, self._index.is_repeated)
            ]
            others = {content.target for content in contents if self._is_another(content)}
            if not others:
                self._index.add_contents(contents)
                return
        rest = {content.target for content in contents}
        self._index.displace(document.digest, rest)

    def _is_another(self, content: Content) -> bool:
        # Contents are not noted for an id that only resources of one name have.
        is_noted = bool(content.name) or self._index.is_contested(content.target)
        return not is_noted or self._index.is_another(content)

    def _created(
        self, document: InputDocument, is_selected: Callable[[str], bool]
    ) -> Iterator[Content]:
        return self._contents(document, lambda claim: claim.creates and is_selected(claim.target))

    def _contents(
        self, document: InputDocument, is_selected: Callable[[Claim], bool]
    ) -> Iterator[Content]:
        """Yield the contents of a Bundle's selected claims, unless they get another id."""
        bundle = LoadedBundle(document, self._options, self._index)
        claims = {
            number: claim
            for number, claim in bundle.claims()
            if number not in bundle.displaced and is_selected(claim)
        }
        if not claims:
            return
        for resource in bundle.resources(self._index):
            if not isinstance(resource, LoadedResource) or resource.entry not in claims:
                continue
            claim = claims[resource.entry]
            try:
                content_hash = self._intake.content_hash(resource)
            except Exception:  # noqa: BLE001, S112 - it is reported when it is loaded
                continue
            yield Content(claim.target, content_hash, claim.name)


class ConditionalSearch:
    """Searches the files and the store for the matches of conditional references."""

    def __init__(self, index: LinkIndex, options: LoadOptions) -> None:
        """Compile the references of the index, and note in it those that are not supported."""
        self._index = index
        self._intake = Intake(options, index)
        self._version = options.fhir_version
        self._filter = lru_cache(maxsize=1000)(self._compile)
        self._unindexed = dict[str, list[str]]()
        """By resource type, the references that cannot be found by terms."""
        self._types = set[str]()
        for reference in index.conditionals():
            self._prepare(reference)
        self._needles = (
            b'"DELETE"',
            *(f'"{type_}"'.encode() for type_ in sorted(self._types)),
        )

    def _prepare(self, reference: str) -> None:
        filter_ = self._filter(reference)
        if filter_ is None:
            self._index.set_unsupported(reference)
            return
        terms = necessary_terms(filter_.prefilter())
        self._types.add(filter_.resource_type)
        if terms is None:
            self._unindexed.setdefault(filter_.resource_type, []).append(reference)
        else:
            self._index.add_terms(filter_.resource_type, terms, reference)

    def _compile(self, reference: str) -> Filter | None:
        resource_type, _, query = reference.partition("?")
        try:
            pairs = [
                pair
                for pair in parse_qsl(query, keep_blank_values=True, errors="strict")
                if pair[0] not in PRESENTATION_PARAMETERS
            ]
            if not pairs:
                return None
            filter_ = compile_query(
                self._version, resource_type, pairs, base_urls=self._intake.options.base_urls
            )
        except (InvalidParameter, UnsupportedParameter, ValueError):
            return None
        # A chain is a search of its own, which would have to cover the other files, too.
        return None if filter_.lookups else filter_

    def search_files(self, files: FoundFiles) -> Generator[ScannedChunk]:
        """Add the matches among the resources of the files to the index."""
        for chunk in read_chunks(files):
            for resource_type, resource_id, content in self._resources(chunk):
                target = f"{resource_type}/{resource_id}"
                self._index.add_change(target)
                matches = self._matches(resource_type, resource_id, content) if content else ()
                for reference in matches:
                    self._index.add_match(reference, target)
            yield ScannedChunk(bytes_done=chunk.bytes_done)

    def _resources(self, chunk: InputChunk) -> Iterator[tuple[str, str, bytes | None]]:
        """Yield type, id and content of changes to resources of the searched types."""
        for document in chunk.documents:
            if not any(needle in document.content for needle in self._needles):
                continue
            for resource in self._resources_of(document):
                if isinstance(resource, LoadProblem):
                    continue
                if resource.content is None:
                    if resource.resource_type in self._types and resource.id:
                        yield resource.resource_type, resource.id, None
                    continue
                resource_type = resource_type_of(resource.content)
                if resource_type in self._types and (resource_id := resource.final_id):
                    yield resource_type, resource_id, self._linked(resource)

    def _resources_of(self, document: InputDocument) -> list[LoadedResource | LoadProblem]:
        try:
            return list(self._intake.resources_of(document))
        except Exception:  # noqa: BLE001 - it is reported when the document is loaded
            return []

    def _linked(self, resource: LoadedResource) -> bytes:
        try:
            return self._intake.with_links(resource)[0]
        except Exception:  # noqa: BLE001 - it is reported when the document is loaded
            return b"{}"

    def _matches(self, resource_type: str, resource_id: str, content: bytes) -> Iterator[str]:
        try:
            terms = terms_of(content, self._version, resource_type).terms
            candidates = self._index.candidates(resource_type, {*terms, id_term(resource_id)})
            for reference in (*candidates, *self._unindexed.get(resource_type, ())):
                filter_ = self._filter(reference)
                if filter_ is not None and filter_.matches(content):
                    yield reference
        except Exception:  # noqa: BLE001 - it is reported when the document is loaded
            return

    async def search_store(
        self, store: SupportsSearch, tenant: str, retry: RetryUntilStop
    ) -> None:
        """Add the matches among the stored resources that the load does not change."""
        for reference in self._index.conditionals():
            filter_ = self._filter(reference)
            count, after = _TWO, None
            while filter_ is not None:
                key = TypeKey(tenant, self._version, filter_.resource_type)
                query = SearchQuery(filter=filter_)
                search = partial(store.search, key, query, count=count, after=after)
                if (page := await retry(search)) is None:
                    return
                for version in page.resources:
                    target = f"{filter_.resource_type}/{version.id}"
                    if not self._index.is_changed(target):
                        self._index.add_match(reference, target)
                if page.next is None or self._index.conditional_target(reference)[0] in _DECIDED:
                    break
                count, after = min(4 * count, MAX_PAGE), page.next
