"""Changes on a condition: at most one resource may match a search."""

import asyncio
from typing import Final
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec

from helios_core.data_providers import DataProvider, Query, StoredVersion, SupportsSearch
from helios_core.errors import (
    InvalidRequest,
    MultipleMatches,
    ResourceExists,
    VersionConflict,
)
from helios_core.fhir.strict_json import compact, members
from helios_core.http.guards import Caller, pairs_of
from helios_core.http.lookups import answered
from helios_core.http.queries import Pairs, selection
from helios_core.kickoff.parameters import PRESENTATION

TWO: Final = 2
"""How many matches have to be seen to know that there is not just one."""


class Conditions:
    """
    Looks for the resource a conditional change is about.

    Who holds `alone` while looking and changing sees no other conditional change of the same
    tenant in between. Other processes over the same store are not kept out.
    """

    def __init__(self, provider: DataProvider, searcher: SupportsSearch) -> None:
        self._provider = provider
        self._searcher = searcher
        self._locks = WeakValueDictionary[str, asyncio.Lock]()

    def alone(self, caller: Caller) -> asyncio.Lock:
        """Give what one conditional change of a tenant can hold at a time."""
        return self._locks.setdefault(caller.tenant, asyncio.Lock())

    async def match(
        self, caller: Caller, resource_type: str, criteria: Pairs
    ) -> StoredVersion | None:
        """
        Give the one resource that matches, None where none does.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not served.
            MultipleMatches: More than one resource matches.
        """
        pairs = [pair for pair in criteria if pair[0] not in PRESENTATION]
        if not pairs:
            raise InvalidRequest(
                "A condition needs at least one search parameter, as in identifier=system|value."
            )
        selected = await answered(self._searcher, caller, selection(caller, resource_type, pairs))
        page = await self._searcher.search(
            caller.tenant, caller.fhir_version, Query(filter=selected), count=TWO
        )
        if len(page.resources) > 1 or page.next is not None:
            raise MultipleMatches(
                f"More than one {resource_type} matches the condition; name search parameters "
                "that only one resource has."
            )
        return next(iter(page.resources), None)

    async def place(
        self, caller: Caller, resource_type: str, criteria: Pairs, body: bytes
    ) -> tuple[str, int | None]:
        """
        Give the id that an update on a condition is stored under, and the version there, if any.

        It is that of the match; without one the body's own, or else a new one.

        Raises:
            InvalidRequest: There are no criteria, or one of them is not served.
            MultipleMatches: More than one resource matches.
            ResourceExists: None matches, but there is one of the body's id.
        """
        match = await self.match(caller, resource_type, criteria)
        if match is not None:
            return match.id, match.version_id
        own = _own_id(body)
        if own is None:
            return str(uuid4()), None
        there = await self._provider.get(caller.tenant, caller.fhir_version, resource_type, own)
        if there is not None and there.content is not None:
            raise ResourceExists(
                f"No {resource_type} matches the condition, but there is one of the id in the "
                "body; leave the id out, or update that resource by its id."
            )
        return own, None if there is None else there.version_id


def criteria_of(text: str, resource_type: str, what: str) -> Pairs:
    """
    Give the criteria in a header or an entry: what would stand behind the question mark.

    Raises:
        InvalidRequest: It does not decode to UTF-8.
    """
    return pairs_of(text.removeprefix(resource_type).removeprefix("?"), what)


def agreed(match: int | None, if_match: int | None) -> int | None:
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
    own = members(compact(body)).get("id")
    return None if own is None else str(msgspec.json.decode(own))
