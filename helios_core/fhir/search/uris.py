"""
URI parameters: equal URIs, or URLs above or below in the path (FHIR R4, 3.1.1.4.9).

Implements `ParameterType`.
"""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.parameters import CompiledParameter
from helios_core.fhir.search.values import unescape


def modifiers(_parameter: CompiledParameter) -> tuple[str, ...]:
    """Return the supported modifiers, except `missing`."""
    return ("above", "below")


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether it equals, or is above or below, one of the URIs."""
    uris = [unescape(value) for value in criterion.values]
    if criterion.modifier and not all("://" in uri for uri in uris):
        raise criterion.invalid("expected an absolute URL; a URN has nothing above or below it")
    match criterion.modifier:
        case "below":
            return _text_test(lambda leaf: any(_is_below(leaf, uri) for uri in uris))
        case "above":
            return _text_test(lambda leaf: any(_is_below(uri, leaf) for uri in uris))
    exact = frozenset(uris)
    # A URL without a version matches all versions of a canonical URL.
    return _text_test(lambda leaf: leaf in exact or leaf.partition("|")[0] in exact)


def sort_values(leaf: Any) -> tuple[str, ...]:  # noqa: ANN401 - decoded JSON
    """Return the URI."""
    return (leaf,) if type(leaf) is str else ()


def _is_below(lower: str, upper: str) -> bool:
    above = upper.rstrip("/")
    return lower.rstrip("/") == above or lower.startswith((f"{above}/", f"{above}|"))


def _text_test(test: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda leaf: type(leaf) is str and test(leaf)
