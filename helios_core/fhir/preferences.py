"""What a client prefers: the Prefer header, and the parameters `_format` and `_pretty`."""

import re
from collections.abc import Sequence
from enum import StrEnum
from urllib.request import parse_http_list

import msgspec

from helios_core.errors import InvalidRequest

PRESENTATION_PARAMETERS = frozenset({"_format", "_pretty"})
"""Parameters that every request may have and that are ignored: there is one presentation."""


_SELECTING_OR_SHAPING = frozenset(
    {
        *("_at", "_contained", "_content", "_count", "_dryRun", "_elements", "_filter", "_has"),
        *("_id", "_in", "_include", "_language", "_lastUpdated", "_list", "_outputFormat"),
        *("_profile", "_query", "_revinclude", "_security", "_since", "_sort", "_source"),
        *("_summary", "_tag", "_text", "_total", "_type", "_typeFilter", "_until"),
        *("_after", "_before"),  # in the page links of this server
    }
)
"""Parameters with an underscore that have an effect in any interaction of any FHIR version."""


def has_no_effect(name: str) -> bool:
    """Return whether a parameter can be ignored: it is for presentation, or unknown to FHIR."""
    code = re.split("[:.]", name, maxsplit=1)[0]
    return name in PRESENTATION_PARAMETERS or (
        name.startswith("_") and code not in _SELECTING_OR_SHAPING | PRESENTATION_PARAMETERS
    )


class Handling(StrEnum):
    """How to treat an unsupported parameter (RFC 7240, section 4.4)."""

    DEFAULT = "default"
    STRICT = "strict"
    LENIENT = "lenient"


class ReturnPreference(StrEnum):
    """What the response to a change contains (FHIR R4, http.html#ops)."""

    MINIMAL = "minimal"
    REPRESENTATION = "representation"
    OPERATION_OUTCOME = "OperationOutcome"


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """The preferences of a request."""

    respond_async: bool = False
    separate_status: bool = False
    """Whether the status code of a poll is about the poll itself (Bulk Data 3.0.0)."""
    handling: Handling = Handling.DEFAULT
    returned: ReturnPreference | None = None
    """None if the client has no preference, or an unknown one."""


def parse_preferences(lines: Sequence[str]) -> Preferences:
    """
    Parse Prefer headers (RFC 7240 section 2); unknown preferences are ignored.

    Raises:
        InvalidRequest: `handling` is neither strict nor lenient.
    """
    respond_async = separate_status = False
    handling = Handling.DEFAULT
    returned: ReturnPreference | None = None
    for preference in parse_http_list(",".join(lines)):  # whose values may be in quotes
        name, _, value = preference.split(";")[0].partition("=")
        match name.strip().lower():
            case "respond-async":
                respond_async = True
            case "separate-export-status":
                separate_status = True
            case "handling" if handling is Handling.DEFAULT:  # the first one counts (section 2)
                handling = _parse_handling(value.strip().strip('"').lower())
            case "return" if returned is None:
                returned = _parse_return(value.strip().strip('"').lower())
            case _:
                pass
    return Preferences(
        respond_async=respond_async,
        separate_status=separate_status,
        handling=handling,
        returned=returned,
    )


def _parse_return(value: str) -> ReturnPreference | None:
    return next((choice for choice in ReturnPreference if choice.lower() == value), None)


def _parse_handling(value: str) -> Handling:
    if value not in (Handling.STRICT, Handling.LENIENT):
        raise InvalidRequest(
            "The handling in the Prefer header is neither strict nor lenient; "
            "send handling=strict, handling=lenient, or no handling."
        )
    return Handling(value)
