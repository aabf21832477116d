"""
The types of search parameters: date, number, quantity, reference, string, token and uri.

`ParameterType` is the interface of a type. One module implements it for each type, with functions
that have the names of its fields; number and quantity share a module. A composite parameter is
made of parameters of these types (`composites`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from helios_core.fhir.search import dates, numbers, references, strings, tokens, uris
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_leaf, negate
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import Prefilter


class ParameterType(msgspec.Struct, frozen=True, kw_only=True):
    """
    How the parameters of one type are searched.

    A leaf is a decoded JSON value at the end of a parameter's paths: a string, a number, or an
    object such as a CodeableConcept.
    """

    leaf_test: Callable[[Criterion], Callable[[Any], bool]]
    """Returns a test of a leaf: whether it matches; raises InvalidParameter for invalid values."""
    prefilter: Callable[[Criterion], Prefilter | None] = lambda _: None
    """Returns a prefilter that every match satisfies, or None if an index cannot help."""
    modifiers: Callable[[CompiledParameter], tuple[str, ...]] = lambda _: ()
    """Returns the supported modifiers, except `missing` and the resource types of a reference."""
    sort_values: Callable[[Any], Iterable[Any]]
    """Returns the values by which a leaf is sorted; several if it has several parts."""
    sort_type: Any = str
    """The type of these values, for msgspec."""


def parameter_type(name: str) -> ParameterType:
    """Return the implementation of a type; composite has none."""
    return _PARAMETER_TYPES[name]


def condition(criterion: Criterion) -> Condition:
    """Return the condition that at least one leaf matches, or with the modifier `not` none."""
    implementation = parameter_type(criterion.parameter.type)
    test = implementation.leaf_test(criterion)
    if criterion.modifier == "not":
        return negate(any_leaf(criterion.parameter, test))
    return any_leaf(criterion.parameter, test, implementation.prefilter(criterion))


_NUMBERS = ParameterType(
    leaf_test=numbers.leaf_test, sort_values=numbers.sort_values, sort_type=numbers.Bound
)
_PARAMETER_TYPES = {
    "date": ParameterType(
        leaf_test=dates.leaf_test,
        prefilter=dates.prefilter,
        sort_values=dates.sort_values,
        sort_type=dates.SortType,
    ),
    "number": _NUMBERS,
    "quantity": _NUMBERS,
    "reference": ParameterType(
        leaf_test=references.leaf_test,
        prefilter=references.prefilter,
        modifiers=references.modifiers,
        sort_values=references.sort_values,
    ),
    "string": ParameterType(
        leaf_test=strings.leaf_test, modifiers=strings.modifiers, sort_values=strings.sort_values
    ),
    "token": ParameterType(
        leaf_test=tokens.leaf_test,
        prefilter=tokens.prefilter,
        modifiers=tokens.modifiers,
        sort_values=tokens.sort_values,
    ),
    "uri": ParameterType(
        leaf_test=uris.leaf_test, modifiers=uris.modifiers, sort_values=uris.sort_values
    ),
}
