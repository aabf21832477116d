"""Headers that list alternatives with weights: Accept and Accept-Encoding."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from litestar.datastructures.headers import MediaTypeHeader

QUALITY: Final = re.compile(r"[01](?:\.\d{0,3})?")


class AcceptItem(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative."""

    name: str
    """A media range, or a coding, in lower case."""
    parameters: dict[str, str]
    """By name in lower case, the weight included."""
    quality: float
    """From 0, not wanted, to 1 (RFC 9110 §12.4.2)."""


def parse_accept(lines: Sequence[str]) -> list[AcceptItem]:
    """Give the alternatives of all lines of one header, the most wanted first."""
    entries = (entry for line in lines for entry in line.split(",") if entry.strip())
    return sorted(map(_choice, entries), key=lambda choice: -choice.quality)


def _choice(entry: str) -> AcceptItem:
    """Read one alternative; a weight that cannot be read counts as absent."""
    header = MediaTypeHeader(entry)
    weight = header.params.get("q", "")
    return AcceptItem(
        name=f"{header.maintype}/{header.subtype}" if header.subtype else header.maintype,
        parameters=header.params,
        quality=float(weight) if QUALITY.fullmatch(weight) else 1.0,
    )


def accepts_gzip(accept_encoding: Sequence[str]) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110 §12.5.3); its absence keeps to plain bytes."""
    weights = {choice.name: choice.quality for choice in parse_accept(accept_encoding)}
    named = [weights[name] for name in ("gzip", "x-gzip", "*") if name in weights]
    return bool(named) and named[0] > 0
