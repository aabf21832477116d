"""What is shown beside the matches of a search because one refers to the other."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
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
from helios_core.interactions.callers import Caller
from helios_core.interactions.chains import search_all
from helios_core.storage.data_provider import SearchQuery, StoredVersion, SupportsSearch

MAX_INCLUDED: Final = 1000
"""How many resources one page may have beside its matches."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""How many bytes of them, so that large ones do not pile up."""
AT_A_TIME: Final = 200
"""How many ids one query names."""


class Include(msgspec.Struct, frozen=True, kw_only=True):
    """One `_include` or `_revinclude`."""

    source: str
    """The type that refers."""
    parameter: CompiledParameter
    """By which of its parameters."""
    targets: tuple[str, ...]
    """The types referred to."""
    reverse: bool
    """Whether those that refer to the matches are shown, not those that matches refer to."""


def parse_include(version: FHIRVersion, searched: str, name: str, value: str) -> Include:
    """
    Give the meaning of an `_include` or `_revinclude`: `Type:parameter` or `Type:parameter:Type`.

    Raises:
        InvalidParameter: The value is not of that form, or names no type.
        UnsupportedParameter: There is no such reference to or from the type searched.
    """
    source, *rest = value.split(":")
    if len(rest) not in (1, 2) or not all(value.split(":")):
        raise InvalidParameter(f"{name}: expected Type:parameter or Type:parameter:TargetType.")
    reverse = name == "_revinclude"
    if not reverse and source != searched:
        raise UnsupportedParameter(
            f"{name}: only references of the type searched are followed, {searched}:parameter."
        )
    found = find_parameter(version, source, rest[0])
    types = reference_types(version, found)
    targets = tuple(each for each in types if rest[1:] in ([], [each]))
    if not targets or (reverse and searched not in targets):
        raise UnsupportedParameter(
            f"{name}: {found.code} of {source} is no reference to "
            f"{searched if reverse else 'a resource'}, or not to that type."
        )
    return Include(
        source=source,
        parameter=found,
        targets=(searched,) if reverse else targets,
        reverse=reverse,
    )


async def find_included(
    provider: SupportsSearch,
    caller: Caller,
    includes: Sequence[Include],
    matches: Sequence[StoredVersion],
) -> tuple[list[StoredVersion], bool]:
    """Give what belongs beside matches, each resource once, and whether it was too much."""
    shown = {_key(match) for match in matches}
    beside: list[StoredVersion] = []
    room = MOST_BYTES
    async with aclosing(_candidates(provider, caller, includes, matches)) as candidates:
        async for stored in candidates:
            if _key(stored) in shown:
                continue
            if len(beside) == MAX_INCLUDED or room <= 0:
                return beside, True
            shown.add(_key(stored))
            beside.append(stored)
            room -= len(stored.content or b"")
    return beside, False


async def _candidates(
    provider: SupportsSearch,
    caller: Caller,
    includes: Sequence[Include],
    matches: Sequence[StoredVersion],
) -> AsyncGenerator[StoredVersion]:
    for include in includes:
        for query in _queries(caller, include, matches):
            async with aclosing(search_all(provider, caller, query)) as found:
                async for stored in found:
                    yield stored


def _queries(
    caller: Caller, include: Include, matches: Sequence[StoredVersion]
) -> Iterator[SearchQuery]:
    if include.reverse:
        sources = (f"{each.resource_type}/{each.id}" for each in matches)
        yield from _naming(caller, include.source, include.parameter.code, sources)
        return
    ids: dict[str, dict[str, None]] = {target: {} for target in include.targets}
    for resource_type, resource_id in _referred_to(caller, include, matches):
        if resource_type in ids:
            ids[resource_type][resource_id] = None
    for resource_type, wanted in ids.items():
        yield from _naming(caller, resource_type, "_id", wanted)


def _naming(
    caller: Caller, resource_type: str, code: str, values: Iterable[str]
) -> Iterator[SearchQuery]:
    """Give the queries for resources whose parameter has one of these values."""
    wanted = list(values)
    for start in range(0, len(wanted), AT_A_TIME):
        pairs = [(code, ",".join(wanted[start : start + AT_A_TIME]))]
        yield SearchQuery(
            filter=compile_query(
                caller.fhir_version, resource_type, pairs, base_urls=(caller.base,)
            )
        )


def _referred_to(
    caller: Caller, include: Include, matches: Sequence[StoredVersion]
) -> Iterator[tuple[str, str]]:
    decode = make_decoder(include.parameter.elements)
    for match in matches:
        leaves: list[Any] = []
        for path in include.parameter.paths:
            path.collect(decode(match.content or b""), leaves)
        for leaf in leaves:
            target = split_reference(reference_text(leaf) or "", (caller.base,))
            if target is not None:
                yield target


def _key(stored: StoredVersion) -> tuple[str, str]:
    return stored.resource_type, stored.id
