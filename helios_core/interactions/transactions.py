"""The entries of a batch or transaction: what each asks for, and the change that makes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import uuid4

import msgspec

from helios_core.errors import InvalidRequest, InvalidResource, RequestError, UnsupportedParameter
from helios_core.fhir.bundles import ParsedEntry
from helios_core.fhir.references import replace_conditional, replace_temporary
from helios_core.fhir.resources import parse_resource
from helios_core.interactions.callers import Caller, require_type
from helios_core.interactions.conditions import (
    Conditions,
    parse_condition,
    parse_if_match,
    require_same_version,
)
from helios_core.interactions.search import Pairs, ParsedSearch, parse_search
from helios_core.storage.data_provider import Delete, Put, StoredVersion

PLACES: Final = {"POST": 1, "PUT": 2, "DELETE": 2, "GET": 2}
"""How many segments the URL of a request has, by method: the type, and the id."""


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, understood."""

    index: int
    method: str
    resource_type: str
    id: str
    """Until the condition is settled, that of what would be created."""
    entry: ParsedEntry
    criteria: Pairs | None = None
    """The search that says which resource is meant, or for a GET the search to answer."""
    search: ParsedSearch | None = None
    """The search to answer, once it is understood."""
    version: int | None = None
    """That of what matches the condition, 0 where nothing does."""
    match: StoredVersion | None = None
    """What a conditional create found in place of what it would have created."""
    idle: bool = False
    """Whether there is nothing to change."""

    @property
    def conditional(self) -> bool:
        """Whether it is a change on a condition."""
        return self.criteria is not None and self.method != "GET"

    @property
    def changing(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET" and not self.idle


class ResolvedReferences(msgspec.Struct, frozen=True, kw_only=True):
    """What references in a transaction mean: `Type/id` by what stands for it."""

    temporary: Mapping[str, str]
    """By the fullUrl of an entry."""
    conditional: Mapping[str, str]
    """By a reference that is a search."""


@contextmanager
def naming_entry(step: ParsedRequest) -> Iterator[None]:
    """Let an error of the client's say which entry is at fault."""
    try:
        yield
    except RequestError as error:
        raise type(error)(f"entry {step.index}: {error}") from error


def parse_request(caller: Caller, index: int, entry: ParsedEntry) -> ParsedRequest:
    """
    Give the meaning of an entry's request.

    Raises:
        InvalidRequest: Its URL is not what its method needs.
        UnsupportedParameter: It is a PATCH, or has a condition that is not served.
        ResourceNotFound: Its type does not exist.
    """
    method, url = entry.method or "", entry.url or ""
    if method not in PLACES or entry.conditions:
        raise UnsupportedParameter(
            f"entry {index}: PATCH, HEAD, ifNoneMatch and ifModifiedSince are not served in a "
            "Bundle; use POST, PUT, DELETE and GET, with ifMatch and ifNoneExist."
        )
    path, mark, query = url.removeprefix(caller.base).partition("?")
    segments = path.strip("/").split("/")
    if len(segments) != (1 if mark else PLACES[method]) or (mark and method == "POST"):
        form = "[type]" if PLACES[method] == 1 else "[type]/[id] or [type]?[search]"
        raise InvalidRequest(f"entry {index}: the URL of a {method} is {form}.")
    resource_type = require_type(segments[0], caller.fhir_version)
    where = f"The search of entry {index}"
    if entry.if_none_exist is not None:
        if method != "POST":
            raise InvalidRequest(f"entry {index}: ifNoneExist belongs to a POST.")
        mark, query = "?", entry.if_none_exist
    return ParsedRequest(
        index=index,
        method=method,
        resource_type=resource_type,
        id=segments[1] if len(segments) > 1 else str(uuid4()),
        entry=entry,
        criteria=parse_condition(query, resource_type, where) if mark else None,
    )


async def resolve_request(
    caller: Caller, step: ParsedRequest, conditions: Conditions | None
) -> ParsedRequest:
    """
    Give a step that knows which resource it is about, or what search it asks for.

    Raises:
        RequestError: Its search is at fault, and the message says which entry that is.
    """
    if step.criteria is None:
        return step
    with naming_entry(step):
        found = require_search(conditions)
        if step.method == "GET":
            asked = parse_search(caller, step.resource_type, step.criteria, lenient=False)
            return msgspec.structs.replace(step, search=asked)
        if step.method == "PUT":
            resource_id, version = await found.place(
                caller, step.resource_type, step.criteria, step.entry.resource or b""
            )
            return msgspec.structs.replace(step, id=resource_id, version=version)
        if step.method == "POST":
            vacant = await found.match_or_vacancy(caller, step.resource_type, step.criteria)
            if not isinstance(vacant, StoredVersion):
                return msgspec.structs.replace(step, id=vacant.id, version=vacant.version)
            match: StoredVersion | None = vacant
        else:
            match = await found.match(caller, step.resource_type, step.criteria)
    if match is None:
        return msgspec.structs.replace(step, idle=True)
    return msgspec.structs.replace(
        step, id=match.id, version=match.version_id, match=match, idle=step.method == "POST"
    )


def require_search(conditions: Conditions | None) -> Conditions:
    """
    Give conditions back after making sure that they are served.

    Raises:
        UnsupportedParameter: The storage cannot be searched.
    """
    if conditions is None:
        raise UnsupportedParameter(
            "Conditions and searches are not served, because this storage cannot be searched."
        )
    return conditions


def to_change(
    caller: Caller, step: ParsedRequest, places: ResolvedReferences | None
) -> Put | Delete:
    """
    Give the change an entry asks for, its references replaced by real ones.

    Without `places` references stay, as in a batch, whose entries must not refer to each other.

    Raises:
        RequestError: The entry is at fault, and the message says which.
    """
    with naming_entry(step):
        if_match = parse_if_match(step.entry.if_match)
        if step.conditional:
            if_match = require_same_version(step.version, if_match)
        if step.method == "DELETE":
            return Delete(resource_type=step.resource_type, id=step.id, if_match=if_match)
        body = step.entry.resource or b""
        if places is not None:
            body = _resolved(body, places)
        resource = parse_resource(
            body,
            caller.fhir_version,
            resource_type=step.resource_type,
            resource_id=step.id if step.method == "PUT" else None,
            assigned_id=step.id if step.method == "POST" else None,
            base_urls=(caller.base,),
        )
        return Put(resource=resource, if_match=if_match)


def _resolved(body: bytes, places: ResolvedReferences) -> bytes:
    body, unresolved = replace_temporary(body, places.temporary)
    if unresolved:
        raise InvalidResource(
            f"{len(unresolved)} temporary references (urn:) are the fullUrl of no entry with a "
            "resource; send what they mean in the same transaction."
        )
    return replace_conditional(body, places.conditional)


def check_distinct_targets(steps: Sequence[ParsedRequest]) -> None:
    """
    Make sure that a transaction changes no resource twice (FHIR R4, http.html#trules).

    Raises:
        InvalidRequest: Two entries are about one resource, or would create it on one condition.
    """
    changing = [step for step in steps if step.changing]
    _check_distinct(((step.resource_type, step.id), step) for step in changing)
    _check_distinct(
        ((step.resource_type, *sorted(step.criteria or ())), step)
        for step in changing
        if step.conditional and not step.version
    )


def _check_distinct(steps: Iterable[tuple[object, ParsedRequest]]) -> None:
    seen = dict[object, int]()
    for key, step in steps:
        first = seen.setdefault(key, step.index)
        if first != step.index:
            raise InvalidRequest(
                f"entries {first} and {step.index} change the same resource; a transaction may do "
                "that once."
            )
