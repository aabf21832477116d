"""
Date parameters, compared as intervals (FHIR R4, 3.1.1.4.5 and 3.1.1.4.7).

Implements `ParameterType`.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import DAY, to_stamp
from helios_core.fhir.search import prefilters
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.prefilters import Prefilter, SpanWithin, UpdatedWithin
from helios_core.fhir.search.values import split_prefix, unescape

EARLIEST, LATEST = -(1 << 62), 1 << 62
"""The first and the last microsecond of intervals with open ends."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_SECOND = 1_000_000
_FRACTIONS = tuple(10 ** (6 - digits) for digits in range(7))
_DATE_LENGTH = 10
_APPROXIMATE_DIVISOR = 10
"""`ap` widens the interval of a value by a tenth of its distance from now."""

Interval = tuple[int, int]
"""First and last microsecond since 1970, both inclusive."""

_Bound = Annotated[int, msgspec.Meta(ge=EARLIEST, le=LATEST)]
SortType = tuple[_Bound, _Bound]
"""The type of the values by which dates are sorted, for msgspec."""


def leaf_test(criterion: Criterion) -> Callable[[Any], bool]:
    """Return a test of a leaf: whether its interval matches one of the criterion's values."""
    checks = tuple(_CHECKS[prefix](low, high) for prefix, low, high in _parse_values(criterion))

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        own = interval(leaf)
        return own is not None and any(check(*own) for check in checks)

    return test


def prefilter(criterion: Criterion) -> Prefilter | None:
    """Return the spans of which every match has at least one, or None if an index cannot help."""
    bounds = [
        _BOUNDS[prefix](low, high) if prefix in _BOUNDS else None
        for prefix, low, high in _parse_values(criterion)
    ]
    if criterion.parameter.code == "_lastUpdated":
        return prefilters.any_prefilter(own and _updated_within(*own) for own in bounds)
    if not criterion.parameter.groups:
        return None
    return prefilters.any_prefilter(
        own and SpanWithin(group=span_group(name), **dict(zip(_BOUND_NAMES, own, strict=True)))
        for name in criterion.parameter.groups
        for own in bounds
    )


def sort_values(leaf: Any) -> tuple[Interval, ...]:  # noqa: ANN401 - decoded JSON
    """Return the interval of a leaf; intervals sort by their beginning, then by their end."""
    own = interval(leaf)
    return () if own is None else (own,)


def span_group(name: str) -> int:
    """Return the number under which the spans of a group are indexed."""
    return prefilters.hash_text(f"{name}|d")


def interval(leaf: Any) -> Interval | None:  # noqa: ANN401 - decoded JSON
    """
    Return the interval of a date, dateTime, instant, Period or Timing.

    Return None if there is no interval, it is invalid, or it ends before it begins. The interval
    of a Timing covers its events and its boundsPeriod.
    """
    if type(leaf) is str:
        return _parse_interval(leaf)
    if type(leaf) is not dict:
        return None
    if "event" in leaf or "repeat" in leaf:
        return _timing_interval(leaf)
    return _period_interval(leaf)


def _period_interval(period: dict[str, Any]) -> Interval | None:
    start, end = period.get("start"), period.get("end")
    first = _parse_interval(start) if type(start) is str else None
    last = _parse_interval(end) if type(end) is str else None
    if first is None and last is None:
        return None
    low, high = (first[0] if first else EARLIEST), (last[1] if last else LATEST)
    return (low, high) if low <= high else None


def _timing_interval(timing: dict[str, Any]) -> Interval | None:
    repeat = timing.get("repeat")
    bounds = repeat.get("boundsPeriod") if type(repeat) is dict else None
    events = timing.get("event")
    intervals = [interval(event) for event in events] if type(events) is list else []
    intervals.append(_period_interval(bounds) if type(bounds) is dict else None)
    valid = [own for own in intervals if own is not None]
    return (min(low for low, _ in valid), max(high for _, high in valid)) if valid else None


