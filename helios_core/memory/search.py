"""Pages of a search, found by examining every resource."""

from bisect import bisect_right
from collections.abc import Iterable

from helios_core.fhir.instants import to_stamp
from helios_core.storage.data_provider import SearchPage, SearchQuery, StoredVersion
from helios_core.storage.page_tokens import (
    PageBuilder,
    make_page_token,
    parse_page_token,
    place_in_order,
)


def search_page(
    current: Iterable[tuple[StoredVersion, bytes]],
    query: SearchQuery,
    *,
    count: int,
    after: str | None,
) -> SearchPage:
    """
    Return a page of matches among the current versions, each given with its content.

    Raises:
        InvalidParameter: `after` is not the `next` of a page in this order.
    """
    last = None if after is None else parse_page_token(after, query.order)
    matches = [stored for stored, line in current if query.filter.matches(line)]

    def sort_key(stored: StoredVersion) -> tuple[int | str, ...]:
        return place_in_order(to_stamp(stored.last_updated), stored.id, query.order)

    rest = sorted(matches, key=sort_key)
    if last is not None:
        before = place_in_order(last.stamp, last.id, query.order)
        rest = rest[bisect_right(rest, before, key=sort_key) :]
    page, following = PageBuilder(count, query.max_bytes), None
    if not all(map(page.add, rest)):
        following = make_page_token(page.found[-1], query.order)
    total = len(matches) if query.counts else None
    return SearchPage(resources=page.found, next=following, total=total)
