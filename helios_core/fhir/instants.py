"""Instants: parse and format them, and convert them to stamps, the integers that stores keep."""

import re
from datetime import UTC, datetime, timedelta, timezone

from helios_core.errors import InvalidParameter

_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(Z|[+\- ][0-9]{2}:[0-9]{2})"
)
_EXPECTED = "an instant with seconds and a time zone is required, such as 2026-11-22T19:46:11Z"
_MICROSECOND_DIGITS = 6
_LEAP_SECOND = 60
_MAX_OFFSET = timedelta(hours=14)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_DAY = 24 * 60 * 60 * _SECOND

FOREVER = (1 << 63) - 1
"""A stamp later than that of any instant."""


def to_stamp(instant: datetime) -> int:
    """Return the stamp of an instant: whole microseconds since 1970 in UTC."""
    elapsed = instant - _EPOCH
    return elapsed.days * _DAY + elapsed.seconds * _SECOND + elapsed.microseconds


def from_stamp(stamp: int) -> datetime:
    """Return the instant of a stamp, in UTC."""
    return _EPOCH + timedelta(microseconds=stamp)


def format_instant(instant: datetime) -> str:
    """Return an instant as text, in UTC with microseconds: `2026-11-22T19:46:11.123456Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_instant(text: str, *, round_up: bool = False) -> datetime:
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
        start = datetime(year, month, day, hour, minute, second - leap, tzinfo=_zone(match[8]))
        return start.astimezone(UTC) + timedelta(seconds=int(leap), microseconds=micros + extra)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f"there is no such date, time or zone; {_EXPECTED}") from error


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    offset = timedelta(hours=hours, minutes=minutes)
    if minutes >= 60 or offset > _MAX_OFFSET:  # noqa: PLR2004 - minutes in an hour
        raise ValueError(text)
    return timezone(-offset if text[0] == "-" else offset)
