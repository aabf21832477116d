"""Pages of a search or of versions: when one is full, and tokens that say where it ended."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import FOREVER, to_stamp
from helios_core.storage.data_provider import (
    PAGE_BYTES,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
)

ID_ORDERS = frozenset({SortOrder.ID, SortOrder.ID_DESCENDING})
"""The orders in which matches follow each other by id."""

DESCENDING_ORDERS = frozenset({SortOrder.ID_DESCENDING, SortOrder.LAST_UPDATED_DESCENDING})
"""The orders that begin with the highest id or the latest change."""

_SIGNS = {
    SortOrder.ID: "id",
    SortOrder.ID_DESCENDING: "-id",
    SortOrder.LAST_UPDATED: "at",
    SortOrder.LAST_UPDATED_DESCENDING: "-at",
}
_VERSION_TOKEN = re.compile(r"at:(-?[0-9]{1,18}):([0-9]{1,19})")
_TOKEN = re.compile(r"(-?)(?:id|at:([0-9]{1,18})):([A-Za-z0-9\-.]{1,64})")


class PagePosition(msgspec.Struct, frozen=True, kw_only=True):
    """The resource with which a page ended."""

    stamp: int
    """0 where the order is by id."""
    id: str


class VersionPosition(msgspec.Struct, frozen=True, order=True):
    """The version with which a page of versions ended."""

    stamp: int
    """When it became current, in microseconds since 1970."""
    number: int
    """What tells versions of one instant apart, from 0; a store decides what it is."""


class PageBuilder:
    """A page that takes resources until it is full."""

    def __init__(self, count: int, max_bytes: int = PAGE_BYTES) -> None:
        self.found: list[StoredVersion] = []
        self._count = count
        self._room = max_bytes

    def add(self, stored: StoredVersion) -> bool:
        """
        Take the next resource; return False, and take none, if it belongs to the next page.

        The first one always has room.
        """
        size = len(stored.content or b"")
        if len(self.found) == self._count or (self.found and size > self._room):
            return False
        self.found.append(stored)
        self._room -= size
        return True


async def collect_page(
    matches: AsyncGenerator[StoredVersion],
    query: SearchQuery,
    *,
    count: int,
    after: str | None,
    count_all: Callable[[], Awaitable[int]],
) -> SearchPage:
    """
    Return the page of a search that begins with these matches, and close them.

    `matches` follow each other in the order of the query, behind the token `after`; `count_all`
    counts all matches, and is called only if the query asks for a total that the page does not
    show.
    """
    page, more = PageBuilder(count, query.max_bytes), False
    async with aclosing(matches):
        async for stored in matches:
            if not page.add(stored):
                more = True
                break
    total = None
    if query.counts:
        total = len(page.found) if after is None and not more else await count_all()
    return SearchPage(
        resources=page.found,
        next=make_page_token(page.found[-1], query.order) if more else None,
        total=total,
    )


def place_in_order(stamp: int, resource_id: str, order: SortOrder) -> tuple[int | str, ...]:
    """
    Return what compares as the matches of a search follow each other.

    `stamp` is when the version became current; of those of one instant the lower id comes first
    in either direction.
    """
    match order:
        case SortOrder.ID:
            return (resource_id,)
        case SortOrder.ID_DESCENDING:
            # The end of a text comes behind whatever it could go on with.
            return (*(-ord(character) for character in resource_id), 1)
        case SortOrder.LAST_UPDATED:
            return stamp, resource_id
        case SortOrder.LAST_UPDATED_DESCENDING:
            return -stamp, resource_id


def make_page_token(last: StoredVersion, order: SortOrder) -> str:
    """Return the token of the page behind a resource."""
    at = "" if order in ID_ORDERS else f":{to_stamp(last.last_updated)}"
    return f"{_SIGNS[order]}{at}:{last.id}"


def parse_page_token(token: str, order: SortOrder) -> PagePosition:
    """
    Return the resource behind which a page begins.

    Raises:
        InvalidParameter: It is not a token that a page in this order gave.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] + ("id" if match[2] is None else "at") != _SIGNS[order]:
        raise InvalidParameter(
            "the page asked for is not one that this search gave; follow its links as they are,"
            " or start again without one"
        )
    return PagePosition(stamp=int(match[2] or 0), id=match[3])


def make_version_token(last: VersionPosition) -> str:
    """Return the token of the page behind a version."""
    return f"at:{last.stamp}:{last.number}"


def parse_version_token(token: str) -> VersionPosition:
    """
    Return the version behind which a page begins.

    Raises:
        InvalidParameter: It is not a token that a page gave.
    """
    match = _VERSION_TOKEN.fullmatch(token)
    if match is None or int(match[2]) > FOREVER:
        raise InvalidParameter(
            "the page asked for is not one that this history gave; follow its links as they are,"
            " or start again without one"
        )
    return VersionPosition(int(match[1]), int(match[2]))
