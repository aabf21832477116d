"""Parameters and preferences of a kick-off as they are on the wire, before they mean anything."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from helios_core.errors import InvalidParameter, InvalidRequest
from helios_core.export.kickoff.definitions import PARAMETERS, ValueKind
from helios_core.fhir.bulk_data import CURRENT, Guide
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import parse_instant
from helios_core.fhir.search import split_type_filter
from helios_core.model.exports import Level

VALUE_KINDS: Mapping[str, Sequence[str]] = {each.name: each.value.kinds for each in PARAMETERS}
"""Per served parameter, the kinds of value an entry of a Parameters resource may carry."""


class GivenParameter(msgspec.Struct, frozen=True):
    """One occurrence of a parameter."""

    name: str
    value: str


class Decline(Protocol):
    """Refuses a request, or under handling=lenient notes what is ignored."""

    def __call__(self, reason: str, *, kind: Callable[[str], Exception]) -> None:
        """Refuse, or note the reason."""


class _Parameters(msgspec.Struct, rename="camel"):
    resource_type: str
    parameter: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])


def parse_parameters_resource(body: bytes) -> list[GivenParameter]:
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


def _given(entries: Sequence[dict[str, Any]]) -> Iterator[GivenParameter]:
    for index, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidParameter(f"Entry {index} of the Parameters has no name; give it one.")
        kinds = [key for key in entry if key.startswith("value")]
        if len(kinds) != 1:
            raise InvalidParameter(
                f"Parameter {name} (entry {index}) has {len(kinds)} values; give it exactly one."
            )
        yield GivenParameter(name, _text(name, kinds[0], entry[kinds[0]]))


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
        if (
            kind in ValueKind.NUMBER.kinds
            and isinstance(value, int)
            and not isinstance(value, bool)
        ):
            return str(value)
    raise InvalidParameter(
        f"Parameter {name} has a {kind} that cannot be used; send it as {' or '.join(allowed)}."
    )


class ExportPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided about every export."""

    include_newly_added: bool = True
    """Whether with `_since` members who joined later bring their older data."""
    referenced_types: tuple[str, ...] = ()
    """Types that exports of patients bring where something refers to them."""
    guide: Guide = CURRENT
    """The version of the guide that is spoken."""


class KickoffRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A kick-off as it came in through the door, not yet looked at."""

    tenant: str
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    url: str
    """The absolute URL with query, exactly as the client sent it."""
    query: Sequence[tuple[str, str]] = ()
    """Decoded name and value pairs of the query string, in order, repeats kept."""
    body: bytes | None = None
    """The Parameters resource of a POST, None for a GET."""
    prefer: Sequence[str] = ()
    """The values of the Prefer header lines."""
    owner: str | None = None
    base_url: str = ""
    """The server's public base URL; a patient may be named by an absolute URL below it."""
    policy: ExportPolicy = ExportPolicy()


def given_parameters(call: KickoffRequest) -> list[GivenParameter]:
    """
    Give the parameters of a call, those of the query string first.

    Raises:
        InvalidRequest: The body is not a Parameters resource; so is InvalidParameter.
    """
    given = [GivenParameter(name, value) for name, value in call.query]
    return given if call.body is None else given + parse_parameters_resource(call.body)


SIZE = re.compile(r"0*[1-9]\d{0,17}", re.ASCII)


class ParameterValues:
    """The values that were given, by the name of their parameter."""

    def __init__(self, given: Sequence[GivenParameter], *, guide: Guide) -> None:
        self._given = given
        self._guide = guide

    def __iter__(self) -> Iterator[str]:
        """Give every name that was given, once."""
        return iter(dict.fromkeys(given.name for given in self._given))

    def of(self, name: str) -> list[str]:
        """Give all values of a parameter, in order."""
        return [given.value for given in self._given if given.name == name]

    def single(self, name: str) -> str | None:
        """
        Give the value of a parameter, None where it is not given.

        Raises:
            InvalidParameter: It is given twice.
        """
        values = self.of(name)
        if len(values) > 1:
            raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """
        Give the value of a boolean parameter, false where it is not given.

        Raises:
            InvalidParameter: It is given twice, or is neither true nor false.
        """
        value = self.single(name)
        if value not in (None, "true", "false"):
            raise InvalidParameter(f"{name} is neither true nor false; send one of them.")
        return value == "true"

    def listed(self, name: str) -> list[str]:
        """
        Give the values of a list, repeats joined, blanks and doubles dropped.

        Raises:
            InvalidParameter: It is joined by commas, and the guide allows none.
        """
        if not self._guide.comma_lists and any("," in value for value in self.of(name)):
            raise InvalidParameter(f"{name} has a comma in it; repeat it for each value.")
        values = [v.strip() for value in self.of(name) for v in value.split(",")]
        return list(dict.fromkeys(v for v in values if v))

    def type_filters(self) -> list[str]:
        """
        Give the values of `_typeFilter`.

        Raises:
            InvalidParameter: Queries are joined by a comma, and the guide allows none.
        """
        values = self.of("_typeFilter")
        joined = any(len(list(split_type_filter(value))) > 1 for value in values)
        if joined and not self._guide.comma_lists:
            raise InvalidParameter("_typeFilter joins queries by a comma; repeat it for each.")
        return values

    def instant(self, name: str, *, round_up: bool) -> datetime | None:
        """
        Give the instant a parameter names, None where it is not given.

        Raises:
            InvalidParameter: It is given twice, or is no instant.
        """
        value = self.single(name)
        if value is None:
            return None
        try:
            return parse_instant(value.strip(), round_up=round_up)
        except InvalidParameter as error:
            raise InvalidParameter(f"{name}: {error}") from error

    def size(self, name: str) -> int | None:
        """
        Give a number of bytes, None where it is not given or the guide does not know it.

        Raises:
            InvalidParameter: It is given twice, or is no whole number from 1.
        """
        value = self.single(name) if name in self._guide.parameters else None
        if value is None:
            return None
        if not SIZE.fullmatch(value):
            raise InvalidParameter(f"{name} is not a whole number of bytes from 1; send one.")
        return int(value)
