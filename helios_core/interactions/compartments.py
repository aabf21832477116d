"""
Search-compartment: resources about a patient, an encounter and so on (FHIR R4, http.html#vsearch).

Resources in a compartment are found by the search parameters that the CompartmentDefinition names.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from helios_core.errors import InvalidParameter, ResourceNotFound, UnsupportedParameter
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.search import Filter, compile_query
from helios_core.fhir.search.filters import (
    Condition,
    all_conditions,
    any_condition,
    make_filter,
)
from helios_core.interactions.callers import Caller, Interaction, authorize, may
from helios_core.interactions.chains import resolve_chains
from helios_core.interactions.parameters import Pairs, parse_count, single_value
from helios_core.interactions.search import SearchResult, search_type
from helios_core.interactions.search_parameters import ParsedSearch, parse_criteria, parse_search
from helios_core.storage.data_provider import (
    PAGE_BYTES,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.resource_keys import TypeKey

ALL_TYPES: Final = "*"
"""In a path, every type of a compartment."""

_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_AFTER: Final = re.compile(r"([A-Za-z]{1,64})\.(.{0,200})", re.ASCII)


class Compartment(msgspec.Struct, frozen=True):
    """The compartment of a resource: that resource, and those about it."""

    type: str
    id: str

    @property
    def path(self) -> str:
        """The path of the resource, relative to the base URL."""
        return f"{self.type}/{self.id}"


class CompartmentSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A search of one type within a compartment."""

    compartment: Compartment
    search: ParsedSearch

    @property
    def path(self) -> str:
        """The path of the search, relative to the base URL."""
        return f"{self.compartment.path}/{self.search.resource_type}"


class TypesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A search of several types, whose pages go from type to type."""

    path: str
    """The path of the search, relative to the base URL."""
    parameters: tuple[tuple[str, str], ...]
    """The parameters of links to pages, without `_after`."""
    filters: tuple[Filter, ...]
    """One for each type, in the order of the pages."""
    count: int
    after: str | None = None
    """Where the page begins: the `next` of the page before; None for the first page."""


class TypesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a search of several types."""

    matches: Sequence[StoredVersion]
    next: str | None
    """The `_after` of the next page; None on the last one."""


def parse_compartment(caller: Caller, compartment_type: str, resource_id: str) -> Compartment:
    """
    Return a compartment, whether or not there is a resource with that id.

    Raises:
        ResourceNotFound: The FHIR version has no such compartment, or the id is not one.
    """
    if compartment_type not in load_definitions(caller.fhir_version).compartments:
        raise ResourceNotFound(
            f"{compartment_type[:64]!r} has no compartment in FHIR {caller.fhir_version}."
        )
    if not _ID.fullmatch(resource_id):
        raise ResourceNotFound(
            "There is no such compartment; an id has 1 to 64 letters, digits, hyphens and dots."
        )
    return Compartment(compartment_type, resource_id)


def compartment_condition(
    caller: Caller, compartment: Compartment, resource_type: str
) -> Condition | None:
    """Return the condition that a resource is in a compartment, None if its type never is."""
    version = caller.fhir_version
    codes = load_definitions(version).compartments[compartment.type].get(resource_type, ())
    pairs = [(f"{code}:{compartment.type}", compartment.id) for code in codes]
    if resource_type == compartment.type:
        pairs.append(("_id", compartment.id))
    conditions = list[Condition]()
    for pair in pairs:
        try:
            query = compile_query(version, resource_type, [pair], base_urls=(caller.base,))
        except UnsupportedParameter:
            continue  # the drafts of R6 name parameters that they do not define
        conditions.append(query.condition)
    return any_condition(conditions) if conditions else None


def parse_compartment_search(
    caller: Caller, compartment: Compartment, resource_type: str, pairs: Pairs, *, lenient: bool
) -> CompartmentSearch:
    """
    Parse a search of one type within a compartment, like `parse_search`.

    Raises:
        ResourceNotFound: No resource of the type can be in the compartment.
    """
    condition = compartment_condition(caller, compartment, resource_type)
    if condition is None:
        raise ResourceNotFound(
            f"{resource_type} is in no compartment of a {compartment.type} in FHIR "
            f"{caller.fhir_version}; search it by its own parameters."
        )
    search = parse_search(caller, resource_type, pairs, lenient=lenient)
    filter_ = make_filter(resource_type, all_conditions([condition, search.filter.condition]))
    return CompartmentSearch(
        compartment=compartment, search=msgspec.structs.replace(search, filter=filter_)
    )


