"""The kick-off request of a client: its URL and parameters, for GET and for POST."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from helios_core.errors import ConfigurationError
from helios_core.model.exports import Level

OPERATION = "$export"
_LISTS = frozenset({"_type", "_elements", "includeAssociatedData"})
"""Parameters that have several values, joined by commas in a query."""
_INSTANTS = frozenset({"_since", "_until"})


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to export, and from which server (Bulk Data 2.0.0, Bulk Data Kick-off Request)."""

    base_url: str
    level: Level = Level.SYSTEM
    group_id: str | None = None
    types: Sequence[str] = ()
    """Resource types; empty for all."""
    since: str | None = None
    until: str | None = None
    type_filters: Sequence[str] = ()
    """Searches, `Type?parameter=value`."""
    elements: Sequence[str] = ()
    patients: Sequence[str] = ()
    """Ids or references of Patients; with them the kick-off is a POST."""
    associated: Sequence[str] = ()
    organize_by: str | None = None
    query: str = ""
    """Further parameters, encoded as in a URL; a GET sends them unchanged."""
    headers: Mapping[str, str] = {}
    """Headers of every request to the server itself, for example X-Tenant-ID."""

    @property
    def url(self) -> str:
        """The kick-off URL without its query."""
        folders = {Level.SYSTEM: "", Level.PATIENT: "Patient/"}
        folder = folders.get(self.level, f"Group/{quote(self.group_id or '', safe='')}/")
        return f"{self.base_url.rstrip('/')}/{folder}{OPERATION}"

    @property
    def get_url(self) -> str:
        """The kick-off URL of a GET."""
        joined = dict[str, str]()
        repeated = list[tuple[str, str]]()
        for name, value in self._own:
            if name in _LISTS and name in joined:
                joined[name] += f",{value}"
            elif name == "_typeFilter":
                repeated.append((name, value))
            else:
                joined[name] = value
        query = "&".join(filter(None, (self.query, urlencode([*joined.items(), *repeated]))))
        return f"{self.url}?{query}" if query else self.url

    @property
    def needs_post(self) -> bool:
        """Whether the request cannot be sent as a GET."""
        return bool(self.patients)

    @property
    def parameters(self) -> dict[str, Any]:
        """The kick-off parameters as a FHIR resource, one entry for each value."""
        named = [*parse_qsl(self.query, keep_blank_values=True), *self._own]
        entries = [
            _entry(name, part)
            for name, value in named
            for part in (value.split(",") if name in _LISTS else [value])
        ]
        return {"resourceType": "Parameters", "parameter": entries}

    @property
    def _own(self) -> list[tuple[str, str]]:
        """The parameters from the fields, one for each value, in a fixed order."""
        lists = [
            ("_type", self.types),
            ("_since", [self.since]),
            ("_until", [self.until]),
            ("_typeFilter", self.type_filters),
            ("_elements", self.elements),
            ("patient", self.patients),
            ("includeAssociatedData", self.associated),
            ("organizeOutputBy", [self.organize_by]),
        ]
        return [(name, value) for name, values in lists for value in values if value]


def read_url(text: str) -> ClientRequest:
    """
    Return the request for a URL: the base URL of a server, or a complete kick-off URL.

    Raises:
        ConfigurationError: It is neither; the message has the URL that was probably meant.
    """
    url = _split(text)
    if url.username is not None or url.password is not None:
        raise ConfigurationError(
            "the address has a user or password in it, which would be shown and stored; send it "
            "with --header 'Authorization: Basic …' or --token-file"
        )
    folder, _, last = url.path.rstrip("/").rpartition("/")
    base = f"{url.scheme}://{url.netloc}"
    if unquote(last) == OPERATION:
        return msgspec.structs.replace(_at_level(f"{base}{folder}"), query=url.query)
    if url.query or url.fragment or unquote(last).startswith("$"):
        is_operation = unquote(last).startswith("$")
        path = folder if is_operation else url.path.rstrip("/")
        meant = f"{base}{path}/{OPERATION}" + (f"?{url.query}" if url.query else "")
        problem = "another operation" if is_operation else "a query without $export"
        raise ConfigurationError(
            f"the address has {problem}. Expected: the base of a server or a kick-off URL, in "
            f"single quotes because of the dollar sign: helios export '{meant}' --to FOLDER"
        )
    return ClientRequest(base_url=text.rstrip("/"))


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return url
    except ValueError:
        pass
    raise ConfigurationError(f"{text!r} is not an http or https address")


def repeated_parameters(request: ClientRequest) -> list[str]:
    """Return the names of parameters that are both in the query of a request and in its fields."""
    queried = {name for name, _ in parse_qsl(request.query, keep_blank_values=True)}
    own = msgspec.structs.replace(request, query="")
    return sorted(queried & {entry["name"] for entry in own.parameters["parameter"]})


def _at_level(base: str) -> ClientRequest:
    """Return the request whose level is that of a URL without `/$export`."""
    folder, _, last = base.rpartition("/")
    if last == "Patient":
        return ClientRequest(base_url=folder, level=Level.PATIENT)
    before, _, kind = folder.rpartition("/")
    if kind == "Group":
        return ClientRequest(base_url=before, level=Level.GROUP, group_id=unquote(last))
    return ClientRequest(base_url=base)


def _entry(name: str, value: str) -> dict[str, Any]:
    if name in _INSTANTS:
        # A plus sign that was not escaped in a URL has become a space.
        return {"name": name, "valueInstant": value.replace(" ", "+")}
    if name == "patient":
        reference = value if "/" in value else f"Patient/{value}"
        return {"name": name, "valueReference": {"reference": reference}}
    return {"name": name, "valueString": value}
