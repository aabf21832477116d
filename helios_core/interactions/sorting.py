"""Pages of a search in an order that the data provider does not offer itself."""

import base64
import binascii
from bisect import bisect
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from helios_core.errors import InvalidParameter, TooCostly
from helios_core.fhir.search.filters import Condition, all_conditions, make_filter
from helios_core.fhir.search.sorting import Position, Sort, SortValues
from helios_core.fhir.search.value_orders import ValueOrder
from helios_core.interactions.chains import PAGE_SIZE
from helios_core.storage.data_provider import (
    PAGE_BYTES,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
)
from helios_core.storage.ordered_search import FirstMatches, ValuePosition
from helios_core.storage.threads import compute

MAX_SORTED: Final = 100_000
"""Maximum number of matches that are read for one page."""


class Find(Protocol):
    """`SupportsSearch.search` within one type."""

    async def __call__(
        self, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return at most `count` matches, from the page `after` on."""
        ...


class FindFirst(Protocol):
    """`SupportsFirstMatches.first_matches` within one type."""

    async def __call__(
        self, query: SearchQuery, order: ValueOrder, *, count: int, after: ValuePosition | None
    ) -> FirstMatches | None:
        """Return all matches from `after` up to a later position in an order."""
        ...


class _Token(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended, and in which order."""

    text: str
    id: str
    values: list[Any]


async def sorted_page(  # noqa: PLR0913 - most of them by keyword
    find: Find,
    query: SearchQuery,
    sort: Sort,
    *,
    count: int,
    after: str | None,
    find_first: FindFirst | None = None,
) -> SearchPage:
    """
    Return a page of the sorted matches.

    In general all matches are read, and only those of the page are kept. If an index has the order
    of the first parameter (`find_first`), only the first matches are read; if it has the values of
    that parameter, only matches whose values can be on the page. A page begins after the values
    and the id with which the page before it ended, so that a resource that does not change is
    returned exactly once, whatever is written meanwhile.

    Raises:
        InvalidParameter: `after` does not come from a page in this order.
        TooCostly: More than `MAX_SORTED` resources would have to be read.
    """
    sorting = _Sorting(find, query, sort, count)
    start = None if after is None else _parse_token(sort, after)
    page = await sorting.first_page(find_first, start) if find_first else None
    if page is None:
        page = await sorting.page(start)
    return SearchPage(
        resources=[stored for stored, _ in page.kept],
        next=_make_token(sort, *page.kept[-1]) if page.end is not None else None,
        total=await sorting.total(),
    )


class _Sorting:
    """One search and its order."""

    def __init__(self, find: Find, query: SearchQuery, sort: Sort, count: int) -> None:
        self.found: int | None = None
        """The number of all matches, if all of them had to be read."""
        self._find = find
        self._query = query
        self._sort = sort
        self._count = count

    async def total(self) -> int | None:
        """Return the number of all matches if it is requested or known anyway."""
        if self.found is None and self._query.counts:
            self.found = (await self._find(self._query, count=1)).total
        return self.found

    async def first_page(self, find_first: FindFirst, after: SortValues | None) -> "_Page | None":
        """Return the page after a position from an index; None if the index does not help."""
        order = self._sort.value_order
        if order is None:
            return None
        begin = None if after is None else ValuePosition(*self._sort.begin(after))
        sizes = (min((self._count + _SPARE) * factor, MAX_FIRST) for factor in _FIRST_FACTORS)
        for count in dict.fromkeys(sizes):
            page = self._empty(after)
            found = await find_first(self._query, order, count=count, after=begin)
            if found is None:
                return None
            await _add(page, found.resources)
            if found.end is None:
                # If nobody requested the total, it must not be known just because the index has
                # few resources to examine: the client may not see all of these.
                if after is None and self._query.total:
                    self.found = len(found.resources)
                return page
            known = self._sort.reached(found.end.value, found.end.id)
            if page.end is not None and not known < page.end[0]:
                return page
        return None

    async def page(self, after: SortValues | None) -> "_Page":
        """Return the page after a position."""
        page = self._empty(after)
        if not self._sort.is_indexed:
            query = msgspec.structs.replace(self._query, total=None)
            if ((await self._find(query, count=1)).total or 0) > MAX_SORTED:
                raise _too_many()  # counting costs less than reading them
            self.found = await self._read(page)
            return page
        if after is None or after[0] is not None:
            page = await self._page_of_values(after)
        if page.end is None:
            await self._read(page, self._sort.without_value())
        return page

    async def _page_of_values(self, after: SortValues | None) -> "_Page":
        """Return the page of matches that have a value of the first key."""
        page, last = await self._sampled(after)
        if page is None:
            page = self._empty(after)
            await self._read(page, self._sort.between(after, last))
        if last is not None and page.end is None:
            # The match at `last` has changed since, and matches after it have not been read.
            page = self._empty(after)
            await self._read(page, self._sort.between(after, None))
        return page

    def _empty(self, after: SortValues | None) -> "_Page":
        return _Page(self._sort, after=after, count=self._count, max_bytes=self._query.max_bytes)

    async def _sampled(self, after: SortValues | None) -> tuple["_Page | None", SortValues | None]:
        """
        Return the page if few matches have to be read, and an upper bound of its values.

        The bound is None if nothing is known. Any sample of more matches than fit on the page
        shows that the page ends before the last of them. Each further sample is taken from the
        matches before that bound. Once these are few, they are all read, and make the page.
        """
        last, size = None, max(SAMPLE_SIZE, _SAMPLE_FACTOR * self._count)
        for order in _SAMPLES:
            page = self._empty(after)
            query = _narrowed(self._query, self._sort.between(after, last), order)
            found = await self._find(query, count=min(size, PAGE_SIZE))
            await _add(page, found.resources)
            if found.next is None:
                return page, last
            for _ in range(PAGE_SIZE, size, PAGE_SIZE):
                found = await self._find(query, count=PAGE_SIZE, after=found.next)
                await _add(page, found.resources)
                if found.next is None:
                    return None, last  # some may have changed between two pages of the sample
            if page.end is None:
                return None, last
            last = page.end[1]
        return None, last

    async def _read(self, page: "_Page", condition: Condition | None = None) -> int:
        """
        Add all matches that satisfy a condition to a page; return how many there are.

        They are read in the order that is cheapest for a store. A resource that changes meanwhile
        moves to the end of that order, so it may be read twice, but is not missed.
        """
        query = _narrowed(self._query, condition, SortOrder.LAST_UPDATED)
        total, after = 0, None
        while True:
            found = await self._find(query, count=PAGE_SIZE, after=after)
            total += len(found.resources)
            if total > MAX_SORTED:
                raise _too_many()
            await _add(page, found.resources)
            after = found.next
            if after is None:
                return total


class _Page:
    """The first resources after a position, up to the size of a page."""

    def __init__(
        self, sort: Sort, *, after: SortValues | None, count: int, max_bytes: int
    ) -> None:
        self.kept: list[tuple[StoredVersion, SortValues]] = []
        self.end: tuple[Position, SortValues] | None = None
        """The first resource known to belong to a later page; None if there is none."""
        self._positions: list[Position] = []
        self._ids = set[str]()
        self._sort = sort
        self._after = None if after is None else sort.position(after[:-1], after[-1])
        self._count = count
        self._bytes_left = max_bytes

    def add(self, resources: Sequence[StoredVersion]) -> None:
        """Keep the resources that belong to this page."""
        for stored in resources:
            values = self._sort.values(stored.content or b"")
            position = self._sort.position(values, stored.id)
            if stored.id in self._ids:
                continue  # it has changed since it was read first
            if self._after is not None and not self._after < position:
                continue
            if self.end is not None and not position < self.end[0]:
                continue
            index = bisect(self._positions, position)
            self._positions.insert(index, position)
            self.kept.insert(index, (stored, values))
            self._ids.add(stored.id)
            self._bytes_left -= len(stored.content or b"")
            while len(self.kept) > self._count or (self._bytes_left < 0 and len(self.kept) > 1):
                last, last_values = self.kept.pop()
                self._ids.discard(last.id)
                self.end = self._positions.pop(), last_values
                self._bytes_left += len(last.content or b"")


_FIRST_FACTORS: Final = (1, 8, 64)
"""By which factors the number of resources read grows while they do not fill the page."""

_SPARE: Final = 6
"""How many more resources than a page has are read; one shows that there is a next page."""

MAX_FIRST: Final = 2000
"""Maximum number of resources that are read in the order of an index."""

_SAMPLES: Final = (SortOrder.LAST_UPDATED_DESCENDING, SortOrder.LAST_UPDATED) * 3
"""
The orders in which samples of matches are read to learn where a page ends.

Resources that were stored first or last often come first in an order of dates as well.
"""


SAMPLE_SIZE: Final = 250
"""How many matches a sample has; finding that many costs about as much as reading them."""

_SAMPLE_FACTOR: Final = 4
"""How many times the size of a page a sample is, if that is more."""


def _narrowed(query: SearchQuery, condition: Condition | None, order: SortOrder) -> SearchQuery:
    """Return a query narrowed to the matches that satisfy a condition."""
    filter_ = query.filter
    if condition is not None:
        both = all_conditions([filter_.condition, condition])
        filter_ = make_filter(filter_.resource_type, both)
    return msgspec.structs.replace(
        query, filter=filter_, order=order, total=False, max_bytes=PAGE_BYTES
    )


async def _add(page: _Page, resources: Sequence[StoredVersion]) -> None:
    size = sum(len(stored.content or b"") for stored in resources)
    await compute(size, page.add, resources)


def _too_many() -> TooCostly:
    return TooCostly(
        f"More than {MAX_SORTED} resources would have to be sorted; narrow the search, or _sort "
        "by a date, _id or _lastUpdated."
    )


def _make_token(sort: Sort, last: StoredVersion, values: SortValues) -> str:
    token = msgspec.json.encode(_Token(sort.text, last.id, list(values)))
    return base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")


def _parse_token(sort: Sort, text: str) -> SortValues:
    """Return the values with which a page ended, followed by the id."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
        token = msgspec.json.decode(decoded, type=_Token)
        if token.text == sort.text:
            return (*sort.parse_values(token.values), token.id)
    except (UnicodeError, binascii.Error, msgspec.MsgspecError, InvalidParameter):
        pass
    raise InvalidParameter(
        "_after does not come from a page of this search; follow its links as they are, or start "
        "again without it."
    )
