"""
History: the versions of a resource, of a type or of everything (FHIR R4, http.html#history).

Pages of a resource's history are delimited by version numbers. Those of a type are delimited by
instants: the first page takes a settled instant, up to which nothing more can be written, and the
other pages list the versions up to it.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Final

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.dates import date_bounds
from helios_core.fhir.definitions import load_definitions
from helios_core.fhir.instants import from_stamp, parse_instant, to_stamp
from helios_core.interactions.callers import Caller, Interaction, authorize, may
from helios_core.interactions.parameters import Pairs, parse_count, parse_number, single_value
from helios_core.interactions.read import require_found
from helios_core.storage.data_provider import (
    StoredVersion,
    SupportsHistory,
    SupportsTypeHistory,
    VersionQuery,
)
from helios_core.storage.page_tokens import PageBuilder
from helios_core.storage.resource_keys import ResourceKey, TypeKey

PERIOD_PARAMETERS: Final = ("_since", "_at")
INSTANCE_HISTORY_PARAMETERS: Final = ("_count", *PERIOD_PARAMETERS, "_before")
HISTORY_PARAMETERS: Final = ("_count", *PERIOD_PARAMETERS, "_after")
"""The parameters of the history of a type and of the system."""

VERSIONS_AT_FIRST: Final = 8
VERSIONS_AT_ONCE: Final = 50
BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""About how many bytes of versions are read at once, if versions are about equally large."""

_AFTER: Final = re.compile(r"(-?[0-9]{1,18})\.(.{1,100})", re.ASCII)


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one page of a history."""

    count: int
    """The number of versions on a page."""
    parameters: tuple[tuple[str, str], ...] = ()
    """The parameters of links to pages, without the one that selects the page."""
    page: tuple[str, str] | None = None
    """The parameter that selects this page, and its value; None for the first page."""
    since: datetime | None = None
    """Only versions that became current at or after this instant."""
    at: tuple[datetime, datetime] | None = None
    """Only versions that were current at some time between these instants, both inclusive."""
    before: int | None = None
    """Only versions with a lower number; None starts with the newest."""
    settled: datetime | None = None
    """The settled instant that the first page took; None for the first page."""
    after: str | None = None
    """Where a page of a type's history begins: the data provider's token."""


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a history."""

    versions: Sequence[StoredVersion]
    """Newest first, deletions included."""
    next: tuple[str, str] | None
    """The parameter that selects the next page, and its value; None on the last page."""
    complete_to: datetime | None = None
    """The instant up to which the history of a type is complete; None for one resource."""


def parse_history(pairs: Pairs) -> HistoryQuery:
    """
    Parse the parameters of a history; others are ignored.

    Raises:
        InvalidParameter: One of them is malformed, or occurs more than once.
    """
    count = parse_count(pairs)
    periods = [(name, text) for name, text in pairs if name in PERIOD_PARAMETERS]
    settled, after = _parse_after(single_value(pairs, "_after"))
    return HistoryQuery(
        count=count,
        parameters=(("_count", str(count)), *periods),
        page=next((pair for pair in pairs if pair[0] in ("_before", "_after")), None),
        since=_parse_since(single_value(pairs, "_since")),
        at=_parse_at(single_value(pairs, "_at")),
        before=parse_number(pairs, "_before"),
        settled=settled,
        after=after,
    )


def _parse_since(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_instant(text, round_up=True)
    except InvalidParameter as error:
        raise InvalidParameter(f"_since: {error}") from error


def _parse_at(text: str | None) -> tuple[datetime, datetime] | None:
    if text is None:
        return None
    try:
        first, last = date_bounds(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"_at: {error}") from error
    return from_stamp(first), from_stamp(last)


def _parse_after(text: str | None) -> tuple[datetime | None, str | None]:
    if text is None:
        return None, None
    match = _AFTER.fullmatch(text)
    if match is None:
        raise InvalidParameter("_after is not from a link of a history; start again without it.")
    return from_stamp(int(match[1])), match[2]


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
    key = TypeKey.of(caller, resource_type).resource(resource_id)
    page = PageBuilder(query.count)
    following = None
    async with aclosing(_versions(provider, key, query)) as versions:
        async for stored in versions:
            if not page.add(stored):
                following = ("_before", str(page.found[-1].version_id))
                break
    if query.before is None and not page.found:
        newest = await provider.history(key, count=1)
        require_found(newest[0] if newest else None)
    return HistoryPage(versions=page.found, next=following)


async def _versions(
    provider: SupportsHistory, key: ResourceKey, query: HistoryQuery
) -> AsyncGenerator[StoredVersion]:
    """Yield the versions of a resource that a query requests, newest first."""
    before, count = query.before, min(query.count + 1, VERSIONS_AT_FIRST)
    while True:
        versions = await provider.history(key, count=count, before=before)
        for stored in versions:
            if query.since is not None and stored.last_updated < query.since:
                return
            if query.at is None or _was_current(stored, query.at):
                yield stored
            if query.at is not None and stored.last_updated <= query.at[0]:
                return  # all earlier versions had ended by then
        if len(versions) < count:
            return
        before = versions[-1].version_id
        size = sum(len(stored.content or b"") for stored in versions) // len(versions)
        count = max(1, min(VERSIONS_AT_ONCE, BYTES_AT_ONCE // (size + 1)))


def _was_current(stored: StoredVersion, at: tuple[datetime, datetime]) -> bool:
    """
    Return whether a version was current within a period.

    The caller has made sure that no later version was current at the start of the period. A
    deletion counts as current at its own instant only.
    """
    first, last = at
    began = stored.last_updated
    return began <= last and (began >= first or stored.content is not None)


async def history_type(
    provider: SupportsTypeHistory, caller: Caller, resource_type: str, query: HistoryQuery
) -> HistoryPage:
    """
    Return a page of the versions of all resources of a type.

    Raises:
        ResourceNotFound: There is no such type.
        InvalidParameter: `_after` does not come from a page of a history.
    """
    authorize(caller, Interaction.HISTORY_TYPE, resource_type)
    return await _history(provider, caller, (resource_type,), query)


async def history_system(
    provider: SupportsTypeHistory, caller: Caller, query: HistoryQuery
) -> HistoryPage:
    """
    Return a page of the versions of all resources of the types that the client may search.

    Raises:
        InvalidParameter: `_after` does not come from a page of a history.
    """
    authorize(caller, Interaction.HISTORY_SYSTEM)
    types = sorted(load_definitions(caller.fhir_version).types)
    permitted = tuple(name for name in types if may(caller, Interaction.HISTORY_TYPE, name))
    return await _history(provider, caller, permitted, query)


async def _history(
    provider: SupportsTypeHistory, caller: Caller, types: tuple[str, ...], query: HistoryQuery
) -> HistoryPage:
    settled = query.settled or await provider.transaction_time()
    first, last = (None, settled) if query.at is None else query.at
    versions = VersionQuery(
        tenant=caller.tenant,
        fhir_version=caller.fhir_version,
        types=types,
        until=min(settled, last),
        since=query.since,
        # A version that is current at the settled instant may end before `first`.
        current_from=None if first is None else min(settled, first),
    )
    page = await provider.versions(versions, count=query.count, after=query.after)
    following = None if page.next is None else f"{to_stamp(settled)}.{page.next}"
    return HistoryPage(
        versions=page.versions,
        next=None if following is None else ("_after", following),
        complete_to=settled,
    )
