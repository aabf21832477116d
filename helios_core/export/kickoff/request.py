"""The parameters of a kick-off as they were sent, before `parsing` decides what they mean."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from helios_core.errors import InvalidParameter, InvalidRequest, TooCostly
from helios_core.export.kickoff.parameters import PARAMETERS, ValueKind
from helios_core.fhir.bulk_data import CURRENT, Guide
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.instants import parse_instant
from helios_core.fhir.search import split_type_filter
from helios_core.fhir.strict_json import explain_fault
from helios_core.model.exports import Level
from helios_core.model.principals import Principal
from helios_core.model.scopes import Grant
from helios_core.storage.file_authorizer import ExportIntent, FileAuthorizer, ScopeAuthorizer
from helios_core.storage.permitted_reads import usable
from helios_core.storage.transform_chain import NO_TRANSFORMS, Transforms

MAX_PARAMETERS = 1000
"""Maximum number of parameters besides `patient`, repeats included."""
MAX_PATIENTS = 100_000
"""Maximum number of values of `patient`."""
MAX_VALUES = 10_000
"""Maximum number of values of all other parameters, separated by commas and ampersands."""
MAX_NAMES = 100
"""Maximum number of different parameters: a dry run parses the kick-off once for each."""

_SIZE = re.compile(r"0*[1-9]\d{0,17}", re.ASCII)
_KINDS = {parameter.name: parameter.value.kinds for parameter in PARAMETERS}


class ExportPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's decisions that apply to every export."""

    include_newly_added: bool = True
    """Whether the older data of members who joined after `_since` is exported."""
    referenced_types: tuple[str, ...] = ()
    """Types that are added to patient and group exports when the output refers to them."""
    guide: Guide = CURRENT
    """The supported version of the guide."""
    transforms: Transforms = NO_TRANSFORMS
    """The transforms of plugins that every line passes through."""


class KickoffRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A kick-off as it was received."""

    tenant: str
    fhir_version: FHIRVersion
    level: Level
    group_id: str | None = None
    url: str
    """The absolute URL with its query, exactly as the client sent it."""
    query: Sequence[tuple[str, str]] = ()
    """Decoded names and values of the query string, in order, repeats included."""
    body: bytes | None = None
    """The Parameters resource of a POST, None for a GET."""
    prefer: Sequence[str] = ()
    """The values of the Prefer header lines."""
    principal: Principal | None = None
    """Who sent it, None on an open server."""
    base_url: str = ""
    """The server's public base URL; absolute references below it point to this server."""
    policy: ExportPolicy = ExportPolicy()
    authorizer: FileAuthorizer = ScopeAuthorizer()
    """Decides what the principal may export."""

    @property
    def size(self) -> int:
        """Bytes of the URL and the body; the time of parsing depends on it."""
        return len(self.url) + len(self.body or b"")

    @property
    def intent(self) -> ExportIntent:
        """The export as far as the URL alone describes it."""
        return ExportIntent(tenant=self.tenant, level=self.level, group_id=self.group_id)

    def grant(self, resource_type: str) -> Grant:
        """Return which resources of a type may be exported."""
        if self.principal is None:
            return Grant()
        granted = self.authorizer.grant(self.principal, resource_type)
        return usable(self.fhir_version, resource_type, granted)


class SentParameter(msgspec.Struct, frozen=True):
    """One occurrence of a parameter."""

    name: str
    value: str
    """The decoded value, in the form that it has in a query string."""


def sent_parameters(kickoff: KickoffRequest) -> list[SentParameter]:
    """
    Return the parameters of a kick-off, those of the query string first.

    Raises:
        InvalidRequest: The body is not a Parameters resource.
        InvalidParameter: As in `parse_parameters_resource`.
        TooCostly: There are too many of them.
    """
    sent = [SentParameter(name, value) for name, value in kickoff.query]
    if kickoff.body is not None:
        sent += parse_parameters_resource(kickoff.body)
    _check_number(sent)
    return sent


def _check_number(sent: Sequence[SentParameter]) -> None:
    """
    Refuse what would take too long to parse, and to look up in every shard of the export.

    Raises:
        TooCostly: There are too many parameters, names, patients or values.
    """
    others = [parameter.value for parameter in sent if parameter.name != "patient"]
    patients = sum(1 + p.value.count(",") for p in sent if p.name == "patient")
    values = sum(1 + value.count(",") + value.count("&") for value in others)
    names = len({parameter.name for parameter in sent})
    for number, limit, noun in (
        (len(others), MAX_PARAMETERS, "parameters besides patient"),
        (patients, MAX_PATIENTS, "values of patient"),
        (values, MAX_VALUES, "values, separated by commas and ampersands"),
        (names, MAX_NAMES, "different parameters"),
    ):
        if number > limit:
            raise TooCostly(f"The kick-off has {number} {noun}; send at most {limit}.")


