"""Extract from a resource the terms and spans to index, which prefilters look up."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.fhirpath import CompiledPath
from helios_core.fhir.fhirpath.collectors import Collector, collect_items
from helios_core.fhir.search import dates, prefilters, references, tokens
from helios_core.fhir.search.filters import DecodedResource, make_decoder
from helios_core.fhir.search.parameters import NOT_INDEXED, CompiledParameter, compiled_parameters
from helios_core.fhir.search.prefilters import IndexTerms, hash_text
from helios_core.fhir.search.value_orders import Extremes, values_of


class TypeIndex(msgspec.Struct, frozen=True, kw_only=True):
    """How the resources of one type are indexed."""

    collectors: Mapping[str, tuple[Collector, ...]]
    """By root element, functions that add the terms or spans of a value to a `_Collected`."""
    decode: Callable[[bytes], DecodedResource]


class _Collected(msgspec.Struct):
    terms: set[int]
    spans: list[tuple[int, int, int]]


def terms_of(
    resource: DecodedResource | bytes, version: FHIRVersion, resource_type: str
) -> IndexTerms:
    """Return the terms and spans to index for a resource, which is decoded or JSON."""
    index = type_index(version, resource_type)
    decoded = index.decode(resource) if isinstance(resource, bytes) else resource
    collected = _Collected(set(), [])
    for element, value in decoded.items():
        for collect in index.collectors.get(element, ()):
            collect_items(value, collected, collect)
    return IndexTerms(
        terms=frozenset(collected.terms), spans=tuple(dict.fromkeys(collected.spans))
    )


def terms_and_values(
    line: bytes, version: FHIRVersion, resource_type: str
) -> tuple[IndexTerms, tuple[Extremes | None, ...]]:
    """Return the terms, and the values to order by, of a resource; `line` is its JSON."""
    decoded = type_index(version, resource_type).decode(line)
    terms = terms_of(decoded, version, resource_type)
    return terms, values_of(decoded, version, resource_type)


@cache
def type_index(version: FHIRVersion, resource_type: str) -> TypeIndex:
    """Return how a resource type is indexed; the first call compiles it."""
    collectors: dict[str, dict[tuple[str, str, str], Collector]] = {}
    for type_, path in _indexed_paths(compiled_parameters(version, resource_type).values()):
        for indexed in path.indexed:
            # A path that several parameters have in common is indexed once.
            key = (type_, path.group, indexed.below)
            collect = indexed.steps(_COLLECTORS[type_](path.group))
            collectors.setdefault(indexed.element, {})[key] = collect
    return TypeIndex(
        collectors={element: tuple(by_key.values()) for element, by_key in collectors.items()},
        decode=make_decoder(frozenset(collectors)),
    )


def _indexed_paths(
    parameters: Iterable[CompiledParameter | str],
) -> Iterator[tuple[str, CompiledPath]]:
    """Yield the paths to index, each with the type of its parameter or component."""
    for parameter in parameters:
        if not isinstance(parameter, CompiledParameter) or parameter.code in NOT_INDEXED:
            continue
        parts = [part for composite in parameter.composite_paths for part in composite.parts]
        sources = [
            (parameter.type, parameter.paths),
            *((part.type, part.indexed_paths) for part in parts),
        ]
        for type_, paths in sources:
            if type_ in _COLLECTORS:
                yield from ((type_, path) for path in paths)


def _token_collector(group: str) -> Collector:
    prefix = prefilters.term_prefix(group, tokens.TERM_KIND)

    def collect(leaf: Any, out: _Collected) -> None:  # noqa: ANN401 - decoded JSON
        for _, code in tokens.codings(leaf):
            if code:
                out.terms.add(hash_text(prefix + code.casefold()))

    return collect


def _reference_collector(group: str) -> Collector:
    prefix = prefilters.term_prefix(group, references.TERM_KIND)

    def collect(leaf: Any, out: _Collected) -> None:  # noqa: ANN401 - decoded JSON
        text = references.reference_text(leaf)
        if text:
            out.terms.add(hash_text(prefix + references.reference_key(text)))

    return collect


def _span_collector(group: str) -> Collector:
    group_hash = dates.span_group(group)

    def collect(leaf: Any, out: _Collected) -> None:  # noqa: ANN401 - decoded JSON
        interval = dates.interval(leaf)
        if interval is not None:
            out.spans.append((group_hash, *interval))

    return collect


_COLLECTORS: Mapping[str, Callable[[str], Collector]] = {
    "token": _token_collector,
    "reference": _reference_collector,
    "date": _span_collector,
}