def parse_all_types(caller: Caller, compartment: Compartment, pairs: Pairs) -> TypesQuery:
    """
    Parse a search of all types within a compartment.

    Raises:
        InvalidParameter: A value is malformed.
        UnsupportedParameter: A parameter is not one that every type has.
    """
    criteria = [pair for pair in pairs if pair[0] not in ("_count", "_after")]
    if any(name == "_type" for name, _ in criteria):
        raise UnsupportedParameter(
            f"_type is not supported here; search one type, as in {compartment.path}/[type]."
        )
    parse_criteria(caller, "Basic", criteria)  # it has only the parameters that every type has
    filters = list[Filter]()
    for resource_type in compartment_types(caller, compartment.type):
        condition = compartment_condition(caller, compartment, resource_type)
        if condition is not None:
            searched = parse_criteria(caller, resource_type, criteria).condition
            filters.append(make_filter(resource_type, all_conditions([condition, searched])))
    count = parse_count(pairs)
    return TypesQuery(
        path=f"{compartment.path}/{ALL_TYPES}",
        parameters=(*criteria, ("_count", str(count))),
        filters=tuple(filters),
        count=count,
        after=single_value(pairs, "_after"),
    )


def compartment_types(caller: Caller, compartment_type: str) -> list[str]:
    """Return the types that can be in a compartment, its own first."""
    types = load_definitions(caller.fhir_version).compartment_types(compartment_type)
    return [compartment_type, *sorted(types - {compartment_type})]


async def search_compartment(
    provider: SupportsSearch, caller: Caller, request: CompartmentSearch, *, max_bytes: int
) -> SearchResult:
    """
    Return a page of the resources of one type that match within a compartment.

    Raises:
        InvalidParameter: `_after` does not come from a page of this search.
        TooCostly: It has too many chains, or one of them matches too many resources.
    """
    authorize(caller, Interaction.SEARCH_COMPARTMENT, request.search.resource_type)
    return await search_type(provider, caller, request.search, max_bytes=max_bytes)


async def search_all_types(
    provider: SupportsSearch, caller: Caller, query: TypesQuery
) -> TypesPage:
    """
    Return a page of the resources within a compartment, of the types that the client may search.

    Raises:
        InvalidParameter: `_after` does not come from a page of this search.
    """
    return await search_types(provider, caller, query, Interaction.SEARCH_COMPARTMENT)


async def search_types(
    provider: SupportsSearch, caller: Caller, query: TypesQuery, interaction: Interaction
) -> TypesPage:
    """
    Return a page of the resources of several types: those that the client may interact with.

    A page ends when it is full or has `PAGE_BYTES` bytes.

    Raises:
        InvalidParameter: `after` does not come from a page of this search.
    """
    first, token = _parse_after(query)
    found, size = list[StoredVersion](), 0
    for filter_ in query.filters[first:]:
        if not may(caller, interaction, filter_.resource_type):
            continue
        resolved = SearchQuery(filter=await resolve_chains(provider, caller, filter_))
        key = TypeKey.of(caller, filter_.resource_type)
        while True:
            full = len(found) >= query.count or size >= PAGE_BYTES
            # A full page still needs to know whether there is a next one.
            count = 1 if full else query.count - len(found)
            bounded = replace(resolved, max_bytes=max(1, PAGE_BYTES - size))
            page = await provider.search(key, bounded, count=count, after=token or None)
            if full:
                if page.resources:
                    return TypesPage(matches=found, next=f"{filter_.resource_type}.{token}")
            else:
                found += page.resources
                size += sum(len(stored.content or b"") for stored in page.resources)
            token = page.next or ""
            if not token:
                break
    return TypesPage(matches=found, next=None)


def _parse_after(query: TypesQuery) -> tuple[int, str]:
    """Return the index of the filter with which a page begins, and the token within its type."""
    if query.after is None:
        return 0, ""
    match = _AFTER.fullmatch(query.after)
    types = [filter_.resource_type for filter_ in query.filters]
    if match is None or match[1] not in types:
        raise InvalidParameter("_after is not from a link of this search; start again without it.")
    return types.index(match[1]), match[2]