def _parse_interval(text: str) -> Interval | None:
    try:
        return _parse_common_form(text) or _parse_any_form(text)
    except ValueError:
        return _parse_any_form(text)


def _parse_common_form(text: str) -> Interval | None:
    """
    Parse a day, or a time with seconds, many times as fast as `_parse_any_form`.

    Most stored dates have one of these forms. Other forms are None or raise ValueError.
    """
    if len(text) == _DATE_LENGTH:
        if text[4] != "-" or text[7] != "-":
            return None
        low = (date.fromisoformat(text).toordinal() - _EPOCH_DAY) * DAY
        return low, low + DAY - 1
    if text[10:11] != "T" or text[13:19:3] != "::":
        return None
    instant = datetime.fromisoformat(text)
    low = to_stamp(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
    if text[19:20] != ".":
        return low, low + _SECOND - 1
    digits = len(text[20:26]) - len(text[20:26].lstrip("0123456789"))
    return low, low + _FRACTIONS[digits] - 1


def _parse_any_form(text: str) -> Interval | None:
    try:
        return date_bounds(text)
    except InvalidParameter:
        return None


_BOUND_NAMES = ("low_from", "low_to", "high_from", "high_to")
Bounds = tuple[int | None, int | None, int | None, int | None]
"""The bounds of a `SpanWithin`, in the order of `_BOUND_NAMES`."""


def _parse_values(criterion: Criterion) -> list[tuple[str, int, int]]:
    """Return the prefix of each value, and the first and the last microsecond of its interval."""
    return [_parse_value(criterion, unescape(value)) for value in criterion.values]


def _parse_value(criterion: Criterion, value: str) -> tuple[str, int, int]:
    prefix, text = split_prefix(value)
    try:
        low, high = date_bounds(text)
    except InvalidParameter as error:
        raise criterion.invalid(str(error)) from error
    if prefix == "ap":
        tolerance = abs(to_stamp(criterion.now) - low) // _APPROXIMATE_DIVISOR
        low, high = low - tolerance, high + tolerance
    return prefix, low, high


# By prefix: for the interval of a value (low, high), a test of a leaf's interval (first, last).
_CHECKS: Mapping[str, Callable[[int, int], Callable[[int, int], bool]]] = {
    "eq": lambda low, high: lambda first, last: low <= first and last <= high,
    "ne": lambda low, high: lambda first, last: not (low <= first and last <= high),
    "gt": lambda _, high: lambda _, last: last > high,
    "lt": lambda low, _: lambda first, _: first < low,
    "ge": lambda low, high: lambda first, last: last > high or low <= first,
    "le": lambda low, high: lambda first, last: first < low or last <= high,
    "sa": lambda _, high: lambda first, _: first > high,
    "eb": lambda low, _: lambda _, last: last < low,
    "ap": lambda low, high: lambda first, last: first <= high and last >= low,
}

# By prefix: bounds of all intervals that pass the check. For ne there are none.
_BOUNDS: Mapping[str, Callable[[int, int], Bounds]] = {
    "eq": lambda low, high: (low, None, None, high),
    "gt": lambda _, high: (None, None, high + 1, None),
    "lt": lambda low, _: (None, low - 1, None, None),
    "ge": lambda low, _: (None, None, low, None),
    "le": lambda _, high: (None, high, None, None),
    "sa": lambda _, high: (high + 1, None, None, None),
    "eb": lambda low, _: (None, None, None, low - 1),
    "ap": lambda low, high: (None, high, low, None),
}


def _updated_within(
    low_from: int | None, low_to: int | None, high_from: int | None, high_to: int | None
) -> UpdatedWithin:
    """Return the bounds of an instant, whose first microsecond is also its last one."""
    since = [bound for bound in (low_from, high_from) if bound is not None]
    until = [bound for bound in (low_to, high_to) if bound is not None]
    return UpdatedWithin(since=max(since, default=None), until=min(until, default=None))
