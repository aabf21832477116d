"""Instants: as FHIR writes them, as clients send them, as stores number them."""

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
"""A stamp after all others."""


def to_stamp(instant: datetime) -> int:
    """Give the microseconds since 1970."""
    passed = instant - _EPOCH
    return passed.days * _DAY + passed.seconds * _SECOND + passed.microseconds


def from_stamp(stamp: int) -> datetime:
    """Give the instant of a stamp."""
    return _EPOCH + timedelta(microseconds=stamp)


def format_instant(instant: datetime) -> str:
    """Give an instant in UTC with microseconds: `2026-11-22T19:46:11.123456Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_instant(text: str, *, round_up: bool = False) -> datetime:
    """
    Read a FHIR instant: date, time with seconds, and zone are all required.

    Digits beyond microseconds are dropped, or with `round_up` count as one more microsecond. A
    space where the zone's plus was lost in URL decoding is read as plus. A leap second (:60) is
    read as the first instant of the next minute, which follows it on every clock without one.

    Raises:
        InvalidParameter: It is a date only, has no zone, or names no moment that ever was.
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
        whole = datetime(year, month, day, hour, minute, second - leap, tzinfo=_zone(match[8]))
        return whole.astimezone(UTC) + timedelta(seconds=int(leap), microseconds=micros + extra)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f"no such date, time or zone exists; {_EXPECTED}") from error


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    offset = timedelta(hours=hours, minutes=minutes)
    if minutes >= 60 or offset > _MAX_OFFSET:  # noqa: PLR2004 - minutes in an hour
        raise ValueError(text)
    return timezone(-offset if text[0] == "-" else offset)
