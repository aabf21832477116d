"""The types of search parameters and what answers them."""

from collections.abc import Callable
from typing import Any

import msgspec

from helios_core.fhir.search import dates, numbers, references, strings, tokens, uris
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.prefilters import Prefilter


class ParameterType(msgspec.Struct, frozen=True, kw_only=True):
    """How parameters of one type are searched."""

    condition: Callable[[Criterion], Condition]
    leaf_test: Callable[[Criterion], Callable[[Any], bool]]
    prefilter: Callable[[Criterion], Prefilter | None] = lambda _: None
    modifiers: Callable[[CompiledParameter], tuple[str, ...]] = lambda _: ()
    """Beside `missing`, and the types of a reference."""


def parameter_type(parameter_type: str) -> ParameterType:
    """Give what searches parameters of a type; composites are made of these."""
    return _KINDS[parameter_type]


_NUMBERS = ParameterType(condition=numbers.condition, leaf_test=numbers.leaf_test)
_KINDS = {
    "date": ParameterType(
        condition=dates.condition, leaf_test=dates.leaf_test, prefilter=dates.prefilter
    ),
    "number": _NUMBERS,
    "quantity": _NUMBERS,
    "reference": ParameterType(
        condition=references.condition,
        leaf_test=references.leaf_test,
        prefilter=references.prefilter,
        modifiers=references.modifiers,
    ),
    "string": ParameterType(
        condition=strings.condition,
        leaf_test=strings.leaf_test,
        modifiers=lambda _: strings.MODIFIERS,
    ),
    "token": ParameterType(
        condition=tokens.condition,
        leaf_test=tokens.leaf_test,
        prefilter=tokens.prefilter,
        modifiers=tokens.modifiers,
    ),
    "uri": ParameterType(
        condition=uris.condition, leaf_test=uris.leaf_test, modifiers=lambda _: uris.MODIFIERS
    ),
}
