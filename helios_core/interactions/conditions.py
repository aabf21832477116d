"""Conditions of changes: a search that at most one resource matches, and If-Match."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from helios_core.errors import (
    InvalidRequest,
    MultipleMatches,
    ResourceExists,
    UnsupportedParameter,
    VersionConflict,
)
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.search import Filter
from helios_core.fhir.strict_json import compact_json, object_members
from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.chains import PAGE_SIZE, resolve_chains
from helios_core.interactions.parameters import Pairs, parse_pairs
from helios_core.interactions.search_parameters import parse_criteria
from helios_core.storage.data_provider import (
    DataProvider,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.threads import compute

T = TypeVar("T")
OnMatch: TypeAlias = Callable[[Filter, Sequence[StoredVersion]], Awaitable[None]]

ATTEMPTS: Final = 5
"""How often a change is attempted before the client gets the VersionConflict."""
VERSION_TAG: Final = re.compile(r'(?:W/)?"([1-9]\d{0,17})"')

URL_OF_SEARCH: Final = re.compile(r"(?:https?://[^?#]*/|/)?(?P<type>[A-Za-z]+)?\?", re.IGNORECASE)
"""What precedes the criteria of a condition that is sent as a URL."""


class Vacancy(msgspec.Struct, frozen=True, kw_only=True):
    """An id under which a resource can be created."""

    id: str
    version_id: int
    """The version of the deletion under this id, 0 if it was never used."""


class Conditions:
    """
    Finds the target of a conditional change.

    If several changes have the same condition at the same time, in any number of processes, one
    succeeds and the others see its result: a resource that is created gets an id derived from the
    condition, and is stored only if that id is still vacant.
    """

    def __init__(  # noqa: PLR0913 - several views of one store, all by name
        self,
        provider: DataProvider,
        *,
        secret: str,
        searched: SupportsSearch | None = None,
        readable: DataProvider | None = None,
        stored: DataProvider | None = None,
        on_match: OnMatch | None = None,
    ) -> None:
        """
        Search `searched`, and read what clients may see from `readable`, or else `provider`.

        `provider` itself shows whatever a client may change, so that changes find what is stored,
        and `stored` everything, so that an id that follows from a condition is really vacant.
        `on_match` is called with the filter and the matches of each condition, which may be cut
        off after two; it may raise.
        """
        self._provider = provider
        self._readable = readable or provider
        self._stored = stored or provider
        self._searched = searched or provider
        self._secret = secret
        self._on_match = on_match
        self._locks = WeakValueDictionary[str, asyncio.Lock]()

    def over(self, searched: SupportsSearch, on_match: OnMatch) -> "Conditions":
        """Return conditions that search another state of the resources."""
        return Conditions(
            self._provider,
            secret=self._secret,
            searched=searched,
            readable=self._readable,
            stored=self._stored,
            on_match=on_match,
        )

    async def retry_on_conflict(self, caller: Caller, change: Callable[[], Awaitable[T]]) -> T:
        """
        Call `change`, which resolves a condition, again if another process changed the match.

        Raises:
            VersionConflict: Every attempt had a conflict, or the client's If-Match is not the
                current version.
        """
        # Changes of one process take turns, which avoids conflicts among them.
        async with self._locks.setdefault(caller.tenant, asyncio.Lock()):
            for _ in range(ATTEMPTS - 1):
                with suppress(VersionConflict):
                    return await change()
            return await change()

    async def match(
        self, caller: Caller, resource_type: str, criteria: Pairs
    ) -> StoredVersion | None:
        """
        Return the one resource that matches, None if there is none.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not supported.
            MultipleMatches: More than one resource matches.
        """
        query = SearchQuery(filter=await self.compile(caller, resource_type, criteria))
        matches: list[StoredVersion] = []
        count, after = 2, None  # two are enough to know that there is more than one
        while len(matches) <= 1:
            page = await require_search(self._searched).search(
                TypeKey.of(caller, resource_type), query, count=count, after=after
            )
            matches += page.resources
            after = page.next
            if after is None:
                break
            count = min(4 * count, PAGE_SIZE)  # pages can be empty: see PendingState
        if self._on_match is not None:
            await self._on_match(query.filter, matches)
        if len(matches) > 1:
            raise MultipleMatches(
                f"More than one {resource_type} matches the condition; name search parameters "
                "that only one resource has."
            )
        return next(iter(matches), None)

    async def compile(self, caller: Caller, resource_type: str, criteria: Pairs) -> Filter:
        """
        Return the filter of a condition, its lookups resolved.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not supported.
            Forbidden: The client may not search the type.
        """
        pairs = [pair for pair in criteria if pair[0] not in PRESENTATION_PARAMETERS]
        if not pairs:
            raise InvalidRequest(
                "A condition needs at least one search parameter, as in identifier=system|value."
            )
        authorize(caller, Interaction.SEARCH_TYPE, resource_type)
        size = sum(len(value) for _, value in pairs)
        filter_ = await compute(size, parse_criteria, caller, resource_type, pairs)
        return await resolve_chains(require_search(self._searched), caller, filter_)

    async def match_or_vacancy(
        self, caller: Caller, resource_type: str, criteria: Pairs
    ) -> StoredVersion | Vacancy:
        """
        Return the one resource that matches, or else where to create it.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not supported.
            MultipleMatches: More than one resource matches.
        """
        # In this order, the search sees a resource that is created after the vacancy was read, and
        # one that is created after the search makes the vacancy's version a conflict.
        vacancy = await self._vacancy(caller, resource_type, criteria)
        return await self.match(caller, resource_type, criteria) or vacancy

    async def resolve_update(
        self, caller: Caller, resource_type: str, criteria: Pairs, body: bytes
    ) -> StoredVersion | Vacancy:
        """
        Return the one resource that matches, or else where a conditional update creates one.

        It is created under the id in the body or, without one, under an id derived from the
        criteria.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not supported.
            MultipleMatches: More than one resource matches.
            ResourceExists: None matches, but there is one with the body's id.
        """
        match = await self.match_or_vacancy(caller, resource_type, criteria)
        if isinstance(match, StoredVersion):
            return match
        own_id = _own_id(body)
        if own_id is None:
            return match
        stored = await self.get(caller, resource_type, own_id)
        if stored is not None and stored.content is not None:
            raise ResourceExists(
                f"No {resource_type} matches the condition, but there is one with the id in the "
                "body; leave the id out, or update that resource by its id."
            )
        return Vacancy(id=own_id, version_id=stored.version_id if stored else 0)

    async def get(
        self, caller: Caller, resource_type: str, resource_id: str
    ) -> StoredVersion | None:
        """Return the current version of a resource, None if there never was one."""
        return await self._provider.get(TypeKey.of(caller, resource_type).resource(resource_id))

    async def read(
        self, caller: Caller, resource_type: str, resource_id: str
    ) -> StoredVersion | None:
        """Return the current version of a resource if the client may see it, else None."""
        return await self._readable.get(TypeKey.of(caller, resource_type).resource(resource_id))

    async def require_vacant(self, caller: Caller, resource_type: str, resource_id: str) -> int:
        """
        Return the version of the deletion under an id, 0 if the id was never used.

        Raises:
            VersionConflict: There is a resource with that id.
        """
        stored = await self.get(caller, resource_type, resource_id)
        if stored is not None and stored.content is not None:
            raise VersionConflict(
                "If-None-Match is *, but there is a resource with that id already."
            )
        return stored.version_id if stored else 0

    async def _vacancy(self, caller: Caller, resource_type: str, criteria: Pairs) -> Vacancy:
        """Return the first of a condition's derived ids that no live resource has."""
        pairs = sorted(pair for pair in criteria if pair[0] not in PRESENTATION_PARAMETERS)
        key = TypeKey.of(caller, resource_type)
        number = 0
        while True:
            resource_id = self._derived_id(
                [caller.tenant, caller.fhir_version, resource_type, pairs, number]
            )
            stored = await self._stored.get(key.resource(resource_id))
            if stored is None or stored.content is None:
                return Vacancy(id=resource_id, version_id=stored.version_id if stored else 0)
            number += 1

    def _derived_id(self, condition: object) -> str:
        """Return an id that reveals nothing of the condition to anybody without the secret."""
        digest = blake2b(
            msgspec.json.encode(condition), digest_size=16, key=self._secret.encode()[:64]
        )
        return str(UUID(bytes=digest.digest(), version=4))


