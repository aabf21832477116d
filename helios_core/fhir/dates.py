"""The interval that a date or dateTime covers: a year, a month, a day, or less."""

import re
from calendar import monthrange

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import DAY, day_stamp, parse_stamp

_PARTIAL = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_MINUTES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(Z|[+\- ][0-9]{2}:[0-9]{2})?")
_ZONE = re.compile(r"(Z|[+\- ][0-9]{2}:[0-9]{2})$")
_FRACTION = re.compile(r"\.([0-9]+)")
_EXPECTED = "a date (2026, 2026-11, 2026-11-22) or a dateTime (2026-11-22T19:46:11Z) is required"
_MINUTE = 60_000_000


def date_bounds(text: str) -> tuple[int, int]:
    """
    Return the stamps of the first and the last microsecond that a date or dateTime covers.

    See FHIR R4, 3.1.1.5.5. A time without a zone is read as UTC. With a zone, both stamps may lie
    outside of the years 1 to 9999 of `datetime`.

    Raises:
        InvalidParameter: The text is not a date or dateTime, or there is no such date, time or
            zone.
    """
    if match := _PARTIAL.fullmatch(text):
        return _partial_date_bounds(*match.groups())
    if match := _MINUTES.fullmatch(text):
        low = _stamp(f"{text[:16]}:00{match[1] or 'Z'}")
        return low, low + _MINUTE - 1
    if "T" not in text:
        raise InvalidParameter(_EXPECTED)
    low = _stamp(text if _ZONE.search(text) else f"{text}Z")
    fraction = _FRACTION.search(text)
    digits = len(fraction[1]) if fraction else 0
    return low, low + int(10 ** max(0, 6 - digits)) - 1


def _stamp(text: str) -> int:
    try:
        return parse_stamp(text)
    except InvalidParameter as error:
        # The message of `parse_stamp` requires an instant, which needs more than a dateTime.
        raise InvalidParameter(f"there is no such date, time or zone; {_EXPECTED}") from error


def _partial_date_bounds(year: str, month: str | None, day: str | None) -> tuple[int, int]:
    try:
        low = day_stamp(int(year), int(month or 1), int(day or 1))
    except ValueError as error:
        raise InvalidParameter(f"there is no such date; {_EXPECTED}") from error
    if day:
        return low, low + DAY - 1
    if month:
        return low, low + monthrange(int(year), int(month))[1] * DAY - 1
    return low, day_stamp(int(year), 12, 31) + DAY - 1
