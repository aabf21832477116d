"""What to index of a resource, so that prefilters find it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from helios_core.fhir.search import dates, references, tokens
from helios_core.fhir.search.filters import Resource, make_decode
from helios_core.fhir.search.finders import Finder
from helios_core.fhir.search.parameters import Parameter, compiled_parameters
from helios_core.fhir.search.prefilters import Terms, number
from helios_core.fhir.search.steps import Walk, spread
from helios_core.fhir.versions import FHIRVersion

_ELSEWHERE = frozenset({"_id", "_lastUpdated", "_profile"})
"""Not here: the store has id and instant anyway, and all of a store's profiles are alike."""

Extractor = tuple[Walk, Callable[[Any, set[int], list[tuple[int, int, int]]], None]]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What is indexed of one type."""

    extractors: Mapping[str, tuple[Extractor, ...]]
    """For each root element, where to look below it and what to make of what is found."""
    decode: Callable[[bytes], Resource]


def terms_of(resource: Resource | bytes, version: FHIRVersion, resource_type: str) -> Terms:
    """Give what to index of a resource, decoded or as JSON."""
    index = index_of(version, resource_type)
    decoded = index.decode(resource) if isinstance(resource, bytes) else resource
    terms: set[int] = set()
    spans: list[tuple[int, int, int]] = []
    for element, extractors in index.extractors.items():
        value = decoded.get(element)
        if value is not None:
            for walk, add in extractors:
                leaves: list[Any] = []
                spread(value, leaves, walk)
                for leaf in leaves:
                    add(leaf, terms, spans)
    return Terms(terms=frozenset(terms), spans=tuple(dict.fromkeys(spans)))


@cache
def index_of(version: FHIRVersion, resource_type: str) -> Index:
    """Give what is indexed of a type; the first call compiles it."""
    extractors: dict[str, dict[tuple[str, str, str], Extractor]] = {}
    for kind, finder in _finders(compiled_parameters(version, resource_type).values()):
        for branch in finder.branches:
            # Equal places are indexed once, however many parameters look there.
            of_element = extractors.setdefault(branch.element, {})
            of_element[kind, finder.group, branch.below] = branch.walk, _ADD[kind](finder.group)
    return Index(
        extractors={element: tuple(each.values()) for element, each in extractors.items()},
        decode=make_decode(frozenset(extractors)),
    )


def _finders(parameters: Iterable[Parameter | str]) -> Iterator[tuple[str, Finder]]:
    for each in parameters:
        if not isinstance(each, Parameter) or each.code in _ELSEWHERE:
            continue
        parts = [part for composed in each.composed for part in composed.parts]
        sources = [(each.type, each.finders), *((part.type, part.places) for part in parts)]
        for parameter_type, finders in sources:
            if parameter_type in _ADD:
                yield from ((parameter_type, finder) for finder in finders)


Add = Callable[[Any, set[int], list[tuple[int, int, int]]], None]


def _adds_tokens(group: str) -> Add:
    def add(leaf: Any, terms: set[int], _: list[tuple[int, int, int]]) -> None:  # noqa: ANN401
        for _system, code in tokens.codings(leaf):
            if code:
                terms.add(number(f"{group}|{tokens.KIND}|{code.casefold()}"))

    return add


def _adds_references(group: str) -> Add:
    def add(leaf: Any, terms: set[int], _: list[tuple[int, int, int]]) -> None:  # noqa: ANN401
        text = references.reference_of(leaf)
        if text:
            terms.add(number(f"{group}|{references.KIND}|{references.key(text)}"))

    return add


def _adds_spans(group: str) -> Add:
    indexed = dates.group(group)

    def add(leaf: Any, _: set[int], spans: list[tuple[int, int, int]]) -> None:  # noqa: ANN401
        interval = dates.interval(leaf)
        if interval is not None:
            spans.append((indexed, *interval))

    return add


_ADD: Mapping[str, Callable[[str], Add]] = {
    "token": _adds_tokens,
    "reference": _adds_references,
    "date": _adds_spans,
}
