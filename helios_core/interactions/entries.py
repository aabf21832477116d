"""Entries of batches and transactions: the interactions that they request."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

import msgspec

from helios_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.preferences import has_no_effect
from helios_core.interactions.callers import Caller, Interaction, require_type
from helios_core.interactions.changes import ChangeInteraction, ChangeRequest
from helios_core.interactions.compartments import (
    ALL_TYPES,
    CompartmentSearch,
    TypesQuery,
    parse_all_types,
    parse_compartment,
    parse_compartment_search,
)
from helios_core.interactions.conditions import parse_condition, parse_if_match
from helios_core.interactions.everything import (
    EVERYTHING,
    PATIENT,
    EverythingRequest,
    parameter_pairs,
    parse_everything,
)
from helios_core.interactions.history import (
    HISTORY_PARAMETERS,
    INSTANCE_HISTORY_PARAMETERS,
    HistoryQuery,
    parse_history,
)
from helios_core.interactions.parameters import Pairs, parse_pairs
from helios_core.interactions.patches import parse_patch_entry
from helios_core.interactions.search_parameters import (
    SUBSET_PARAMETERS,
    ParsedSearch,
    parse_search,
    parse_subset,
)

CHANGES: Final[Mapping[str, ChangeInteraction]] = {
    "POST": Interaction.CREATE,
    "PUT": Interaction.UPDATE,
    "PATCH": Interaction.PATCH,
    "DELETE": Interaction.DELETE,
}
READS: Final = frozenset({"GET", "HEAD"})
_URLS_OF_READS: Final = (
    "the URL of a GET is [type]/[id], [type]/[id]/_history, [type]/[id]/_history/[version], "
    "[type]?[search], [type]/_history, _history, [compartment]/[id]/[type]?[search], "
    "Patient/[id]/$everything or metadata."
)


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A read that an entry requests, of the current or of an earlier version."""

    resource_type: str
    id: str
    version_id: str | None = None
    """None for the current version."""
    elements: frozenset[str] | None = None
    """The root elements to return besides the mandatory ones; None for all."""

    @property
    def interaction(self) -> Interaction:
        """The code of the interaction."""
        return Interaction.READ if self.version_id is None else Interaction.VREAD


class HistoryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A page of versions that an entry requests: of a resource, a type or everything."""

    resource_type: str | None = None
    id: str | None = None
    query: HistoryQuery

    @property
    def interaction(self) -> Interaction:
        """The code of the interaction."""
        if self.resource_type is None:
            return Interaction.HISTORY_SYSTEM
        return Interaction.HISTORY_TYPE if self.id is None else Interaction.HISTORY_INSTANCE

    @property
    def path(self) -> str:
        """The path of the history, relative to the base URL."""
        return "/".join(filter(None, (self.resource_type, self.id, "_history")))


class MetadataRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The CapabilityStatement that an entry requests; it is the same for every caller."""


Retrieval: TypeAlias = (
    ReadRequest
    | HistoryRequest
    | MetadataRequest
    | ParsedSearch
    | CompartmentSearch
    | TypesQuery
    | EverythingRequest
)
"""A request of an entry that changes nothing."""

InteractionRequest: TypeAlias = Retrieval | ChangeRequest


@contextmanager
def naming_entry(index: int) -> Iterator[None]:
    """Prefix a client's error with the index of its entry, from 0."""
    try:
        yield
    except RequestError as error:
        raise type(error)(f"entry {index}: {error}") from error


def parse_entry(caller: Caller, entry: ParsedEntry) -> InteractionRequest:
    """
    Parse the request of an entry.

    Raises:
        InvalidRequest: Its URL does not suit its method, or a value is malformed.
        UnsupportedParameter: It has a condition or a search parameter that is not supported.
        InvalidResource: It is a PATCH without a valid patch.
        ResourceNotFound: There is no such type.
    """
    method = entry.method or ""
    url = (entry.url or "").removeprefix(caller.base)
    path, mark, query = url.partition("?")
    if "\0" in path:
        raise InvalidRequest("the URL has a NUL character.")
    segments = path.strip("/").split("/")
    _check_conditions(method, entry)
    if method in READS:
        return _parse_read(caller, segments, query)
    if method == "POST" and segments[2:] == [EVERYTHING]:
        pairs = parse_pairs(query, "the query of the URL") + parameter_pairs(entry.resource or b"")
        resource_type = require_type(segments[0], caller.fhir_version)
        read = ReadRequest(resource_type=resource_type, id=segments[1])
        return _parse_everything(caller, read, pairs)
    if entry.if_none_exist is not None:
        mark, query = "?", entry.if_none_exist
    length = 1 if mark or method == "POST" else 2
    if len(segments) != length or (method == "POST" and "?" in url):
        form = "[type]" if method == "POST" else "[type]/[id] or [type]?[search]"
        raise InvalidRequest(f"the URL of a {method} is {form}.")
    resource_type = require_type(segments[0], caller.fhir_version)
    return ChangeRequest(
        interaction=CHANGES[method],
        resource_type=resource_type,
        id=segments[1] if length == 2 else "",  # noqa: PLR2004
        criteria=parse_condition(query, resource_type, "the search") if mark else None,
        body=(entry.resource or b"") if method in {"POST", "PUT"} else b"",
        patch=parse_patch_entry(entry.resource or b"") if method == "PATCH" else None,
        if_match=parse_if_match(entry.if_match),
        only_create=entry.if_none_match is not None,
    )


