"""Conditional requests and byte ranges (RFC 9110 sections 13 and 14)."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from werkzeug.http import parse_date, parse_etags, unquote_etag

RANGE: Final = re.compile(r"bytes=[ \t,]*(\d{0,99})-(\d{0,99})[ \t,]*", re.ASCII | re.IGNORECASE)
"""One range of bytes; a list may have empty elements around it (§5.6.1.2)."""


class RangeNotSatisfiable(ValueError):
    """No byte of the representation is in the range."""


class ByteRange(msgspec.Struct, frozen=True):
    """Bytes from `start`, inclusive, to `end`, exclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Number of bytes in the range."""
        return self.end - self.start


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """
    Return the requested range of a representation, or None if all of it is to be sent.

    Several ranges in one header, other units and malformed headers are ignored (§14.2).

    Args:
        header: The Range header, or None if there is none.
        size: The bytes of the representation.

    Raises:
        RangeNotSatisfiable: The range begins at or after `size`, or is the last 0 bytes.
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
    """Return whether If-Range is absent or names this representation exactly (§13.1.5)."""
    if if_range is None or if_range == etag:
        return True
    return '"' not in if_range and parse_date(if_range) == last_modified


def precondition_fails(
    if_match: Sequence[str],
    if_unmodified_since: str | None,
    *,
    etag: str,
    last_modified: datetime,
) -> bool:
    """
    Return whether If-Match, or without it If-Unmodified-Since, names another representation.

    If-Match compares strongly (§13.1.1); a date that cannot be read is ignored (§13.1.4).
    """
    if if_match:
        tag, weak = unquote_etag(etag)
        expected = parse_etags(", ".join(if_match))
        return weak is True or tag not in expected
    date = parse_date(if_unmodified_since)
    return date is not None and last_modified > date


def is_not_modified(if_none_match: Sequence[str], etag: str) -> bool:
    """Return whether a line of If-None-Match names the ETag of the representation (§13.1.2)."""
    tag, _ = unquote_etag(etag)
    return parse_etags(", ".join(if_none_match)).contains_weak(tag)
