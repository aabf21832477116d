"""Parameters and preferences of a kick-off as they are on the wire, before they mean anything."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from helios_core.errors import InvalidParameter, InvalidRequest
from helios_core.kickoff.catalogue import CATALOGUE, Value

PRESENTATION = frozenset({"_format", "_pretty"})
"""Parameters about an answer's looks, legal everywhere; there is one look."""

VALUE_KINDS: Mapping[str, Sequence[str]] = {each.name: each.value.kinds for each in CATALOGUE}
"""Per served parameter, the kinds of value an entry of a Parameters resource may carry."""


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


class Given(msgspec.Struct, frozen=True):
    """One occurrence of a parameter."""

    name: str
    value: str


def preferences(lines: Sequence[str]) -> Preferences:
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


class _Parameters(msgspec.Struct, rename="camel"):
    resource_type: str
    parameter: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])


def from_body(body: bytes) -> list[Given]:
    """
    Read a Parameters resource (FHIR R4, Parameters).

    Raises:
        InvalidRequest: The body is not a Parameters resource.
        InvalidParameter: An entry has no name, or a value of a kind its parameter does not take.
    """
    try:
        parameters = msgspec.json.decode(body, type=_Parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"The body is not a Parameters resource in JSON ({error}); send one, or use GET."
        ) from error
    if parameters.resource_type != "Parameters":
        raise InvalidRequest(
            "The body's resourceType is not Parameters; send a Parameters resource, or use GET."
        )
    return list(_given(parameters.parameter))


def _given(entries: Sequence[dict[str, Any]]) -> Iterator[Given]:
    for index, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidParameter(f"Entry {index} of the Parameters has no name; give it one.")
        kinds = [key for key in entry if key.startswith("value")]
        if len(kinds) != 1:
            raise InvalidParameter(
                f"Parameter {name} (entry {index}) has {len(kinds)} values; give it exactly one."
            )
        yield Given(name, _text(name, kinds[0], entry[kinds[0]]))


def _text(name: str, kind: str, value: object) -> str:
    """Give a value as it would stand in a query string."""
    allowed = VALUE_KINDS.get(name)
    if allowed is None:
        return str(value)
    if kind in allowed:
        if kind == "valueReference":
            value = value.get("reference") if isinstance(value, dict) else None
        if kind == "valueCoding":
            value = value.get("code") if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
        # A JSON true is also an int of Python's, so that its text is asked for first.
        if kind == "valueBoolean" and isinstance(value, bool):
            return "true" if value else "false"
        if kind in Value.NUMBER.kinds and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    raise InvalidParameter(
        f"Parameter {name} has a {kind} that cannot be used; send it as {' or '.join(allowed)}."
    )
