"""URIs: equal to the letter, or above or below in the path (FHIR R4, 3.1.1.4.9)."""

from collections.abc import Callable
from typing import Any

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value
from helios_core.fhir.search.values import unescape

MODIFIERS = ("above", "below")


def condition(question: Criterion) -> Condition:
    """Give the condition that a URI is as asked."""
    return any_value(question.parameter, leaf_test(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches."""
    wanted = [unescape(value) for value in question.values]
    if question.modifier and not all("://" in each for each in wanted):
        raise question.invalid("expected an absolute URL; there is no above and below of a URN")
    match question.modifier:
        case "below":
            return _texts(lambda leaf: any(_under(each, leaf) for each in wanted))
        case "above":
            return _texts(lambda leaf: any(_under(leaf, each) for each in wanted))
    exactly = frozenset(wanted)
    # Without a version any version of a canonical URL will do.
    return _texts(lambda leaf: leaf in exactly or leaf.partition("|")[0] in exactly)


def _under(upper: str, lower: str) -> bool:
    above = upper.rstrip("/")
    return lower.rstrip("/") == above or lower.startswith((f"{above}/", f"{above}|"))


def _texts(test: Callable[[str], bool]) -> Callable[[Any], bool]:
    return lambda leaf: type(leaf) is str and test(leaf)
