"""Pages of a search: what may match, in the order asked for, looked at until a page is full."""

import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby, islice
from typing import NamedTuple

import msgspec

from helios_core import (
    ID_ORDERS,
    PageBuilder,
    PagePosition,
    SearchPage,
    SearchQuery,
    SeqRange,
    SortOrder,
    StoredVersion,
    TypeKey,
    collection_range,
    make_page_token,
    parse_page_token,
    read_statements,
)
from helios_sqlite.candidates import Candidates
from helios_sqlite.collections import NOWHERE, find_collection
from helios_sqlite.errors import damaged
from helios_sqlite.lookups import Row, stored_version
from helios_sqlite.views import first_after

_SQL = read_statements("helios_sqlite", "searching")

_BY_ID = {
    SortOrder.ID: _SQL["by_id"],
    SortOrder.ID_DESCENDING: _SQL["by_id_descending"],
}
_BY_SEQ = {
    SortOrder.LAST_UPDATED: _SQL["by_seq"],
    SortOrder.LAST_UPDATED_DESCENDING: _SQL["by_seq_descending"],
}

SORTED_AT_ONCE = 5000
"""Up to how many candidates are sorted by id; where there are more, all ids are gone through."""

_BEYOND_ALL_IDS = "\x7f"


class _Head(NamedTuple):
    """A current version without its content."""

    stamp: int
    id: str
    seq: int


def search(
    connection: sqlite3.Connection,
    key: TypeKey,
    query: SearchQuery,
    *,
    count: int,
    after: str | None,
) -> SearchPage:
    """
    Return a page of a search.

    Raises:
        InvalidParameter: `after` is not something a page in this order gave.
    """
    searching = _Search(connection, find_collection(connection, key) or NOWHERE, query)
    heads = searching.heads(None if after is None else parse_page_token(after, query.order))
    with closing(heads):
        found, more = _page(searching.matches(heads), count, query.max_bytes)
    following = make_page_token(found[-1], query.order) if more else None
    total = None
    if query.counts:
        whole = after is None and not more
        total = len(found) if whole else searching.total()
    return SearchPage(resources=found, next=following, total=total)


class _Search:
    """One query within one collection."""

    def __init__(
        self, connection: sqlite3.Connection, collection: int, query: SearchQuery
    ) -> None:
        self._connection = connection
        self._collection = collection
        self._range = collection_range(collection)
        self._filter = query.filter
        self._order = query.order
        prefilter = query.filter.prefilter()
        self._candidates = (
            None if prefilter is None else Candidates(connection, collection, prefilter)
        )

    def heads(self, after: PagePosition | None) -> Generator[_Head]:
        """Yield what may match, in order, beginning behind one."""
        if self._order in ID_ORDERS:
            return self._by_id(after)
        return self._by_age(after)

    def matches(self, heads: Iterable[_Head]) -> Iterator[StoredVersion]:
        """Yield those that match, with their contents."""
        for head in heads:
            row = self._connection.execute(_SQL["content"], (head.seq,)).fetchone()
            if row is None:
                raise damaged("a version is missing")
            if (stored := self._match(row)) is not None:
                yield stored

    def total(self) -> int:
        """Count all that match."""
        if self._filter.passes_everything:
            return int(self._connection.execute(_SQL["count"], self._range.extents).fetchone()[0])
        return sum(1 for row in self._rows() if self._match(row) is not None)

    def _match(self, row: Row) -> StoredVersion | None:
        stored = stored_version(self._filter.resource_type, row)
        matches = stored.content is not None and self._filter.matches(stored.content)
        return stored if matches else None

    def _rows(self) -> Iterator[Row]:
        """Yield everything that may match, in any order."""
        if self._candidates is None:
            yield from self._connection.execute(
                _SQL["contents"], (self._range.first, self._range.end)
            )
            return
        for window in self._candidates.seqs(self._range):
            yield from self._connection.execute(_SQL["contents_among"], (json.dumps(window),))

    def _by_id(self, after: PagePosition | None) -> Generator[_Head]:
        few = self._few_candidates()
        if few is not None:
            descending = self._order is SortOrder.ID_DESCENDING
            for head in sorted(few, key=lambda head: head.id, reverse=descending):
                if after is None or (head.id < after.id if descending else head.id > after.id):
                    yield head
            return
        first = "" if self._order is SortOrder.ID else _BEYOND_ALL_IDS
        key = (self._collection, first if after is None else after.id)
        with closing(self._connection.execute(_BY_ID[self._order], key)) as rows:
            yield from map(_Head._make, rows)

    def _few_candidates(self) -> list[_Head] | None:
        """Return the candidates, or None if they are too many to be sorted."""
        if self._candidates is None:
            return None
        heads = self._of_range(self._range, SortOrder.LAST_UPDATED)
        with closing(heads):
            few = list(islice(heads, SORTED_AT_ONCE + 1))
        return few if len(few) <= SORTED_AT_ONCE else None

    def _by_age(self, after: PagePosition | None) -> Generator[_Head]:
        heads = self._of_range(self._narrowed(after), self._order)
        for stamp, together in groupby(heads, key=lambda head: head.stamp):
            for head in sorted(together):
                if after is None or stamp != after.stamp or head.id > after.id:
                    yield head

    def _narrowed(self, after: PagePosition | None) -> SeqRange:
        """Return the range from the instant on, or up to and including it."""
        if after is None:
            return self._range
        if self._order is SortOrder.LAST_UPDATED:
            first = first_after(self._connection, self._range, after.stamp - 1)
            return msgspec.structs.replace(self._range, first=first)
        end = first_after(self._connection, self._range, after.stamp)
        return msgspec.structs.replace(self._range, end=end)

    def _of_range(self, seqs: SeqRange, order: SortOrder) -> Generator[_Head]:
        descending = order is SortOrder.LAST_UPDATED_DESCENDING
        if self._candidates is not None:
            for window in self._candidates.seqs(seqs, descending=descending):
                yield from self._among(window, descending=descending)
            return
        with closing(self._connection.execute(_BY_SEQ[order], (seqs.first, seqs.end))) as rows:
            yield from map(_Head._make, rows)

    def _among(self, seqs: Sequence[int], *, descending: bool) -> list[_Head]:
        rows = self._connection.execute(_SQL["among"], (json.dumps(seqs),))
        return sorted(map(_Head._make, rows), key=lambda head: head.seq, reverse=descending)


def _page(
    matches: Iterable[StoredVersion], count: int, max_bytes: int
) -> tuple[list[StoredVersion], bool]:
    """Return what fits on a page, and whether there is more."""
    page = PageBuilder(count, max_bytes)
    for stored in matches:
        if not page.add(stored):
            return page.found, True
    return page.found, False
