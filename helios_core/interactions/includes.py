"""_include and _revinclude: resources that matches refer to, or that refer to matches."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.references import split_reference
from helios_core.fhir.search import compile_query
from helios_core.fhir.search.filters import make_decoder
from helios_core.fhir.search.parameters import CompiledParameter, find_parameter
from helios_core.fhir.search.queries import reference_types
from helios_core.fhir.search.references import reference_text
from helios_core.interactions.callers import Caller, Interaction, may
from helios_core.interactions.chains import search_all
from helios_core.storage.data_provider import SearchQuery, StoredVersion, SupportsSearch

MAX_INCLUDED: Final = 1000
"""The number of resources that one page may include."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""The number of bytes of included resources at which no more are added to a page."""
IDS_PER_QUERY: Final = 200


class Include(msgspec.Struct, frozen=True, kw_only=True):
    """One `_include` or `_revinclude`."""

    source: str
    """The type that refers."""
    parameter: CompiledParameter
    """The parameter of that type that holds the references."""
    targets: tuple[str, ...]
    """The types referred to."""
    reverse: bool
    """Whether it includes what refers to the matches, not what the matches refer to."""


def parse_include(version: FHIRVersion, searched: str, name: str, value: str) -> Include:
    """
    Parse the value of `_include` or `_revinclude`: `Type:parameter` or `Type:parameter:Type`.

    Raises:
        InvalidParameter: The value is not of that form, or names no type.
        UnsupportedParameter: There is no such reference from or to the searched type.
    """
    source, *rest = value.split(":")
    if len(rest) not in (1, 2) or not all(value.split(":")):
        raise InvalidParameter(f"{name}: expected Type:parameter or Type:parameter:TargetType.")
    reverse = name == "_revinclude"
    if not reverse and source != searched:
        raise UnsupportedParameter(
            f"{name}: only references of the searched type are followed, {searched}:parameter."
        )
    parameter = find_parameter(version, source, rest[0])
    types = reference_types(version, parameter)
    targets = tuple(target for target in types if rest[1:] in ([], [target]))
    if not targets or (reverse and searched not in targets):
        raise UnsupportedParameter(
            f"{name}: {parameter.code} of {source} is no reference to "
            f"{searched if reverse else 'a resource'}, or not to that type."
        )
    return Include(
        source=source,
        parameter=parameter,
        targets=(searched,) if reverse else targets,
        reverse=reverse,
    )


async def find_included(
    provider: SupportsSearch,
    caller: Caller,
    includes: Sequence[Include],
    matches: Sequence[StoredVersion],
) -> tuple[list[StoredVersion], bool]:
    """
    Return the resources to include with matches, each once, and whether some were left out.

    They are left out beyond `MAX_INCLUDED` resources or `MAX_BYTES` bytes. What the client may not
    read is not included, as if it were not there.
    """
    seen = {_type_and_id(match) for match in matches}
    included: list[StoredVersion] = []
    size = 0
    async with aclosing(_candidates(provider, caller, includes, matches)) as candidates:
        async for stored in candidates:
            if _type_and_id(stored) in seen:
                continue
            if len(included) == MAX_INCLUDED or size >= MAX_BYTES:
                return included, True
            seen.add(_type_and_id(stored))
            included.append(stored)
            size += len(stored.content or b"")
    return included, False


async def _candidates(
    provider: SupportsSearch,
    caller: Caller,
    includes: Sequence[Include],
    matches: Sequence[StoredVersion],
) -> AsyncGenerator[StoredVersion]:
    for include in includes:
        if include.reverse and not may(caller, Interaction.READ, include.source):
            continue
        for query in _queries(caller, include, matches):
            async with aclosing(search_all(provider, caller, query)) as resources:
                async for stored in resources:
                    yield stored


def _queries(
    caller: Caller, include: Include, matches: Sequence[StoredVersion]
) -> Iterator[SearchQuery]:
    if include.reverse:
        references = (f"{match.resource_type}/{match.id}" for match in matches)
        yield from _value_queries(caller, include.source, include.parameter.code, references)
        return
    ids: dict[str, dict[str, None]] = {target: {} for target in include.targets}
    for resource_type, resource_id in _targets(caller, include, matches):
        if resource_type in ids:
            ids[resource_type][resource_id] = None
    for resource_type, type_ids in ids.items():
        if not may(caller, Interaction.READ, resource_type):
            continue
        yield from _value_queries(caller, resource_type, "_id", type_ids)


def _value_queries(
    caller: Caller, resource_type: str, code: str, values: Iterable[str]
) -> Iterator[SearchQuery]:
    """Yield the queries for resources whose parameter has one of these values."""
    remaining = iter(values)
    while batch := list(islice(remaining, IDS_PER_QUERY)):
        pairs = [(code, ",".join(batch))]
        yield SearchQuery(
            filter=compile_query(
                caller.fhir_version, resource_type, pairs, base_urls=(caller.base,)
            )
        )


def _targets(
    caller: Caller, include: Include, matches: Sequence[StoredVersion]
) -> Iterator[tuple[str, str]]:
    """Yield type and id of what the matches refer to on this server."""
    decode = make_decoder(include.parameter.elements)
    for match in matches:
        leaves: list[Any] = []
        for path in include.parameter.paths:
            path.collect(decode(match.content or b""), leaves)
        for leaf in leaves:
            target = split_reference(reference_text(leaf) or "", (caller.base,))
            if target is not None:
                yield target


def _type_and_id(stored: StoredVersion) -> tuple[str, str]:
    return stored.resource_type, stored.id
