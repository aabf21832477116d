"""_include and _revinclude: resources that matches refer to, or that refer to matches."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

import msgspec

from helios_core.errors import InvalidParameter, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.references import split_reference
from helios_core.fhir.search import Filter, any_filter, compile_query
from helios_core.fhir.search.filters import make_decoder
from helios_core.fhir.search.parameters import (
    CompiledParameter,
    compiled_parameters,
    find_parameter,
)
from helios_core.fhir.search.queries import reference_types
from helios_core.fhir.search.references import reference_text
from helios_core.interactions.callers import Caller, Interaction, may
from helios_core.interactions.chains import search_all
from helios_core.storage.data_provider import SearchQuery, StoredVersion, SupportsSearch
from helios_core.storage.threads import compute

MAX_INCLUDED: Final = 1000
"""Maximum number of resources that one page includes."""
MAX_ROUNDS: Final = 10
"""How often `:iterate` is applied to resources that it has included itself."""
MAX_SEARCHES: Final = 500
"""Maximum number of searches for the resources that one page includes."""
IDS_PER_QUERY: Final = 200
ITERATING: Final = frozenset({"iterate", "recurse"})
"""The modifier that repeats an include, and its name before R4."""
EVERY: Final = "*"


class Include(msgspec.Struct, frozen=True, kw_only=True):
    """One `_include` or `_revinclude`."""

    source: str | None
    """The type that refers; None stands for any."""
    code: str | None
    """The parameter of that type that holds the references; None stands for all of them."""
    target: str | None
    """The type referred to; None stands for any."""
    reverse: bool
    """Whether it includes resources that refer to the matches (`_revinclude`)."""
    iterate: bool
    """Whether it is applied to included resources as well."""

    def parameters(self, version: FHIRVersion, source: str) -> Sequence[CompiledParameter]:
        """Return the parameters of a type whose references the include follows."""
        if self.source not in (None, source):
            return ()
        if self.code is not None:
            return (find_parameter(version, source, self.code),)
        return [
            parameter
            for parameter in compiled_parameters(version, source).values()
            if isinstance(parameter, CompiledParameter) and reference_types(version, parameter)
        ]

    def targets(self, version: FHIRVersion, parameter: CompiledParameter) -> frozenset[str]:
        """Return the types to which the include follows a parameter's references."""
        types = frozenset(reference_types(version, parameter))
        return types if self.target is None else types & {self.target}


def parse_include(version: FHIRVersion, searched: str, name: str, value: str) -> Include:
    """
    Parse the value of `_include` or `_revinclude`, which may have the modifier `:iterate`.

    The value is `*`, `Type:*`, `Type:parameter` or `Type:parameter:TargetType`.

    Raises:
        InvalidParameter: The value does not have that form.
        UnsupportedParameter: There is no such reference from or to the searched type.
    """
    spelling, _, modifier = name.partition(":")
    reverse, iterate = spelling == "_revinclude", modifier in ITERATING
    if value == EVERY:
        return Include(source=None, code=None, target=None, reverse=reverse, iterate=iterate)
    source, *rest = parts = value.split(":")
    if len(rest) not in (1, 2) or not all(parts):
        raise InvalidParameter(
            f"{name}: expected *, Type:*, Type:parameter or Type:parameter:TargetType."
        )
    if not (reverse or iterate or source == searched):
        raise UnsupportedParameter(
            f"{name}: only references of the searched type are followed, {searched}:parameter; "
            f"{name}:iterate follows those of included resources as well."
        )
    include = Include(
        source=source,
        code=None if rest[0] == EVERY else rest[0],
        target=rest[1] if len(rest) > 1 else None,
        reverse=reverse,
        iterate=iterate,
    )
    parameters = include.parameters(version, source)
    targets = frozenset[str]().union(*(include.targets(version, p) for p in parameters))
    if not targets or (reverse and not iterate and searched not in targets):
        raise UnsupportedParameter(
            f"{name}: {source} has no such reference to "
            f"{searched if reverse else 'a resource'}, or not to that type."
        )
    return include


async def find_included(
    provider: SupportsSearch,
    caller: Caller,
    includes: Sequence[Include],
    matches: Sequence[StoredVersion],
    *,
    max_bytes: int,
) -> tuple[list[StoredVersion], bool]:
    """
    Return the resources to include with matches, each once, and whether some were left out.

    Resources are left out beyond `MAX_INCLUDED` resources, `max_bytes` bytes, `MAX_ROUNDS` rounds
    of `:iterate`, or `MAX_SEARCHES` searches. Resources that the client may not read are not
    included, as if they did not exist.
    """
    gathered = _Included(provider, caller, matches, max_bytes=max_bytes)
    rounds, sources = 0, matches
    while includes and sources:
        if rounds > MAX_ROUNDS:
            gathered.truncated = True
            break
        sources = await gathered.find(includes, sources)
        includes = [include for include in includes if include.iterate]
        rounds += 1
    return gathered.included, gathered.truncated


