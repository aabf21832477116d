"""Composites: several values that belong together, joined by a dollar sign."""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.search import prefilters
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, Resource
from helios_core.fhir.search.parameter_types import parameter_type
from helios_core.fhir.search.parameters import CompiledParameter, CompositePart, CompositePath
from helios_core.fhir.search.prefilters import Prefilter
from helios_core.fhir.search.values import split_unescaped

Test = Callable[[Resource], bool]


def condition(question: Criterion) -> Condition:
    """Give the condition that one item has all the values of a combination."""
    combinations = [_combination(question, value) for value in question.values]
    asked = [
        (composed, values) for composed in question.parameter.composed for values in combinations
    ]
    tests = tuple(_test(question, *each) for each in asked)
    return Condition(
        test=lambda resource: any(test(resource) for test in tests),
        elements=question.parameter.elements,
        prefilter=prefilters.any_prefilter(_prefilter(question, *each) for each in asked),
    )


def _combination(question: Criterion, value: str) -> list[str]:
    parts = question.parameter.composed[0].parts
    values = split_unescaped(value, "$")
    if len(values) != len(parts) or not all(values):
        types = "$".join(part.type for part in parts)
        raise question.invalid(f"expected {len(parts)} values joined by $: {types}")
    return values


def _test(question: Criterion, composed: CompositePath, values: list[str]) -> Test:
    tests = [
        _part_test(part, _part_question(question, part, value, rooted=False))
        for part, value in zip(composed.parts, values, strict=True)
    ]
    walk = composed.base.walk

    def test(resource: Resource) -> bool:
        items: list[Any] = []
        walk(resource, items)
        return any(all(test(item, resource) for test in tests) for item in items)

    return test


def _part_test(part: CompositePart, question: Criterion) -> Callable[[Any, Resource], bool]:
    passes = parameter_type(part.type).leaf_test(question)
    walks = tuple(each.walk for each in part.finders)

    def test(item: Any, resource: Resource) -> bool:  # noqa: ANN401 - decoded JSON
        found: list[Any] = []
        for walk in walks:
            walk(resource if part.rooted else item, found)
        return any(map(passes, found))

    return test


def _prefilter(
    question: Criterion, composed: CompositePath, values: list[str]
) -> Prefilter | None:
    return prefilters.all_prefilters(
        parameter_type(part.type).prefilter(_part_question(question, part, value, rooted=True))
        for part, value in zip(composed.parts, values, strict=True)
    )


def _part_question(
    question: Criterion, part: CompositePart, value: str, *, rooted: bool
) -> Criterion:
    parameter = CompiledParameter(
        code=question.parameter.code,
        type=part.type,
        finders=part.places if rooted else part.finders,
    )
    return Criterion(
        version=question.version,
        resource_type=question.resource_type,
        parameter=parameter,
        values=(value,),
        base_urls=question.base_urls,
        now=question.now,
    )
