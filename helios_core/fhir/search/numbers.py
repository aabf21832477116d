"""Numbers and quantities, exact to the last digit (FHIR R4, 3.1.1.4.6 and 3.1.1.4.11)."""

import re
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Any

import msgspec

from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value
from helios_core.fhir.search.values import split_prefix, split_unescaped, unescape

End = tuple[Decimal, int]
"""A number and a hair: -1 is just below it, 0 is it, 1 is just above it."""
Interval = tuple[End, End]
"""First and last number, both inclusive."""

# More digits than any measurement has: what follows stays exact and quick.
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?(?:([eE])[+-]?\d{1,3})?", re.ASCII)
_EXACT = Context(prec=2500)
_HALF, _TENTH, _TWENTIETH = Decimal("0.5"), Decimal("0.1"), Decimal("0.05")
_LOWEST: End = (Decimal("-Infinity"), 0)
_HIGHEST: End = (Decimal("Infinity"), 0)
_PARTS = 3
_CURRENCIES = "urn:iso:std:iso:4217"


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    check: Callable[[End, End], bool]
    system: str = ""
    unit: str = ""


def condition(question: Criterion) -> Condition:
    """Give the condition that a number or quantity is as asked."""
    return any_value(question.parameter, leaf_test(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches."""
    asked = [_read(question, value) for value in question.values]

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        return any(
            each.check(*interval)
            for each in asked
            if _measured(leaf, each) and (interval := _interval(leaf)) is not None
        )

    return test


def _read(question: Criterion, value: str) -> _Asked:
    prefix, rest = split_prefix(value)
    parts = [unescape(part) for part in split_unescaped(rest, "|")]
    if question.parameter.type == "number" and len(parts) > 1:
        raise question.invalid("expected a number alone, without a unit")
    if len(parts) not in (1, _PARTS):
        raise question.invalid("expected number, number|system|code or number||code")
    match = _NUMBER.fullmatch(parts[0])
    if match is None:
        raise question.invalid("expected a number such as 5.4 or gt5.40e-3")
    check = _check(prefix, Decimal(parts[0]), exponential=bool(match[1]))
    _, system, unit = (*parts, "", "")[:_PARTS]
    return _Asked(check=check, system=system, unit=unit)


def _check(prefix: str, number: Decimal, *, exponential: bool) -> Callable[[End, End], bool]:  # noqa: PLR0911 - one of nine
    """Give what compares a resource's interval; precision counts for eq, ne and ap alone."""
    at = (number, 0)
    match prefix:
        case "gt":
            return lambda _, last: last > at
        case "lt":
            return lambda first, _: first < at
        case "ge":
            return lambda _, last: last >= at
        case "le":
            return lambda first, _: first <= at
        case "sa":
            return lambda first, _: first > at
        case "eb":
            return lambda _, last: last < at
    reach = _reach(number, exponential=exponential)
    if prefix == "ap":
        reach = max(reach, _EXACT.multiply(number.copy_abs(), _TENTH))
        low, high = _around(number, reach)
        return lambda first, last: first <= (high, 0) and last >= (low, 0)
    low, high = _around(number, reach)
    equal = prefix == "eq"
    return lambda first, last: (first >= (low, 0) and last < (high, 0)) is equal


def _around(number: Decimal, reach: Decimal) -> tuple[Decimal, Decimal]:
    return _EXACT.subtract(number, reach), _EXACT.add(number, reach)


def _reach(number: Decimal, *, exponential: bool) -> Decimal:
    """Give half of the last digit's worth."""
    _, digits, exponent = number.as_tuple()
    unit = Decimal(1).scaleb(int(exponent))
    # The specification's own example: 1e2 is 95 to 105.
    fraction = _TWENTIETH if exponential and len(digits) == 1 else _HALF
    return _EXACT.multiply(unit, fraction)


def _interval(leaf: Any) -> Interval | None:  # noqa: ANN401, PLR0911 - one of each shape of JSON
    if type(leaf) is not dict:
        number = _number(leaf)
        return ((number, 0), (number, 0)) if number is not None else None
    if "low" in leaf or "high" in leaf:
        low, high = _end(leaf.get("low")), _end(leaf.get("high"))
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


def _end(quantity: Any) -> End | None:  # noqa: ANN401 - decoded JSON
    number = _number(quantity.get("value")) if type(quantity) is dict else None
    return (number, 0) if number is not None else None


def _number(value: Any) -> Decimal | None:  # noqa: ANN401 - decoded JSON
    if type(value) is Decimal:
        return value
    return Decimal(value) if type(value) is int else None


def _measured(leaf: Any, asked: _Asked) -> bool:  # noqa: ANN401 - decoded JSON
    """Tell whether units agree: the code in its system, or without one the code or the unit."""
    if not asked.unit and not asked.system:
        return True
    if type(leaf) is not dict:
        return False
    return all(_in_unit(quantity, asked) for quantity in _quantities(leaf))


def _quantities(leaf: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "low" not in leaf and "high" not in leaf:
        yield leaf
        return
    for end in (leaf.get("low"), leaf.get("high")):
        if type(end) is dict:
            yield end


def _in_unit(quantity: dict[str, Any], asked: _Asked) -> bool:
    currency = quantity.get("currency")
    system = _CURRENCIES if currency else quantity.get("system")
    code = currency or quantity.get("code")
    if asked.system:
        return system == asked.system and asked.unit in ("", code)
    return asked.unit in (code, quantity.get("unit"))