def _check_conditions(method: str, entry: ParsedEntry) -> None:
    if entry.if_none_exist is not None and method != "POST":
        raise InvalidRequest("ifNoneExist belongs to a POST.")
    if entry.if_modified_since is not None:
        raise UnsupportedParameter("ifModifiedSince is not supported; use ifNoneMatch.")
    if entry.if_none_match is not None and method not in READS:
        only_create = method == "PUT" and "?" not in (entry.url or "")
        if not only_create or entry.if_none_match.strip() != "*":
            raise UnsupportedParameter(
                "ifNoneMatch is supported for a GET, and with * for a PUT of [type]/[id]."
            )


def _parse_read(caller: Caller, segments: list[str], query: str) -> Retrieval:
    pairs = parse_pairs(query, "the query of the URL")
    if segments == ["metadata"]:
        return MetadataRequest()
    if segments == ["_history"]:
        _check_names(pairs, HISTORY_PARAMETERS)
        return HistoryRequest(query=parse_history(pairs))
    resource_type = require_type(segments[0], caller.fhir_version)
    match segments[1:]:
        case []:
            return parse_search(caller, resource_type, pairs, lenient=False)
        case ["_history"]:
            _check_names(pairs, HISTORY_PARAMETERS)
            return HistoryRequest(resource_type=resource_type, query=parse_history(pairs))
        case [resource_id]:
            return ReadRequest(
                resource_type=resource_type,
                id=resource_id,
                elements=_subset(caller, resource_type, pairs),
            )
        case [resource_id, *rest]:
            return _parse_read_of_one(
                caller, ReadRequest(resource_type=resource_type, id=resource_id), rest, pairs
            )
    raise InvalidRequest(_URLS_OF_READS)


def _parse_read_of_one(
    caller: Caller, read: ReadRequest, rest: list[str], pairs: Pairs
) -> Retrieval:
    """Parse a read below one resource: of its versions, or of its compartment."""
    match rest:
        case ["_history"]:
            _check_names(pairs, INSTANCE_HISTORY_PARAMETERS)
            return HistoryRequest(
                resource_type=read.resource_type, id=read.id, query=parse_history(pairs)
            )
        case ["_history", version_id]:
            elements = _subset(caller, read.resource_type, pairs)
            return msgspec.structs.replace(read, version_id=version_id, elements=elements)
        case [name] if name == EVERYTHING:
            return _parse_everything(caller, read, pairs)
        case [name] if not name.startswith(("$", "_")):
            return _parse_compartment(caller, read, name, pairs)
    raise InvalidRequest(_URLS_OF_READS)


def _parse_everything(caller: Caller, read: ReadRequest, pairs: Pairs) -> EverythingRequest:
    if read.resource_type != PATIENT:
        raise InvalidRequest(f"{EVERYTHING} is supported for a {PATIENT}.")
    return parse_everything(caller, read.id, _with_effect(pairs))


def _parse_compartment(
    caller: Caller, read: ReadRequest, searched: str, pairs: Pairs
) -> CompartmentSearch | TypesQuery:
    compartment = parse_compartment(caller, read.resource_type, read.id)
    if searched == ALL_TYPES:
        return parse_all_types(caller, compartment, _with_effect(pairs))
    resource_type = require_type(searched, caller.fhir_version)
    return parse_compartment_search(caller, compartment, resource_type, pairs, lenient=False)


def _subset(caller: Caller, resource_type: str, pairs: Pairs) -> frozenset[str] | None:
    _check_names(pairs, SUBSET_PARAMETERS)
    return parse_subset(caller.fhir_version, resource_type, pairs)


def _with_effect(pairs: Pairs) -> Pairs:
    return [pair for pair in pairs if not has_no_effect(pair[0])]


def _check_names(pairs: Pairs, known: Collection[str] = ()) -> None:
    if any(name not in known and not has_no_effect(name) for name, _ in pairs):
        raise UnsupportedParameter(
            f"a parameter is not supported here; supported: {', '.join(sorted(known)) or 'none'}."
        )
