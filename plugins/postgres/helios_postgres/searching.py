"""Pages of a search: what may match, in the order asked for, looked at until a page is full."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from helios_core.data_providers import Order, Page, Query, StoredVersion
from helios_core.errors import InvalidParameter
from helios_core.fhir.search import Filter
from helios_postgres.clock import to_stamp
from helios_postgres.databases import Connection
from helios_postgres.lookups import stored_version
from helios_postgres.ordering import BY_ID, Head, Scope
from helios_postgres.ranges import scope_range

_CONTENTS = """
SELECT seq, id, version_id, since_stamp, deleted, line_hash, content FROM versions
WHERE seq = ANY($1::bigint[])
"""
_COUNT = """
SELECT (SELECT coalesce(sum(begun), 0) FROM extents WHERE extent BETWEEN $1 AND $2)
  - (SELECT coalesce(sum(ended), 0) FROM tallies WHERE extent BETWEEN $1 AND $2)
"""

PAGE_BYTES = 16 * 1024 * 1024
"""Where a page ends before it is full, so that large resources do not pile up."""

CONTENTS_AT_ONCE = 100
"""How many contents are asked for together."""

BYTES_AT_ONCE = 4 * 1024 * 1024
"""How many bytes of contents are asked for together, unless a single one is larger."""

_SIGNS = {
    Order.ID: "id",
    Order.ID_DESCENDING: "-id",
    Order.LAST_UPDATED: "at",
    Order.LAST_UPDATED_DESCENDING: "-at",
}
_TOKEN = re.compile(r"(-?)(?:id|at:([0-9]{1,18})):([A-Za-z0-9\-.]{1,64})")

NOTHING = 0
"""A scope in which nothing is."""


async def search(
    connection: Connection, scope: int, query: Query, *, count: int, after: str | None
) -> Page:
    """
    Give a page of a search.

    Raises:
        InvalidParameter: `after` is not something a page in this order gave.
    """
    ending = None if after is None else _ending(after, query.order)
    searching = _Search(Scope(connection, scope, query.filter.prefilter()), query.filter)
    async with aclosing(searching.matches(query.order, ending, count)) as matches:
        found, more = await _page(matches, count)
    total = None
    if query.total:
        whole = after is None and not more
        total = len(found) if whole else await searching.total()
    return Page(
        resources=found, next=_token(found[-1], query.order) if more else None, total=total
    )


class _Search:
    """One filter within one scope."""

    def __init__(self, scope: Scope, condition: Filter) -> None:
        self._scope = scope
        self._filter = condition

    async def matches(
        self, order: Order, after: Head | None, count: int
    ) -> AsyncGenerator[StoredVersion]:
        """Give what matches, in order; `count` is how many are going to be asked for."""
        async with aclosing(self._scope.ordered(order, after)) as ordered:
            async for heads in ordered:
                # One more, since whether there is a next page is asked as well.
                async for found in self._among(heads, min(count + 1, CONTENTS_AT_ONCE)):
                    for stored in found:
                        yield stored

    async def total(self) -> int:
        """Count all that match."""
        if _passes_everything(self._filter):
            extents = scope_range(self._scope.number).extents
            return int(await self._scope.connection.fetchval(_COUNT, *extents))
        total = 0
        async with aclosing(self._scope.unordered()) as unordered:
            async for heads in unordered:
                async for found in self._among(heads, CONTENTS_AT_ONCE):
                    total += len(found)
        return total

    async def _among(
        self, heads: Sequence[Head], at_once: int
    ) -> AsyncIterator[list[StoredVersion]]:
        """Give those heads that match, with their contents and in the same order."""
        for some in _cut(heads, at_once):
            rows = await self._scope.connection.fetch(_CONTENTS, [head.seq for head in some])
            stored = {seq: stored_version(self._filter.resource_type, row) for seq, *row in rows}
            yield [each for head in some if self._matches(each := stored[head.seq])]

    def _matches(self, stored: StoredVersion) -> bool:
        return stored.content is not None and self._filter.matches(stored.content)


def _cut(heads: Sequence[Head], at_once: int) -> list[list[Head]]:
    """Cut heads into runs that are read together."""
    runs: list[list[Head]] = []
    room = 0
    for head in heads:
        if not runs or len(runs[-1]) == at_once or room < head.size:
            runs.append([])
            room = BYTES_AT_ONCE
        runs[-1].append(head)
        room -= head.size
    return runs


def _passes_everything(condition: Filter) -> bool:
    return not condition.elements and condition.matches(b"{}")


async def _page(
    matches: AsyncIterator[StoredVersion], count: int
) -> tuple[list[StoredVersion], bool]:
    """Give what fits on a page, and whether there is more."""
    found: list[StoredVersion] = []
    room = PAGE_BYTES
    async for stored in matches:
        if len(found) == count or (found and room <= 0):
            return found, True
        found.append(stored)
        room -= len(stored.content or b"")
    return found, False


def _token(last: StoredVersion, order: Order) -> str:
    at = "" if order in BY_ID else f":{to_stamp(last.last_updated)}"
    return f"{_SIGNS[order]}{at}:{last.id}"


def _ending(token: str, order: Order) -> Head:
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] + ("id" if match[2] is None else "at") != _SIGNS[order]:
        raise InvalidParameter(
            "the page asked for is not one that this search gave; follow its links as they are,"
            " or start again without one"
        )
    return Head(stamp=int(match[2] or 0), id=match[3], seq=0, size=0)
