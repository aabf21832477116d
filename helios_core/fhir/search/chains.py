"""Chains: what is asked of the resources that one points to, or that point to it."""

from collections.abc import Iterable, Sequence
from typing import Any

from helios_core.fhir.references import split_reference
from helios_core.fhir.search.filters import (
    Answers,
    Condition,
    Filter,
    Lookup,
    Resource,
    any_value,
    make_decoder,
)
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import AnyId, number
from helios_core.fhir.search.references import pointing_to, reference_of
from helios_core.hashes import to_unsigned

_FEW = 1000
"""Up to how many ids an index is asked for; beyond that looking at everything is quicker."""


def chain_condition(
    parameter: CompiledParameter, target: Filter, *, asked: str, base_urls: Sequence[str]
) -> Condition:
    """Give the condition that a reference points to a resource that a filter lets pass."""

    def ids(resource: Resource) -> frozenset[str]:
        return frozenset({resource["id"]} if "id" in resource else ())

    lookup = Lookup(
        key=_key("chain", target, asked),
        resource_type=target.resource_type,
        filter=target,
        ids=ids,
        decode=make_decoder(target.elements | {"id"}),
    )

    def resolve(answers: Answers) -> Condition:
        found = answers[lookup.key]

        def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
            pointed = split_reference(reference_of(leaf) or "", base_urls)
            return (
                pointed is not None and pointed[0] == target.resource_type and pointed[1] in found
            )

        few = pointing_to(parameter, found) if len(found) <= _FEW else None
        return any_value(parameter, test, few)

    return Condition(
        test=_unresolved, elements=parameter.elements, lookups=(lookup,), resolve=resolve
    )


def has_condition(
    source: Filter,
    reference: CompiledParameter,
    resource_type: str,
    *,
    asked: str,
    base_urls: Sequence[str],
) -> Condition:
    """Give the condition that a resource that a filter lets pass points to this one."""

    def ids(resource: Resource) -> frozenset[str]:
        leaves: list[Any] = []
        for finder in reference.finders:
            finder.walk(resource, leaves)
        return frozenset(_ids_of(leaves, resource_type, base_urls))

    lookup = Lookup(
        key=_key("has", source, f"{reference.code}:{resource_type}:{asked}"),
        resource_type=source.resource_type,
        filter=source,
        reference=reference.code,
        ids=ids,
        decode=make_decoder(source.elements | reference.elements),
    )

    def resolve(answers: Answers) -> Condition:
        found = answers[lookup.key]
        few = AnyId(found) if len(found) <= _FEW else None
        return Condition(
            test=lambda resource: resource.get("id") in found, elements=_ID, prefilter=few
        )

    return Condition(test=_unresolved, elements=_ID, lookups=(lookup,), resolve=resolve)


_ID = frozenset({"id"})


def _ids_of(leaves: Iterable[Any], resource_type: str, base_urls: Sequence[str]) -> Iterable[str]:
    for leaf in leaves:
        target = split_reference(reference_of(leaf) or "", base_urls)
        if target is not None and target[0] == resource_type:
            yield target[1]


def _key(direction: str, inner: Filter, asked: str) -> str:
    # A hash, because keys may be logged and values may not.
    text = f"{direction}|{inner.resource_type}|{asked}"
    return f"{direction}-{inner.resource_type}-{to_unsigned(number(text)):016x}"


def _unresolved(_: Resource) -> bool:
    raise RuntimeError("this filter has lookups; answer them and use what resolved() gives")
