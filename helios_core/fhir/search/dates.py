"""Dates: spans of time, compared as spans (FHIR R4, 3.1.1.4.5 and 3.1.1.4.7)."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from helios_core.errors import InvalidParameter
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search import prefilters
from helios_core.fhir.search.criteria import Criterion
from helios_core.fhir.search.filters import Condition, any_value
from helios_core.fhir.search.prefilters import Prefilter, SpanWithin, UpdatedWithin
from helios_core.fhir.search.values import split_prefix, unescape

EARLIEST, LATEST = -(1 << 62), 1 << 62
"""Where open spans begin and end."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY = 86_400_000_000
_SECOND = 1_000_000
_FRACTIONS = tuple(10 ** (6 - digits) for digits in range(7))
_DATE_LENGTH = 10
_CLOSENESS = 10
"""`ap` reaches a tenth of the way from the date to now."""

Interval = tuple[int, int]
"""First and last microsecond since 1970, both inclusive."""


def condition(question: Criterion) -> Condition:
    """Give the condition that a date is as asked."""
    return any_value(question.parameter, leaf_test(question), prefilter(question))


def leaf_test(question: Criterion) -> Callable[[Any], bool]:
    """Give what tells whether one value matches."""
    checks = tuple(_CHECKS[prefix](low, high) for prefix, low, high in _asked(question))

    def test(leaf: Any) -> bool:  # noqa: ANN401 - decoded JSON
        found = interval(leaf)
        return found is not None and any(check(*found) for check in checks)

    return test


def prefilter(question: Criterion) -> Prefilter | None:
    """Give the spans of which a match has one."""
    bounds = [
        _BOUNDS[prefix](low, high) if prefix in _BOUNDS else None
        for prefix, low, high in _asked(question)
    ]
    if question.parameter.code == "_lastUpdated":
        return prefilters.any_prefilter(each and _updated(*each) for each in bounds)
    if not question.parameter.groups:
        return None
    return prefilters.any_prefilter(
        each and SpanWithin(group=span_group(name), **dict(zip(_FIELDS, each, strict=True)))
        for name in question.parameter.groups
        for each in bounds
    )


def span_group(name: str) -> int:
    """Give the number under which spans at a place are indexed."""
    return prefilters.number(f"{name}|d")


def interval(leaf: Any) -> Interval | None:  # noqa: ANN401 - decoded JSON
    """
    Give the span of a date, dateTime, instant, Period or Timing.

    None where there is none, or none that can be read, or it ends before it begins. Of a Timing
    only the outer limits matter.
    """
    if type(leaf) is str:
        return _text_interval(leaf)
    if type(leaf) is not dict:
        return None
    if "event" in leaf or "repeat" in leaf:
        return _timing(leaf)
    return _period(leaf)


def _period(period: dict[str, Any]) -> Interval | None:
    start, end = period.get("start"), period.get("end")
    first = _text_interval(start) if type(start) is str else None
    last = _text_interval(end) if type(end) is str else None
    if first is None and last is None:
        return None
    low, high = (first[0] if first else EARLIEST), (last[1] if last else LATEST)
    return (low, high) if low <= high else None


def _timing(timing: dict[str, Any]) -> Interval | None:
    repeat = timing.get("repeat")
    bounds = repeat.get("boundsPeriod") if type(repeat) is dict else None
    events = timing.get("event")
    limits = [interval(event) for event in events] if type(events) is list else []
    limits.append(_period(bounds) if type(bounds) is dict else None)
    found = [each for each in limits if each is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _text_interval(text: str) -> Interval | None:
    try:
        return _usual_interval(text) or _any_interval(text)
    except ValueError:
        return _any_interval(text)


def _usual_interval(text: str) -> Interval | None:
    """Read a day or a time with seconds: most of what is stored, and many times a second."""
    if len(text) == _DATE_LENGTH:
        if text[4] != "-" or text[7] != "-":
            return None
        low = (date.fromisoformat(text).toordinal() - _EPOCH_DAY) * _DAY
        return low, low + _DAY - 1
    if text[10:11] != "T" or text[13:19:3] != "::":
        return None
    instant = datetime.fromisoformat(text)
    low = to_stamp(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
    if text[19:20] != ".":
        return low, low + _SECOND - 1
    digits = len(text[20:26]) - len(text[20:26].lstrip("0123456789"))
    return low, low + _FRACTIONS[digits] - 1


def _any_interval(text: str) -> Interval | None:
    try:
        first, last = date_bounds(text)
    except InvalidParameter:
        return None
    return to_stamp(first), to_stamp(last)


_FIELDS = ("low_from", "low_to", "high_from", "high_to")
Bounds = tuple[int | None, int | None, int | None, int | None]


def _asked(question: Criterion) -> list[tuple[str, int, int]]:
    return [_comparison(question, unescape(value)) for value in question.values]


def _comparison(question: Criterion, value: str) -> tuple[str, int, int]:
    prefix, text = split_prefix(value)
    try:
        first, last = date_bounds(text)
    except InvalidParameter as error:
        raise question.invalid(str(error)) from error
    low, high = to_stamp(first), to_stamp(last)
    if prefix == "ap":
        reach = abs(to_stamp(question.now) - low) // _CLOSENESS
        low, high = low - reach, high + reach
    return prefix, low, high


# What compares the first and the last microsecond of a resource's span with those of the value.
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

# Within what a span that passes the check begins and ends; there is no such thing for ne.
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


def _updated(
    low_from: int | None, low_to: int | None, high_from: int | None, high_to: int | None
) -> UpdatedWithin:
    since = [each for each in (low_from, high_from) if each is not None]
    until = [each for each in (low_to, high_to) if each is not None]
    return UpdatedWithin(since=max(since, default=None), until=min(until, default=None))
