"""Composites: several values that belong together, joined by a dollar sign."""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.search import prefilters
from helios_core.fhir.search.criteria import Question
from helios_core.fhir.search.filters import Condition, Resource
from helios_core.fhir.search.parameter_types import kind_of
from helios_core.fhir.search.parameters import Composed, Parameter, Part
from helios_core.fhir.search.prefilters import Prefilter
from helios_core.fhir.search.values import split

Test = Callable[[Resource], bool]


def condition(question: Question) -> Condition:
    """Give the condition that one item has all the values of a combination."""
    combinations = [_combination(question, value) for value in question.values]
    asked = [
        (composed, values) for composed in question.parameter.composed for values in combinations
    ]
    tests = tuple(_test(question, *each) for each in asked)
    return Condition(
        test=lambda resource: any(test(resource) for test in tests),
        elements=question.parameter.elements,
        prefilter=prefilters.any_of(_prefilter(question, *each) for each in asked),
    )


def _combination(question: Question, value: str) -> list[str]:
    parts = question.parameter.composed[0].parts
    values = split(value, "$")
    if len(values) != len(parts) or not all(values):
        types = "$".join(part.type for part in parts)
        raise question.invalid(f"expected {len(parts)} values joined by $: {types}")
    return values


def _test(question: Question, composed: Composed, values: list[str]) -> Test:
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


def _part_test(part: Part, question: Question) -> Callable[[Any, Resource], bool]:
    passes = kind_of(part.type).leaf_test(question)
    walks = tuple(each.walk for each in part.finders)

    def test(item: Any, resource: Resource) -> bool:  # noqa: ANN401 - decoded JSON
        found: list[Any] = []
        for walk in walks:
            walk(resource if part.rooted else item, found)
        return any(map(passes, found))

    return test


def _prefilter(question: Question, composed: Composed, values: list[str]) -> Prefilter | None:
    return prefilters.all_of(
        kind_of(part.type).prefilter(_part_question(question, part, value, rooted=True))
        for part, value in zip(composed.parts, values, strict=True)
    )


def _part_question(question: Question, part: Part, value: str, *, rooted: bool) -> Question:
    parameter = Parameter(
        code=question.parameter.code,
        type=part.type,
        finders=part.places if rooted else part.finders,
    )
    return Question(
        version=question.version,
        resource_type=question.resource_type,
        parameter=parameter,
        values=(value,),
        base_urls=question.base_urls,
        now=question.now,
    )
