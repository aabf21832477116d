"""The types of search parameters and what answers them."""

from collections.abc import Callable
from typing import Any

import msgspec

from helios_core.fhir.search import dates, numbers, references, strings, tokens, uris
from helios_core.fhir.search.criteria import Question
from helios_core.fhir.search.filters import Condition
from helios_core.fhir.search.parameters import Parameter
from helios_core.fhir.search.prefilters import Prefilter


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How parameters of one type are searched."""

    condition: Callable[[Question], Condition]
    leaf_test: Callable[[Question], Callable[[Any], bool]]
    prefilter: Callable[[Question], Prefilter | None] = lambda _: None
    modifiers: Callable[[Parameter], tuple[str, ...]] = lambda _: ()
    """Beside `missing`, and the types of a reference."""


def kind_of(parameter_type: str) -> Kind:
    """Give what searches parameters of a type; composites are made of these."""
    return _KINDS[parameter_type]


_NUMBERS = Kind(condition=numbers.condition, leaf_test=numbers.leaf_test)
_KINDS = {
    "date": Kind(condition=dates.condition, leaf_test=dates.leaf_test, prefilter=dates.prefilter),
    "number": _NUMBERS,
    "quantity": _NUMBERS,
    "reference": Kind(
        condition=references.condition,
        leaf_test=references.leaf_test,
        prefilter=references.prefilter,
        modifiers=references.modifiers,
    ),
    "string": Kind(
        condition=strings.condition,
        leaf_test=strings.leaf_test,
        modifiers=lambda _: strings.MODIFIERS,
    ),
    "token": Kind(
        condition=tokens.condition,
        leaf_test=tokens.leaf_test,
        prefilter=tokens.prefilter,
        modifiers=tokens.modifiers,
    ),
    "uri": Kind(
        condition=uris.condition, leaf_test=uris.leaf_test, modifiers=lambda _: uris.MODIFIERS
    ),
}
