"""Content negotiation by Accept and Accept-Encoding (RFC 9110 section 12)."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from werkzeug.http import parse_list_header, parse_options_header

QUALITY: Final = re.compile(r"[01](?:\.\d*)?|\.\d+", re.ASCII)
"""A weight (§12.4.2). HTTP clients of older Java versions send `q=.2`, without the zero."""


class AcceptItem(msgspec.Struct, frozen=True, kw_only=True):
    """One element of an Accept or Accept-Encoding header."""

    name: str
    """A media range or a content coding, in lower case."""
    parameters: dict[str, str]
    """Values by name, the weight `q` included; names are in lower case."""
    quality: float
    """From 0, not acceptable, to 1, preferred (§12.4.2)."""


def parse_accept(lines: Sequence[str]) -> list[AcceptItem]:
    """Return the elements of all lines of one header, those with the highest quality first."""
    items = map(_accept_item, parse_list_header(", ".join(lines)))
    return sorted(items, key=lambda item: -item.quality)


def _accept_item(element: str) -> AcceptItem:
    """Parse one element; a weight that cannot be read counts as absent."""
    name, parameters = parse_options_header(element)
    weight = parameters.get("q", "")
    return AcceptItem(
        name=name.lower(),
        parameters=parameters,
        quality=min(float(weight), 1.0) if QUALITY.fullmatch(weight) else 1.0,
    )


def accepts_gzip(accept_encoding: Sequence[str]) -> bool:
    """Return whether Accept-Encoding allows gzip (§12.5.3), which an absent header does not."""
    qualities = _coding_qualities(accept_encoding)
    for coding in ("gzip", "x-gzip", "*"):
        if coding in qualities:
            return qualities[coding] > 0
    return False


def prefers_gzip(accept_encoding: Sequence[str]) -> bool:
    """Return whether Accept-Encoding prefers gzip to no coding, or rates both alike."""
    qualities = _coding_qualities(accept_encoding)
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", qualities.get("*", 0.0))


def accepts_identity(accept_encoding: Sequence[str]) -> bool:
    """Return whether a body may be sent without coding (§12.5.3): it may unless excluded."""
    qualities = _coding_qualities(accept_encoding)
    return qualities.get("identity", qualities.get("*", 1.0)) > 0


def _coding_qualities(accept_encoding: Sequence[str]) -> dict[str, float]:
    return {item.name: item.quality for item in parse_accept(accept_encoding)}
