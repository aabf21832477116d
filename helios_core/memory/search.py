"""Pages of a search, found by looking at everything."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.storage.data_provider import SearchPage, SearchQuery, SortOrder, StoredVersion
from helios_core.storage.page_tokens import PageBuilder

_DESCENDING = frozenset({SortOrder.ID_DESCENDING, SortOrder.LAST_UPDATED_DESCENDING})
_BY_ID = frozenset({SortOrder.ID, SortOrder.ID_DESCENDING})


class _Token(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended."""

    order: SortOrder
    id: str
    last_updated: Annotated[datetime, msgspec.Meta(tz=True)]


def search_page(
    current: Iterable[tuple[StoredVersion, bytes]],
    query: SearchQuery,
    *,
    count: int,
    after: str | None,
) -> SearchPage:
    """
    Return a page of the current versions that match, each with its content.

    Raises:
        InvalidParameter: `after` is not something a page in this order gave.
    """
    last = None if after is None else _read(after, query.order)
    matches = [stored for stored, line in current if query.filter.matches(line)]
    ordered = _ordered(matches, query.order)
    rest = ordered if last is None else [each for each in ordered if _follows(each, last)]
    page, following = PageBuilder(count, query.max_bytes), None
    if not all(map(page.add, rest)):
        ending = _Token(query.order, page.found[-1].id, page.found[-1].last_updated)
        following = base64.urlsafe_b64encode(msgspec.json.encode(ending)).decode()
    total = len(matches) if query.counts else None
    return SearchPage(resources=page.found, next=following, total=total)


def _ordered(matches: Iterable[StoredVersion], order: SortOrder) -> Sequence[StoredVersion]:
    """Sort; of those with one instant the lower id comes first in either direction."""
    by_id = sorted(matches, key=lambda stored: stored.id, reverse=order is SortOrder.ID_DESCENDING)
    if order in _BY_ID:
        return by_id
    return sorted(by_id, key=lambda stored: stored.last_updated, reverse=order in _DESCENDING)


def _follows(stored: StoredVersion, last: _Token) -> bool:
    if last.order in _BY_ID:
        return stored.id < last.id if last.order in _DESCENDING else stored.id > last.id
    if stored.last_updated == last.last_updated:
        return stored.id > last.id
    return (stored.last_updated < last.last_updated) is (last.order in _DESCENDING)


def _read(token: str, order: SortOrder) -> _Token:
    try:
        decoded = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        ending = msgspec.json.decode(decoded, type=_Token)
    except (UnicodeEncodeError, binascii.Error, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise _unknown() from error
    if ending.order is not order:
        raise _unknown()
    return ending


def _unknown() -> InvalidParameter:
    return InvalidParameter(
        "the page token is not one this search gave; follow the `next` link of a search"
    )
