"""
Instants: parse and format them, and convert them to stamps, the integers that stores keep.

Text is parsed into a stamp without a `datetime` in between: 9999-12-31T23:59:59-05:00 is a valid
instant, but in UTC it lies in a year that `datetime` does not have.
"""

import re
from datetime import UTC, date, datetime, timedelta

from helios_core.errors import InvalidParameter

_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(Z|[+\- ][0-9]{2}:[0-9]{2})"
)
_EXPECTED = "an instant with seconds and a time zone is required, such as 2026-11-22T19:46:11Z"
_MICROSECOND_DIGITS = 6
_LEAP_SECOND = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_MAX_OFFSET = 14 * _HOUR

DAY = 24 * _HOUR
"""The microseconds of a day."""

FOREVER = (1 << 63) - 1
"""A stamp that is later than that of every instant."""


def to_stamp(instant: datetime) -> int:
    """Return the stamp of an instant: whole microseconds since 1970 in UTC."""
    elapsed = instant - _EPOCH
    return elapsed.days * DAY + elapsed.seconds * _SECOND + elapsed.microseconds


def from_stamp(stamp: int) -> datetime:
    """Return the instant of a stamp in UTC, or the nearest one in the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=min(max(stamp, _MIN_STAMP), _MAX_STAMP))


def day_stamp(year: int, month: int, day: int) -> int:
    """
    Return the stamp at which a day begins in UTC.

    Raises:
        ValueError: There is no such day in the years 1 to 9999.
    """
    return (date(year, month, day).toordinal() - _EPOCH_DAY) * DAY


_MIN_STAMP = to_stamp(datetime.min.replace(tzinfo=UTC))
_MAX_STAMP = to_stamp(datetime.max.replace(tzinfo=UTC))


def format_instant(instant: datetime) -> str:
    """Return an instant as text, in UTC with microseconds: `2026-11-22T19:46:11.123456Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_instant(text: str, *, round_up: bool = False) -> datetime:
    """
    Return `parse_stamp` as a datetime in UTC, or the nearest one in the years 1 to 9999.

    Raises:
        InvalidParameter: As in `parse_stamp`.
    """
    return from_stamp(parse_stamp(text, round_up=round_up))


def parse_stamp(text: str, *, round_up: bool = False) -> int:
    """
    Parse a FHIR instant: a date, a time with seconds, and a zone, all required.

    Digits beyond microseconds are dropped; with `round_up` they add one microsecond unless all
    are 0. A space in front of the zone is read as plus, because URL decoding makes a space of a
    plus. A leap second (:60) is read as the first instant of the next minute, as on clocks without
    leap seconds.

    Raises:
        InvalidParameter: The text is not an instant, or there is no such date, time or zone.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise InvalidParameter(_EXPECTED)
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    leap = second == _LEAP_SECOND
    digits = (match[7] or "").ljust(_MICROSECOND_DIGITS, "0")
    micros = 0 if leap else int(digits[:_MICROSECOND_DIGITS])
    extra = round_up and not leap and bool(digits[_MICROSECOND_DIGITS:].strip("0"))
    try:
        start = day_stamp(year, month, day) + _time_of_day(hour, minute, second)
        return start - _offset(match[8]) + micros + extra
    except ValueError as error:
        raise InvalidParameter(f"there is no such date, time or zone; {_EXPECTED}") from error


def _time_of_day(hour: int, minute: int, second: int) -> int:
    """Return the microseconds since midnight."""
    if hour >= 24 or minute >= 60 or second > _LEAP_SECOND:  # noqa: PLR2004 - of a day, an hour
        raise ValueError
    return hour * _HOUR + minute * _MINUTE + second * _SECOND


def _offset(text: str) -> int:
    """Return the microseconds by which a zone is ahead of UTC."""
    if text == "Z":
        return 0
    hours, minutes = int(text[1:3]), int(text[4:6])
    offset = hours * _HOUR + minutes * _MINUTE
    if minutes >= 60 or offset > _MAX_OFFSET:  # noqa: PLR2004 - minutes in an hour
        raise ValueError(text)
    return -offset if text[0] == "-" else offset
