"""Entries of batches and transactions: the interactions that they request."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final, TypeAlias

import msgspec

from helios_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.interactions.callers import Caller, Interaction, require_type
from helios_core.interactions.changes import ChangeInteraction, ChangeRequest
from helios_core.interactions.conditions import parse_condition, parse_if_match
from helios_core.interactions.history import HISTORY_PARAMETERS, HistoryQuery, parse_history
from helios_core.interactions.parameters import Pairs, parse_pairs
from helios_core.interactions.patches import parse_patch_entry
from helios_core.interactions.search_parameters import ParsedSearch, parse_search

CHANGES: Final[Mapping[str, ChangeInteraction]] = {
    "POST": Interaction.CREATE,
    "PUT": Interaction.UPDATE,
    "PATCH": Interaction.PATCH,
    "DELETE": Interaction.DELETE,
}
READS: Final = frozenset({"GET", "HEAD"})


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A read that an entry requests, of the current or of an earlier version."""

    resource_type: str
    id: str
    version_id: str | None = None
    """None for the current version."""

    @property
    def interaction(self) -> Interaction:
        """The code of the interaction."""
        return Interaction.READ if self.version_id is None else Interaction.VREAD


class HistoryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the versions of one resource that an entry requests."""

    interaction: ClassVar[Interaction] = Interaction.HISTORY_INSTANCE
    resource_type: str
    id: str
    query: HistoryQuery


class MetadataRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The CapabilityStatement that an entry requests; it is the same for every caller."""


InteractionRequest: TypeAlias = (
    ReadRequest | HistoryRequest | MetadataRequest | ParsedSearch | ChangeRequest
)
"""What an entry requests; all but the metadata have an `interaction` and a `resource_type`."""


@contextmanager
def naming_entry(index: int) -> Iterator[None]:
    """Make a client's error say which entry is at fault; entries count from 0."""
    try:
        yield
    except RequestError as error:
        raise type(error)(f"entry {index}: {error}") from error


def parse_entry(caller: Caller, entry: ParsedEntry) -> InteractionRequest:
    """
    Parse the request of an entry.

    Raises:
        InvalidRequest: Its URL is not what its method needs, or a value is malformed.
        UnsupportedParameter: It has a condition or a search parameter that is not supported.
        InvalidResource: It is a PATCH without a valid patch.
        ResourceNotFound: There is no such type.
    """
    method = entry.method or ""
    url = (entry.url or "").removeprefix(caller.base)
    path, mark, query = url.partition("?")
    segments = path.strip("/").split("/")
    _check_conditions(method, entry)
    if method in READS:
        return _parse_read(caller, segments, query)
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


def _parse_read(caller: Caller, segments: list[str], query: str) -> InteractionRequest:
    pairs = parse_pairs(query, "the query of the URL")
    if segments == ["metadata"]:
        return MetadataRequest()
    resource_type = require_type(segments[0], caller.fhir_version)
    match segments[1:]:
        case []:
            return parse_search(caller, resource_type, pairs, lenient=False)
        case [resource_id]:
            _check_names(pairs)
            return ReadRequest(resource_type=resource_type, id=resource_id)
        case [resource_id, "_history"]:
            _check_names(pairs, HISTORY_PARAMETERS)
            return HistoryRequest(
                resource_type=resource_type, id=resource_id, query=parse_history(pairs)
            )
        case [resource_id, "_history", version_id]:
            _check_names(pairs)
            return ReadRequest(resource_type=resource_type, id=resource_id, version_id=version_id)
    raise InvalidRequest(
        "the URL of a GET is [type]/[id], [type]/[id]/_history, [type]/[id]/_history/[version], "
        "[type]?[search] or metadata."
    )


def _check_names(pairs: Pairs, known: Collection[str] = ()) -> None:
    if {name for name, _ in pairs} - PRESENTATION_PARAMETERS - set(known):
        raise UnsupportedParameter(
            f"a parameter is not supported here; supported: {', '.join(sorted(known)) or 'none'}."
        )
