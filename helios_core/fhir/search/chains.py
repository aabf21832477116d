"""Chains and `_has`: conditions on resources that a resource refers to, or that refer to it."""

from collections.abc import Iterable, Sequence
from typing import Any

from helios_core.fhir.references import split_reference
from helios_core.fhir.search.filters import (
    Condition,
    DecodedResource,
    Filter,
    Lookup,
    LookupResults,
    any_leaf,
    make_decoder,
)
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyId, hash_text
from helios_core.fhir.search.references import prefilter_for_keys, reference_text
from helios_core.hashes import to_unsigned

_MAX_PREFILTER_IDS = 1000
"""The most ids in a prefilter; with more ids it is faster to test every resource."""
_ID = frozenset({"id"})


def chain_condition(
    parameter: CompiledParameter, target: Filter, *, query: str, base_urls: Sequence[str]
) -> Condition:
    """
    Return the condition that a reference points to a resource that matches a filter.

    `query` is the text from which `target` was compiled.
    """

    def own_id(resource: DecodedResource) -> frozenset[str]:
        return frozenset({resource["id"]} if "id" in resource else ())

    lookup = Lookup(
        key=_lookup_key("chain", target, query),
        resource_type=target.resource_type,
        filter=target,
        ids=own_id,
        decode=make_decoder(target.elements | {"id"}),
    )

    def resolve(results: LookupResults) -> Condition:
        ids = results[lookup.key]

        def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
            reference = split_reference(reference_text(leaf) or "", base_urls)
            return (
                reference is not None
                and reference[0] == target.resource_type
                and reference[1] in ids
            )

        prefilter = prefilter_for_keys(parameter, ids) if len(ids) <= _MAX_PREFILTER_IDS else None
        return any_leaf(parameter, test, prefilter)

    return Condition(
        test=_unresolved, elements=parameter.elements, lookups=(lookup,), resolve=resolve
    )


def has_condition(
    source: Filter,
    reference: CompiledParameter,
    resource_type: str,
    *,
    query: str,
    base_urls: Sequence[str],
) -> Condition:
    """
    Return the condition that a resource that matches a filter points to this one.

    `query` is the text from which `source` was compiled.
    """

    def referenced_ids(resource: DecodedResource) -> frozenset[str]:
        leaves: list[Any] = []
        for path in reference.paths:
            path.collect(resource, leaves)
        return frozenset(_ids_in(leaves, resource_type, base_urls))

    lookup = Lookup(
        key=_lookup_key("has", source, f"{reference.code}:{resource_type}:{query}"),
        resource_type=source.resource_type,
        filter=source,
        reference=reference.code,
        ids=referenced_ids,
        decode=make_decoder(source.elements | reference.elements),
    )

    def resolve(results: LookupResults) -> Condition:
        ids = results[lookup.key]
        prefilter = AnyId(ids) if len(ids) <= _MAX_PREFILTER_IDS else None
        return Condition(
            test=lambda resource: resource.get("id") in ids, elements=_ID, prefilter=prefilter
        )

    return Condition(test=_unresolved, elements=_ID, lookups=(lookup,), resolve=resolve)


def _ids_in(leaves: Iterable[Any], resource_type: str, base_urls: Sequence[str]) -> Iterable[str]:
    for leaf in leaves:
        target = split_reference(reference_text(leaf) or "", base_urls)
        if target is not None and target[0] == resource_type:
            yield target[1]


def _lookup_key(direction: str, filter_: Filter, query: str) -> str:
    # The query is hashed, because keys may be logged and search values must not be.
    text = f"{direction}|{filter_.resource_type}|{query}"
    return f"{direction}-{filter_.resource_type}-{to_unsigned(hash_text(text)):016x}"


def _unresolved(_: DecodedResource) -> bool:
    raise RuntimeError("this filter has lookups; use the filter that resolved() returns")
