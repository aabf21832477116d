"""Entries of batches and transactions: the interactions that they request."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, Literal, TypeAlias

import msgspec

from helios_core.errors import InvalidRequest, RequestError, UnsupportedParameter
from helios_core.fhir.bundles import ParsedEntry
from helios_core.interactions.callers import Caller, Interaction, require_type
from helios_core.interactions.changes import ChangeRequest
from helios_core.interactions.conditions import parse_condition, parse_if_match
from helios_core.interactions.search_parameters import ParsedSearch, parse_search

SEGMENTS: Final = {"POST": 1, "PUT": 2, "DELETE": 2, "GET": 2}
"""The number of segments in an entry's URL without a query: the type, and the id."""
CHANGES: Final[dict[str, Literal[Interaction.CREATE, Interaction.UPDATE, Interaction.DELETE]]] = {
    "POST": Interaction.CREATE,
    "PUT": Interaction.UPDATE,
    "DELETE": Interaction.DELETE,
}


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A read that an entry requests."""

    interaction: ClassVar[Interaction] = Interaction.READ
    resource_type: str
    id: str


InteractionRequest: TypeAlias = ReadRequest | ParsedSearch | ChangeRequest
"""What an entry requests; each has an `interaction` and a `resource_type`."""


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
        UnsupportedParameter: It is a PATCH or HEAD, or has a condition or a search parameter that
            is not supported.
        ResourceNotFound: There is no such type.
    """
    method, url = entry.method or "", entry.url or ""
    if method not in SEGMENTS or entry.conditions:
        raise UnsupportedParameter(
            "PATCH, HEAD, ifNoneMatch and ifModifiedSince are not supported in a Bundle; use "
            "POST, PUT, DELETE and GET, with ifMatch and ifNoneExist."
        )
    path, mark, query = url.removeprefix(caller.base).partition("?")
    segments = path.strip("/").split("/")
    if len(segments) != (1 if mark else SEGMENTS[method]) or (mark and method == "POST"):
        form = "[type]" if SEGMENTS[method] == 1 else "[type]/[id] or [type]?[search]"
        raise InvalidRequest(f"the URL of a {method} is {form}.")
    resource_type = require_type(segments[0], caller.fhir_version)
    if entry.if_none_exist is not None:
        if method != "POST":
            raise InvalidRequest("ifNoneExist belongs to a POST.")
        mark, query = "?", entry.if_none_exist
    criteria = parse_condition(query, resource_type, "the search") if mark else None
    resource_id = segments[1] if len(segments) > 1 else ""
    if method != "GET":
        return ChangeRequest(
            interaction=CHANGES[method],
            resource_type=resource_type,
            id=resource_id,
            criteria=criteria,
            body=b"" if method == "DELETE" else entry.resource or b"",
            if_match=parse_if_match(entry.if_match),
        )
    if criteria is None:
        return ReadRequest(resource_type=resource_type, id=resource_id)
    return parse_search(caller, resource_type, criteria, lenient=False)
