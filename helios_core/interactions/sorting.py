"""Pages of a search in an order that the data provider does not have itself."""

import base64
import binascii
from bisect import bisect
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from helios_core.errors import InvalidParameter, TooCostly
from helios_core.fhir.search.sorting import Position, Sort, SortValues
from helios_core.interactions.chains import PAGE_SIZE
from helios_core.storage.data_provider import (
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
)
from helios_core.storage.threads import compute

MAX_SORTED: Final = 100_000
"""The number of matches that can be sorted: all of them are read for each page."""


class Find(Protocol):
    """`SupportsSearch.search` within one type."""

    async def __call__(
        self, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return at most `count` matches, from the page `after` on."""
        ...


class _Token(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended, and in which order."""

    text: str
    id: str
    values: list[Any]


async def sorted_page(
    find: Find, query: SearchQuery, sort: Sort, *, count: int, after: str | None
) -> SearchPage:
    """
    Return a page of all that matches, sorted, and how many these are.

    All matches are read, in whatever order the data provider has, and only those kept that belong
    to the page. A page begins behind the values and the id with which the one before it ended, so
    that a resource that does not change is found exactly once, whatever is written meanwhile.

    Raises:
        InvalidParameter: `after` does not come from a page in this order.
        TooCostly: More than `MAX_SORTED` resources match.
    """
    page = _Page(
        sort,
        after=None if after is None else _parse_token(sort, after),
        count=count,
        max_bytes=query.max_bytes,
    )
    unsorted = msgspec.structs.replace(query, order=SortOrder.ID, total=False)
    total, place = 0, None
    while True:
        found = await find(unsorted, count=PAGE_SIZE, after=place)
        total += len(found.resources)
        if total > MAX_SORTED:
            raise TooCostly(
                f"More than {MAX_SORTED} resources match; _sort by something else than _id or "
                "_lastUpdated needs a narrower search."
            )
        size = sum(len(stored.content or b"") for stored in found.resources)
        await compute(size, page.add, found.resources)
        place = found.next
        if place is None:
            return SearchPage(
                resources=[stored for stored, _ in page.kept],
                next=_make_token(sort, *page.kept[-1]) if page.more else None,
                total=total,
            )


class _Page:
    """The first resources behind a position, as many as there is room for."""

    def __init__(self, sort: Sort, *, after: Position | None, count: int, max_bytes: int) -> None:
        self.kept: list[tuple[StoredVersion, SortValues]] = []
        self._positions: list[Position] = []
        self._sort = sort
        self._after = after
        self._end: Position | None = None
        """The position of the first resource known to belong to the next page."""
        self._count = count
        self._room = max_bytes

    @property
    def more(self) -> bool:
        """Whether there is a next page."""
        return self._end is not None

    def add(self, resources: Sequence[StoredVersion]) -> None:
        """Keep those that belong to this page."""
        for stored in resources:
            values = self._sort.values(stored.content or b"")
            position = self._sort.position(values, stored.id)
            if self._after is not None and not self._after < position:
                continue
            if self._end is not None and not position < self._end:
                continue
            place = bisect(self._positions, position)
            self._positions.insert(place, position)
            self.kept.insert(place, (stored, values))
            self._room -= len(stored.content or b"")
            while len(self.kept) > self._count or (self._room < 0 and len(self.kept) > 1):
                self._end = self._positions.pop()
                self._room += len(self.kept.pop()[0].content or b"")


def _make_token(sort: Sort, last: StoredVersion, values: SortValues) -> str:
    token = msgspec.json.encode(_Token(sort.text, last.id, list(values)))
    return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")


def _parse_token(sort: Sort, text: str) -> Position:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
        token = msgspec.json.decode(decoded, type=_Token)
        if token.text == sort.text:
            return sort.position(sort.parse_values(token.values), token.id)
    except (UnicodeError, binascii.Error, msgspec.MsgspecError, InvalidParameter):
        pass
    raise InvalidParameter(
        "_after does not come from a page of this search; follow its links as they are, or start "
        "again without it."
    )