def require_search(provider: object) -> SupportsSearch:
    """
    Return a provider after checking that it can be searched.

    Raises:
        UnsupportedParameter: It cannot.
    """
    if not isinstance(provider, SupportsSearch):
        raise UnsupportedParameter(
            "Conditions and searches are not supported, because the data provider cannot be "
            "searched."
        )
    return provider


def parse_condition(text: str, resource_type: str, what: str) -> Pairs:
    """
    Parse the criteria in a header or an entry: a query string, or a URL that ends with one.

    Clients send `identifier=x`, `?identifier=x`, `[type]?identifier=x` and
    `[base]/[type]?identifier=x`.

    Raises:
        InvalidRequest: It is the URL of something else, or does not decode to UTF-8; the message
            calls it `what`.
    """
    url = URL_OF_SEARCH.match(text.strip())
    if url is None:
        return parse_pairs(text.strip(), what)
    if url["type"] not in (None, resource_type):
        raise InvalidRequest(f"{what} is a search of another type than {resource_type}.")
    return parse_pairs(text.strip()[url.end() :], what)


def parse_if_match(header: str | None) -> int | None:
    """
    Return the version that an If-Match names, None without the header.

    Raises:
        InvalidRequest: It is not one version tag.
    """
    if header is None:
        return None
    match = VERSION_TAG.fullmatch(header.strip())
    if match is None:
        raise InvalidRequest('If-Match is not one version tag; send it as in the ETag: W/"3".')
    return int(match[1])


def require_same_version(version_id: int, if_match: int | None) -> int:
    """
    Return the version of a resource, 0 if there is none, after comparing If-Match.

    Raises:
        VersionConflict: If-Match names another version.
    """
    if if_match is not None and if_match != version_id:
        raise VersionConflict(
            f"If-Match names version {if_match}, but the resource "
            f"{f'has version {version_id}' if version_id else 'does not exist'}; read it again."
        )
    return version_id


def _own_id(body: bytes) -> str | None:
    """Return the id in a body, for `parse_resource` to check; None if it has none."""
    own_id = object_members(compact_json(body)).get("id")
    return None if own_id is None else str(msgspec.json.decode(own_id))
