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
    """When its version became current, in microseconds since 1970; 0 in the order by id."""
    id: str


class VersionPosition(msgspec.Struct, frozen=True, order=True):
    """The version with which a page of versions ended."""

    stamp: int
    """When the version became current, in microseconds since 1970."""
    number: int
    """Distinguishes versions of one instant; from 0, with a meaning that is the store's own."""


class PageBuilder:
    """A page that takes resources until it is full."""

    def __init__(self, count: int, max_bytes: int = PAGE_BYTES) -> None:
        self.found: list[StoredVersion] = []
        self._count = count
        self._bytes_left = max_bytes

    def add(self, stored: StoredVersion) -> bool:
        """
        Take the next resource; return False, and take none, if it belongs to the next page.

        The first one always fits.
        """
        size = len(stored.content or b"")
        if len(self.found) == self._count or (self.found and size > self._bytes_left):
            return False
        self.found.append(stored)
        self._bytes_left -= size
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
    Return the page of a search that begins with these matches, and close their iterator.

    `matches` come in the order of the query and begin after the token `after`. `count_all` counts
    all matches; it is called only if the query requests a total and there is more than this page.
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
    Return a sort key that orders matches as a search does.

    `stamp` is when the version became current, in microseconds since 1970. Matches of one instant
    are ordered by ascending id in either direction.
    """
    match order:
        case SortOrder.ID:
            return (resource_id,)
        case SortOrder.ID_DESCENDING:
            # In descending order an id comes after all longer ids that begin with it.
            return (*(-ord(character) for character in resource_id), 1)
        case SortOrder.LAST_UPDATED:
            return stamp, resource_id
        case SortOrder.LAST_UPDATED_DESCENDING:
            return -stamp, resource_id


def make_page_token(last: StoredVersion, order: SortOrder) -> str:
    """Return the token of the page that follows a resource."""
    at = "" if order in ID_ORDERS else f":{to_stamp(last.last_updated)}"
    return f"{_SIGNS[order]}{at}:{last.id}"


def parse_page_token(token: str, order: SortOrder) -> PagePosition:
    """
    Return the resource after which a page begins.

    Raises:
        InvalidParameter: It is not a token of a page in this order.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] + ("id" if match[2] is None else "at") != _SIGNS[order]:
        raise InvalidParameter(
            "the requested page is not one that this search linked to; follow its links"
            " unchanged, or start again without a page"
        )
    return PagePosition(stamp=int(match[2] or 0), id=match[3])


def make_version_token(last: VersionPosition) -> str:
    """Return the token of the page that follows a version."""
    return f"at:{last.stamp}:{last.number}"


def parse_version_token(token: str) -> VersionPosition:
    """
    Return the version after which a page begins.

    Raises:
        InvalidParameter: It is not a token of a page.
    """
    match = _VERSION_TOKEN.fullmatch(token)
    if match is None or int(match[2]) > FOREVER:
        raise InvalidParameter(
            "the requested page is not one that this history linked to; follow its links"
            " unchanged, or start again without a page"
        )
    return VersionPosition(int(match[1]), int(match[2]))
