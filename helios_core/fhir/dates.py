"""The interval that a date or dateTime covers: a year, a month, a day, or less."""

import re
from datetime import UTC, datetime, timedelta

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import parse_instant

_PARTIAL = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_MINUTES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(Z|[+\- ][0-9]{2}:[0-9]{2})?")
_FRACTION = re.compile(r"\.([0-9]+)")
_EXPECTED = "a date (2026, 2026-11, 2026-11-22) or a dateTime (2026-11-22T19:46:11Z) is required"
_MICROSECOND = timedelta(microseconds=1)


def date_bounds(text: str) -> tuple[datetime, datetime]:
    """
    Return the first and the last microsecond that a date or dateTime covers (FHIR R4, 3.1.1.5.5).

    A time without a zone is read as UTC.

    Raises:
        InvalidParameter: The text is neither, or there is no such date, time or zone.
    """
    if match := _PARTIAL.fullmatch(text):
        return _partial_date_bounds(*match.groups())
    if match := _MINUTES.fullmatch(text):
        zone = match[1] or "Z"
        low = parse_instant(f"{text[:16]}:00{zone}")
        return low, low + timedelta(minutes=1) - _MICROSECOND
    if "T" not in text:
        raise InvalidParameter(_EXPECTED)
    low = parse_instant(text if re.search(r"(Z|[+\- ][0-9]{2}:[0-9]{2})$", text) else f"{text}Z")
    fraction = _FRACTION.search(text)
    digits = len(fraction[1]) if fraction else 0
    width = timedelta(microseconds=10 ** max(0, 6 - digits))
    return low, low + width - _MICROSECOND


def _partial_date_bounds(
    year: str, month: str | None, day: str | None
) -> tuple[datetime, datetime]:
    try:
        low = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            next_low = low + timedelta(days=1)
        elif month:
            next_low = (low + timedelta(days=31)).replace(day=1)
        else:
            next_low = low.replace(year=low.year + 1)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f"there is no such date; {_EXPECTED}") from error
    return low, next_low - _MICROSECOND