class _Included:
    """The resources that a page includes, gathered search by search."""

    def __init__(
        self,
        provider: SupportsSearch,
        caller: Caller,
        matches: Sequence[StoredVersion],
        *,
        max_bytes: int,
    ) -> None:
        self.included: list[StoredVersion] = []
        self.truncated = False
        self._provider = provider
        self._caller = caller
        self._seen = {_type_and_id(match) for match in matches}
        self._bytes_left = max_bytes
        self._searches = 0

    async def find(
        self, includes: Sequence[Include], sources: Sequence[StoredVersion]
    ) -> Sequence[StoredVersion]:
        """Include what belongs to `sources`, and return the resources that this has added."""
        start = len(self.included)
        for include in includes:
            filters_for = self._references_to if include.reverse else self._references_of
            async with aclosing(filters_for(include, sources)) as filters:
                async for filter_ in filters:
                    await self._include(filter_)
                    if self.truncated:
                        return ()
        return self.included[start:]

    async def _include(self, filter_: Filter) -> None:
        if not may(self._caller, Interaction.READ, filter_.resource_type):
            return
        if self._searches == MAX_SEARCHES:
            self.truncated = True
            return
        self._searches += 1
        matches = search_all(self._provider, self._caller, SearchQuery(filter=filter_))
        async with aclosing(matches) as resources:
            async for stored in resources:
                if _type_and_id(stored) in self._seen:
                    continue
                size = len(stored.content or b"")
                if len(self.included) == MAX_INCLUDED or size > self._bytes_left:
                    self.truncated = True
                    return
                self._bytes_left -= size
                self._seen.add(_type_and_id(stored))
                self.included.append(stored)

    async def _references_of(
        self, include: Include, sources: Sequence[StoredVersion]
    ) -> AsyncGenerator[Filter]:
        """Yield filters of the resources to which `sources` refer."""
        size = sum(len(stored.content or b"") for stored in sources)
        targets = await compute(size, _targets, self._caller, include, sources)
        for resource_type, ids in targets.items():
            new = [id_ for id_ in ids if (resource_type, id_) not in self._seen]
            for batch in _batches(new):
                yield self._filter(resource_type, ["_id"], batch)

    async def _references_to(
        self, include: Include, sources: Sequence[StoredVersion]
    ) -> AsyncGenerator[Filter]:
        """Yield filters of the resources that refer to `sources`."""
        version = self._caller.fhir_version
        by_type = defaultdict[str, list[str]](list)
        for stored in sources:
            by_type[stored.resource_type].append(f"{stored.resource_type}/{stored.id}")
        types = sorted(load_definitions(version).types) if include.source is None else ()
        for source in types or (include.source or "",):
            await asyncio.sleep(0)  # compiling the parameters of a type takes milliseconds
            parameters = include.parameters(version, source)
            for target, references in by_type.items():
                codes = [p.code for p in parameters if target in include.targets(version, p)]
                for batch in _batches(references) if codes else ():
                    yield self._filter(source, codes, batch)

    def _filter(self, resource_type: str, codes: Iterable[str], values: Iterable[str]) -> Filter:
        """Return the filter of resources with one of the values in one of the parameters."""
        version, base, value = self._caller.fhir_version, self._caller.base, ",".join(values)
        return any_filter(
            [
                compile_query(version, resource_type, [(code, value)], base_urls=(base,))
                for code in codes
            ]
        )


def _targets(
    caller: Caller, include: Include, sources: Sequence[StoredVersion]
) -> Mapping[str, Mapping[str, None]]:
    """Return the ids of this server to which resources refer, by type, in order."""
    targets = defaultdict[str, dict[str, None]](dict)
    by_type = defaultdict[str, list[bytes]](list)
    for stored in sources:
        by_type[stored.resource_type].append(stored.content or b"")
    for source, lines in by_type.items():
        for resource_type, resource_id in _references(caller, include, source, lines):
            targets[resource_type][resource_id] = None
    return targets


def _references(
    caller: Caller, include: Include, source: str, lines: Sequence[bytes]
) -> Iterator[tuple[str, str]]:
    """Yield type and id of the resources of this server to which those of one type refer."""
    parameters = include.parameters(caller.fhir_version, source)
    decode = make_decoder(frozenset[str]().union(*(p.elements for p in parameters)))
    allowed = [(p, include.targets(caller.fhir_version, p)) for p in parameters]
    for resource in map(decode, lines if parameters else ()):
        for parameter, types in allowed:
            leaves: list[Any] = []
            for path in parameter.paths:
                path.collect(resource, leaves)
            for leaf in leaves:
                target = split_reference(reference_text(leaf) or "", (caller.base,))
                if target is not None and target[0] in types:
                    yield target


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(values)
    while batch := list(islice(remaining, IDS_PER_QUERY)):
        yield batch


def _type_and_id(stored: StoredVersion) -> tuple[str, str]:
    return stored.resource_type, stored.id
