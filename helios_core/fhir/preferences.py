"""TODO."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from helios_core.errors import InvalidRequest

PRESENTATION_PARAMETERS = frozenset({"_format", "_pretty"})
"""Parameters about an answer's looks, legal everywhere; there is one look."""


class Handling(StrEnum):
    """What to do with a parameter that cannot be honoured (RFC 7240 section 4.4)."""

    DEFAULT = "default"
    STRICT = "strict"
    LENIENT = "lenient"


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """What the Prefer header asks for."""

    respond_async: bool = False
    separate_status: bool = False
    """Whether polls are to answer about themselves (Bulk Data 3.0.0, separate-export-status)."""
    handling: Handling = Handling.DEFAULT


def parse_preferences(lines: Sequence[str]) -> Preferences:
    """
    Read Prefer header lines (RFC 7240 section 2); preferences not known here are ignored.

    Raises:
        InvalidRequest: `handling` is neither strict nor lenient.
    """
    respond_async = separate_status = False
    handling = Handling.DEFAULT
    for preference in ",".join(lines).split(","):
        name, _, value = preference.split(";")[0].partition("=")
        match name.strip().lower():
            case "respond-async":
                respond_async = True
            case "separate-export-status":
                separate_status = True
            case "handling" if handling is Handling.DEFAULT:  # a repeat does not count (section 2)
                handling = _handling(value.strip().strip('"').lower())
            case _:
                pass
    return Preferences(
        respond_async=respond_async, separate_status=separate_status, handling=handling
    )


def _handling(value: str) -> Handling:
    if value not in (Handling.STRICT, Handling.LENIENT):
        raise InvalidRequest(
            "The Prefer header has a handling that is neither strict nor lenient; "
            "send handling=strict, handling=lenient or neither."
        )
    return Handling(value)
