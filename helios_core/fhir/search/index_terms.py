"""What to index of a resource, so that prefilters find it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import dates, prefilters, references, tokens
from helios_core.fhir.search.filters import Resource, make_decoder
from helios_core.fhir.search.parameters import NOT_INDEXED, CompiledParameter, compiled_parameters
from helios_core.fhir.search.paths import CompiledPath
from helios_core.fhir.search.prefilters import IndexTerms, number
from helios_core.fhir.search.walks import Walk, each_value


class TypeIndex(msgspec.Struct, frozen=True, kw_only=True):
    """What is indexed of one type."""

    walks: Mapping[str, tuple[Walk, ...]]
    """For each root element, what adds to a `_Found` what is below one of its values."""
    decode: Callable[[bytes], Resource]


class _Found(msgspec.Struct):
    terms: set[int]
    spans: list[tuple[int, int, int]]


def terms_of(resource: Resource | bytes, version: FHIRVersion, resource_type: str) -> IndexTerms:
    """Give what to index of a resource, decoded or as JSON."""
    index = type_index(version, resource_type)
    decoded = index.decode(resource) if isinstance(resource, bytes) else resource
    found = _Found(set(), [])
    for element, value in decoded.items():
        for walk in index.walks.get(element, ()):
            each_value(value, found, walk)
    return IndexTerms(terms=frozenset(found.terms), spans=tuple(dict.fromkeys(found.spans)))


@cache
def type_index(version: FHIRVersion, resource_type: str) -> TypeIndex:
    """Give what is indexed of a type; the first call compiles it."""
    walks: dict[str, dict[tuple[str, str, str], Walk]] = {}
    for kind, finder in _finders(compiled_parameters(version, resource_type).values()):
        for branch in finder.branches:
            # Equal places are indexed once, however many parameters look there.
            key = (kind, finder.group, branch.below)
            walks.setdefault(branch.element, {})[key] = branch.lead(_ADD[kind](finder.group))
    return TypeIndex(
        walks={element: tuple(each.values()) for element, each in walks.items()},
        decode=make_decoder(frozenset(walks)),
    )


def _finders(parameters: Iterable[CompiledParameter | str]) -> Iterator[tuple[str, CompiledPath]]:
    for each in parameters:
        if not isinstance(each, CompiledParameter) or each.code in NOT_INDEXED:
            continue
        parts = [part for composed in each.composed for part in composed.parts]
        sources = [(each.type, each.finders), *((part.type, part.places) for part in parts)]
        for parameter_type, finders in sources:
            if parameter_type in _ADD:
                yield from ((parameter_type, finder) for finder in finders)


def _adds_tokens(group: str) -> Walk:
    prefix = prefilters.prefix(group, tokens.KIND)

    def add(leaf: Any, found: _Found) -> None:  # noqa: ANN401 - decoded JSON
        for _, code in tokens.codings(leaf):
            if code:
                found.terms.add(number(prefix + code.casefold()))

    return add


def _adds_references(group: str) -> Walk:
    prefix = prefilters.prefix(group, references.KIND)

    def add(leaf: Any, found: _Found) -> None:  # noqa: ANN401 - decoded JSON
        text = references.reference_of(leaf)
        if text:
            found.terms.add(number(prefix + references.key(text)))

    return add


def _adds_spans(group: str) -> Walk:
    indexed = dates.span_group(group)

    def add(leaf: Any, found: _Found) -> None:  # noqa: ANN401 - decoded JSON
        interval = dates.interval(leaf)
        if interval is not None:
            found.spans.append((indexed, *interval))

    return add


_ADD: Mapping[str, Callable[[str], Walk]] = {
    "token": _adds_tokens,
    "reference": _adds_references,
    "date": _adds_spans,
}
