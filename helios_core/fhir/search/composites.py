"""Composite parameters: several values of one item, joined by a dollar sign."""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.fhirpath import CompiledPath
from helios_core.fhir.search import prefilters
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, DecodedResource, Test
from helios_core.fhir.search.parameter_types import parameter_type
from helios_core.fhir.search.parameters import CompiledParameter, CompositePart, CompositePath
from helios_core.fhir.search.prefilters import Prefilter
from helios_core.fhir.search.values import split_unescaped


def condition(criterion: Criterion) -> Condition:
    """Return the condition that one item matches all values of a combination."""
    combinations = [_split_combination(criterion, value) for value in criterion.values]
    alternatives = [
        (path, combination)
        for path in criterion.parameter.composite_paths
        for combination in combinations
    ]
    tests = tuple(_test(criterion, *alternative) for alternative in alternatives)
    return Condition(
        test=lambda resource: any(test(resource) for test in tests),
        elements=criterion.parameter.elements,
        prefilter=prefilters.any_prefilter(
            _prefilter(criterion, *alternative) for alternative in alternatives
        ),
    )


def _split_combination(criterion: Criterion, value: str) -> list[str]:
    parts = criterion.parameter.composite_paths[0].parts
    values = split_unescaped(value, "$")
    if len(values) != len(parts) or not all(values):
        types = "$".join(part.type for part in parts)
        raise criterion.invalid(f"expected {len(parts)} values joined by $: {types}")
    return values


def _test(criterion: Criterion, path: CompositePath, values: list[str]) -> Test:
    tests = [
        _part_test(part, _part_criterion(criterion, part, value, part.paths))
        for part, value in zip(path.parts, values, strict=True)
    ]
    collect = path.base.collect

    def test(resource: DecodedResource) -> bool:
        items: list[Any] = []
        collect(resource, items)
        return any(all(test(item, resource) for test in tests) for item in items)

    return test


def _part_test(
    part: CompositePart, criterion: Criterion
) -> Callable[[Any, DecodedResource], bool]:
    leaf_test = parameter_type(part.type).leaf_test(criterion)
    collectors = tuple(path.collect for path in part.paths)

    def test(item: Any, resource: DecodedResource) -> bool:  # noqa: ANN401 - decoded JSON
        leaves: list[Any] = []
        for collect in collectors:
            collect(resource if part.rooted else item, leaves)
        return any(map(leaf_test, leaves))

    return test


def _prefilter(criterion: Criterion, path: CompositePath, values: list[str]) -> Prefilter | None:
    return prefilters.all_prefilters(
        parameter_type(part.type).prefilter(
            _part_criterion(criterion, part, value, part.indexed_paths)
        )
        for part, value in zip(path.parts, values, strict=True)
    )


def _part_criterion(
    criterion: Criterion, part: CompositePart, value: str, paths: tuple[CompiledPath, ...]
) -> Criterion:
    parameter = CompiledParameter(code=criterion.parameter.code, type=part.type, paths=paths)
    return Criterion(
        version=criterion.version,
        resource_type=criterion.resource_type,
        parameter=parameter,
        values=(value,),
        base_urls=criterion.base_urls,
        now=criterion.now,
    )
