"""
Number and quantity parameters, compared exactly (FHIR R4, 3.1.1.4.6 and 3.1.1.4.11).

Implements `ParameterType`.
"""

import re
from collections.abc import Callable, Iterator
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

import msgspec

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.values import split_prefix, split_unescaped, unescape

Bound = tuple[Decimal, int]
"""A number and -1 for just below it, 0 for the number itself, or 1 for just above it."""
Interval = tuple[Bound, Bound]
"""The lowest and the highest number, both inclusive."""

# More digits than any measurement has, and few enough for exact arithmetic to be fast.
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?(?:([eE])[+-]?\d{1,3})?", re.ASCII)
_EXACT = Context(prec=2500)
_SORTED = Context(prec=40, Emax=MAX_EMAX, Emin=MIN_EMIN)
_HALF, _TENTH, _TWENTIETH = Decimal("0.5"), Decimal("0.1"), Decimal("0.05")
_LOWEST: Bound = (Decimal("-Infinity"), 0)
_HIGHEST: Bound = (Decimal("Infinity"), 0)
_QUANTITY_PARTS = 3
_CURRENCIES = "urn:iso:std:iso:4217"


class _Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed search value."""

    check: Callable[[Bound, Bound], bool]
    """Tests the interval of a leaf."""
    system: str = ""
    unit: str = ""


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether it matches one of the criterion's values."""
    comparisons = [_parse_value(criterion, value) for value in criterion.values]

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        return any(
            comparison.check(*interval)
            for comparison in comparisons
            if _units_match(leaf, comparison) and (interval := _interval(leaf)) is not None
        )

    return test


def sort_values(leaf: Any) -> tuple[Bound, ...]:  # noqa: ANN401 - decoded JSON
    """Return the lowest number that a leaf can be, rounded to 40 digits; units are ignored."""
    own = _interval(leaf)
    return () if own is None else ((_SORTED.plus(own[0][0]), own[0][1]),)


def _parse_value(criterion: Criterion, value: str) -> _Comparison:
    prefix, rest = split_prefix(value)
    parts = [unescape(part) for part in split_unescaped(rest, "|")]
    if criterion.parameter.type == "number" and len(parts) > 1:
        raise criterion.invalid("expected a number without a unit")
    if len(parts) not in (1, _QUANTITY_PARTS):
        raise criterion.invalid("expected number, number|system|code or number||code")
    match = _NUMBER.fullmatch(parts[0])
    if match is None:
        raise criterion.invalid("expected a number such as 5.4 or gt5.40e-3")
    check = _make_check(prefix, Decimal(parts[0]), exponential=bool(match[1]))
    _, system, unit = (*parts, "", "")[:_QUANTITY_PARTS]
    return _Comparison(check=check, system=system, unit=unit)


def _make_check(  # noqa: PLR0911 - one test for each prefix
    prefix: str, number: Decimal, *, exponential: bool
) -> Callable[[Bound, Bound], bool]:
    """Return a test of a leaf's interval; the precision of `number` matters to eq, ne and ap."""
    exact = (number, 0)
    match prefix:
        case "gt":
            return lambda _, last: last > exact
        case "lt":
            return lambda first, _: first < exact
        case "ge":
            return lambda _, last: last >= exact
        case "le":
            return lambda first, _: first <= exact
        case "sa":
            return lambda first, _: first > exact
        case "eb":
            return lambda _, last: last < exact
    tolerance = _half_unit(number, exponential=exponential)
    if prefix == "ap":
        tolerance = max(tolerance, _EXACT.multiply(number.copy_abs(), _TENTH))
    low, high = _EXACT.subtract(number, tolerance), _EXACT.add(number, tolerance)
    if prefix == "ap":
        return lambda first, last: first <= (high, 0) and last >= (low, 0)
    equal = prefix == "eq"
    return lambda first, last: (first >= (low, 0) and last < (high, 0)) is equal


def _half_unit(number: Decimal, *, exponential: bool) -> Decimal:
    """Return half a unit of the last digit: 0.05 for 5.4."""
    _, digits, exponent = number.as_tuple()
    unit = Decimal(1).scaleb(int(exponent))
    # The specification's own example: 1e2 is 95 to 105.
    fraction = _TWENTIETH if exponential and len(digits) == 1 else _HALF
    return _EXACT.multiply(unit, fraction)


def _interval(leaf: Any) -> Interval | None:  # noqa: ANN401, PLR0911 - JSON of many data types
    if type(leaf) is not dict:
        number = _number(leaf)
        return ((number, 0), (number, 0)) if number is not None else None
    if "low" in leaf or "high" in leaf:
        low, high = _bound(leaf.get("low")), _bound(leaf.get("high"))
        return (low or _LOWEST, high or _HIGHEST) if low or high else None
    number = _number(leaf.get("value"))
    if number is None:
        return None
    match leaf.get("comparator"):
        case "<":
            return _LOWEST, (number, -1)
        case "<=":
            return _LOWEST, (number, 0)
        case ">":
            return (number, 1), _HIGHEST
        case ">=" | "ad":
            return (number, 0), _HIGHEST
    return (number, 0), (number, 0)


def _bound(quantity: Any) -> Bound | None:  # noqa: ANN401 - decoded JSON
    number = _number(quantity.get("value")) if type(quantity) is dict else None
    return (number, 0) if number is not None else None


def _number(value: Any) -> Decimal | None:  # noqa: ANN401 - decoded JSON
    if type(value) is Decimal:
        return value
    return Decimal(value) if type(value) is int else None


def _units_match(leaf: Any, comparison: _Comparison) -> bool:  # noqa: ANN401 - decoded JSON
    if not comparison.unit and not comparison.system:
        return True
    if type(leaf) is not dict:
        return False
    return all(_unit_matches(quantity, comparison) for quantity in _quantities(leaf))


def _quantities(leaf: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a quantity, or the ends of a range."""
    if "low" not in leaf and "high" not in leaf:
        yield leaf
        return
    for end in (leaf.get("low"), leaf.get("high")):
        if type(end) is dict:
            yield end


def _unit_matches(quantity: dict[str, Any], comparison: _Comparison) -> bool:
    """Return whether the code matches in its system or, without a system, the code or unit."""
    currency = quantity.get("currency")
    system = _CURRENCIES if currency else quantity.get("system")
    code = currency or quantity.get("code")
    if comparison.system:
        return system == comparison.system and comparison.unit in ("", code)
    return comparison.unit in (code, quantity.get("unit"))
