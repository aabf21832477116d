"""Conditions and byte ranges of a download (RFC 9110 sections 13 and 14)."""

import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

RANGE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


class RangeNotSatisfiable(ValueError):
    """The range begins behind the last byte."""


class ByteRange(msgspec.Struct, frozen=True):
    """Bytes from `start`, inclusive, to `end`, exclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes that is."""
        return self.end - self.start


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """
    Give what a Range header asks for, or None where the whole is to be sent.

    Several ranges at once, and what cannot be read, are answered with the whole (§14.2).

    Raises:
        Unsatisfiable: Nothing of the range exists.
    """
    match = RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiable
    return ByteRange(start, end)


def if_range_holds(if_range: str | None, *, etag: str, last_modified: datetime) -> bool:
    """Whether If-Range is absent or names this very representation (§13.1.5)."""
    if if_range is None or if_range.strip() == etag:
        return True
    return _date(if_range) == last_modified


def is_not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match says that the client has this representation (§13.1.2)."""
    if if_none_match is None:
        return False
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return bool(known & {"*", etag.removeprefix("W/")})


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
