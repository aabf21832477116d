"""History: the versions of a resource, in pages (FHIR R4, http.html#history)."""

from collections.abc import Sequence
from typing import Final

import msgspec

from helios_core.interactions.callers import Caller, Interaction, authorize
from helios_core.interactions.parameters import Pairs, parse_count, parse_number
from helios_core.interactions.read import require_found
from helios_core.storage.data_provider import StoredVersion, SupportsHistory
from helios_core.storage.resource_keys import TypeKey

HISTORY_PARAMETERS: Final = ("_count", "_before")


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a history is requested."""

    count: int
    """The number of versions on a page."""
    before: int | None = None
    """Only versions below this one; None starts with the newest."""


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a history."""

    versions: Sequence[StoredVersion]
    """Newest first, deletions included."""
    next: int | None
    """The `before` of the next page; None on the last one."""


def parse_history(pairs: Pairs) -> HistoryQuery:
    """
    Parse the parameters of a history; only `HISTORY_PARAMETERS` are looked at.

    Raises:
        InvalidParameter: One of them is not a whole number from 1, or occurs more than once.
    """
    return HistoryQuery(count=parse_count(pairs), before=parse_number(pairs, "_before"))


async def history_instance(
    provider: SupportsHistory,
    caller: Caller,
    resource_type: str,
    resource_id: str,
    query: HistoryQuery,
) -> HistoryPage:
    """
    Return a page of the versions of one resource.

    Raises:
        ResourceNotFound: There never was such a resource, or there is no such type.
    """
    authorize(caller, Interaction.HISTORY_INSTANCE, resource_type)
    versions = await provider.history(
        TypeKey.of(caller, resource_type).resource(resource_id),
        count=query.count + 1,
        before=query.before,
    )
    if query.before is None:
        require_found(versions[0] if versions else None)
    page = versions[: query.count]
    return HistoryPage(
        versions=page, next=page[-1].version_id if len(versions) > query.count else None
    )
