"""Changes on a condition: at most one resource may match a search."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Final, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from helios_core.errors import (
    InvalidRequest,
    MultipleMatches,
    ResourceExists,
    VersionConflict,
)
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.strict_json import compact_json, object_members
from helios_core.interactions.callers import Caller, parse_pairs
from helios_core.interactions.chains import resolve_chains
from helios_core.interactions.search import Pairs, parse_criteria
from helios_core.storage.data_provider import (
    DataProvider,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.keys import TypeKey

T = TypeVar("T")

ATTEMPTS: Final = 5
"""How often a change is tried before the client is told that others came in between."""
TWO: Final = 2
"""How many matches have to be seen to know that there is not just one."""


class Vacancy(msgspec.Struct, frozen=True, kw_only=True):
    """Where to create what does not exist."""

    id: str
    version: int
    """That of the deletion there, 0 where there never was anything."""


class Conditions:
    """
    Looks for the resource a conditional change is about.

    Of changes on the same condition, in however many processes, one at a time gets through: what
    is created has an id that the condition decides, and is stored only where nothing is there yet.
    """

    def __init__(self, provider: DataProvider, searcher: SupportsSearch, *, secret: str) -> None:
        self._provider = provider
        self._searcher = searcher
        self._secret = secret.encode()
        self._locks = WeakValueDictionary[str, asyncio.Lock]()

    async def exactly(self, caller: Caller, change: Callable[[], Awaitable[T]]) -> T:
        """
        Look and change, again where another process came in between.

        Raises:
            VersionConflict: It always did, or the client named another version than there is.
        """
        # Within the process they wait for each other, which spares them looking twice.
        async with self._locks.setdefault(caller.tenant, asyncio.Lock()):
            for _ in range(ATTEMPTS - 1):
                with suppress(VersionConflict):
                    return await change()
            return await change()

    async def match(
        self, caller: Caller, resource_type: str, criteria: Pairs
    ) -> StoredVersion | None:
        """
        Give the one resource that matches, None where none does.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not served.
            MultipleMatches: More than one resource matches.
        """
        pairs = [pair for pair in criteria if pair[0] not in PRESENTATION_PARAMETERS]
        if not pairs:
            raise InvalidRequest(
                "A condition needs at least one search parameter, as in identifier=system|value."
            )
        selected = await resolve_chains(
            self._searcher, caller, parse_criteria(caller, resource_type, pairs)
        )
        page = await self._searcher.search(
            TypeKey.of(caller, resource_type), SearchQuery(filter=selected), count=TWO
        )
        if len(page.resources) > 1 or page.next is not None:
            raise MultipleMatches(
                f"More than one {resource_type} matches the condition; name search parameters "
                "that only one resource has."
            )
        return next(iter(page.resources), None)

    async def match_or_vacancy(
        self, caller: Caller, resource_type: str, criteria: Pairs
    ) -> StoredVersion | Vacancy:
        """
        Give the one resource that matches, or else where to create it.

        Raises:
            InvalidRequest: As in `match`; so is MultipleMatches.
        """
        # In this order: who creates it after the first look is seen by the second, and who does
        # it after that has taken the version that is expected.
        vacancy = await self._vacancy(caller, resource_type, criteria)
        return await self.match(caller, resource_type, criteria) or vacancy

    async def _vacancy(self, caller: Caller, resource_type: str, criteria: Pairs) -> Vacancy:
        """Give the first of a condition's ids at which nothing lives."""
        pairs = sorted(pair for pair in criteria if pair[0] not in PRESENTATION_PARAMETERS)
        number = 0
        while True:
            asked = [caller.tenant, caller.fhir_version, resource_type, pairs, number]
            resource_id = self._id_of(asked)
            there = await self._provider.get(
                TypeKey.of(caller, resource_type).resource(resource_id)
            )
            if there is None or there.content is None:
                return Vacancy(id=resource_id, version=there.version_id if there else 0)
            number += 1

    def _id_of(self, asked: object) -> str:
        """Give an id that tells nobody who lacks the secret what was searched for."""
        digest = blake2b(msgspec.json.encode(asked), digest_size=16, key=self._secret[:64])
        return str(UUID(bytes=digest.digest(), version=4))

    async def place(
        self, caller: Caller, resource_type: str, criteria: Pairs, body: bytes
    ) -> tuple[str, int]:
        """
        Give the id that an update on a condition is stored under, and the version there, or 0.

        It is that of the match; without one the body's own, or else a new one.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not served.
            MultipleMatches: More than one resource matches.
            ResourceExists: None matches, but there is one of the body's id.
        """
        match = await self.match_or_vacancy(caller, resource_type, criteria)
        if isinstance(match, StoredVersion):
            return match.id, match.version_id
        own = _own_id(body)
        if own is None:
            return match.id, match.version
        there = await self._provider.get(TypeKey.of(caller, resource_type).resource(own))
        if there is not None and there.content is not None:
            raise ResourceExists(
                f"No {resource_type} matches the condition, but there is one of the id in the "
                "body; leave the id out, or update that resource by its id."
            )
        return own, there.version_id if there else 0


def parse_condition(text: str, resource_type: str, what: str) -> Pairs:
    """
    Give the criteria in a header or an entry: what would stand behind the question mark.

    Raises:
        InvalidRequest: It does not decode to UTF-8.
    """
    return parse_pairs(text.removeprefix(resource_type).removeprefix("?"), what)


def require_same_version(match: int | None, if_match: int | None) -> int | None:
    """
    Give the version that must still be current when a change on a condition is made.

    Raises:
        VersionConflict: The client named another one than what matches has.
    """
    if if_match is not None and if_match != match:
        raise VersionConflict(
            f"If-Match names version {if_match}, but what matches the condition "
            f"{f'has version {match}' if match else 'does not exist'}; read it again."
        )
    return match


def _own_id(body: bytes) -> str | None:
    """Give the id in a body, for `parse_resource` to check; None where there is none."""
    own = object_members(compact_json(body)).get("id")
    return None if own is None else str(msgspec.json.decode(own))


VERSION_TAG: Final = re.compile(r'(?:W/)?"([1-9]\d{0,17})"')


def parse_if_match(header: str | None) -> int | None:
    """
    Give the version an If-Match names, None where there is no condition.

    Raises:
        InvalidRequest: It is not one version tag.
    """
    if header is None:
        return None
    match = VERSION_TAG.fullmatch(header.strip())
    if match is None:
        raise InvalidRequest('If-Match is not one version tag; send it as in the ETag: W/"3".')
    return int(match[1])