class _Parameters(msgspec.Struct, rename="camel"):
    resource_type: str
    parameter: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])


def parse_parameters_resource(body: bytes) -> list[SentParameter]:
    """
    Parse a Parameters resource (FHIR R4, Parameters).

    Raises:
        InvalidRequest: The body is not a Parameters resource.
        InvalidParameter: An entry has no name, not exactly one value, or a value that its
            parameter does not accept.
    """
    try:
        parameters = msgspec.json.decode(body, type=_Parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = explain_fault(body, error, str(error))
        raise InvalidRequest(
            f"The body is not a Parameters resource in JSON ({fault}); send one, or use GET."
        ) from error
    if parameters.resource_type != "Parameters":
        raise InvalidRequest(
            "The body's resourceType is not Parameters; send a Parameters resource, or use GET."
        )
    return list(_parse_entries(parameters.parameter))


def _parse_entries(entries: Sequence[dict[str, Any]]) -> Iterator[SentParameter]:
    for index, entry in enumerate(entries):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidParameter(f"Entry {index} of the Parameters has no name; add one.")
        kinds = [key for key in entry if key.startswith("value")]
        if len(kinds) != 1:
            raise InvalidParameter(
                f"Parameter {name} (entry {index}) has {len(kinds)} values; send exactly one."
            )
        yield SentParameter(name, _text(name, kinds[0], entry[kinds[0]]))


def _text(name: str, kind: str, value: object) -> str:
    """Return the decoded value, in the form that it has in a query string."""
    kinds = _KINDS.get(name)
    if kinds is None:
        return str(value)
    if kind in kinds:
        if kind == "valueReference":
            value = value.get("reference") if isinstance(value, dict) else None
        if kind == "valueCoding":
            value = value.get("code") if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
        # In Python a bool is an int too, so it is handled first.
        if isinstance(value, bool):
            if kind == "valueBoolean":
                return "true" if value else "false"
        elif isinstance(value, int) and kind in ValueKind.NUMBER.kinds:
            return str(value)
    raise InvalidParameter(
        f"Parameter {name} has a {kind} that cannot be used; send it as {' or '.join(kinds)}."
    )


class ParameterValues:
    """Access to the sent values by the name of their parameter."""

    def __init__(self, sent: Sequence[SentParameter], *, guide: Guide) -> None:
        self._sent = sent
        self._guide = guide

    def names(self) -> list[str]:
        """Return the name of every sent parameter, once each."""
        return list(dict.fromkeys(parameter.name for parameter in self._sent))

    def all(self, name: str) -> list[str]:
        """Return all values of a parameter, in order."""
        return [parameter.value for parameter in self._sent if parameter.name == name]

    def single(self, name: str) -> str | None:
        """
        Return the value of a parameter, or None if it was not sent.

        Raises:
            InvalidParameter: It was sent more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise InvalidParameter(f"{name} is sent {len(values)} times; send it once.")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """
        Return the value of a boolean parameter, or false if it was not sent.

        Raises:
            InvalidParameter: It was sent more than once, or is neither true nor false.
        """
        value = self.single(name)
        if value not in (None, "true", "false"):
            raise InvalidParameter(f"{name} is neither true nor false; send one of them.")
        return value == "true"

    def items(self, name: str) -> list[str]:
        """
        Return the items of all values, split at commas, without blanks and duplicates.

        Raises:
            InvalidParameter: A value contains a comma, and the guide does not allow that.
        """
        if not self._guide.comma_lists and any("," in value for value in self.all(name)):
            raise InvalidParameter(f"{name} contains a comma; repeat it for each value.")
        items = [item.strip() for value in self.all(name) for item in value.split(",")]
        return list(dict.fromkeys(item for item in items if item))

    def type_filters(self) -> list[str]:
        """
        Return the values of `_typeFilter`; each may hold several queries joined by commas.

        Raises:
            InvalidParameter: Queries are joined, and the guide does not allow that.
        """
        values = self.all("_typeFilter")
        joined = any(len(list(split_type_filter(value))) > 1 for value in values)
        if joined and not self._guide.comma_lists:
            raise InvalidParameter("_typeFilter joins queries by a comma; repeat it for each.")
        return values

    def instant(self, name: str, *, round_up: bool) -> datetime | None:
        """
        Return the value of an instant parameter, or None if it was not sent.

        Raises:
            InvalidParameter: It was sent more than once, or is not an instant.
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
        Return a number of bytes, or None if it was not sent or the guide does not define it.

        Raises:
            InvalidParameter: It was sent more than once, or is not a whole number from 1.
        """
        value = self.single(name) if name in self._guide.parameters else None
        if value is None:
            return None
        if not _SIZE.fullmatch(value):
            raise InvalidParameter(f"{name} is not a whole number of bytes from 1; send one.")
        return int(value)
