"""Pages of a search: candidates are read in the requested order until a page is full."""

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
"""The most candidates that are sorted by id; if there are more, the index by id is scanned."""

_AFTER_ALL_IDS = "\x7f"


class _Head(NamedTuple):
    """A live version without its content; heads compare by stamp, then by id."""

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
        InvalidParameter: `after` is not from a page in this order.
    """
    searching = _Search(connection, find_collection(connection, key) or NOWHERE, query)
    heads = searching.heads(None if after is None else parse_page_token(after, query.order))
    with closing(heads):
        found, more = _page(searching.matches(heads), count, query.max_bytes)
    following = make_page_token(found[-1], query.order) if more else None
    total = None
    if query.counts:
        is_complete = after is None and not more
        total = len(found) if is_complete else searching.total()
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
        """Yield the candidates after a position, in the order of the query."""
        if self._order in ID_ORDERS:
            return self._by_id(after)
        return self._by_age(after)

    def matches(self, heads: Iterable[_Head]) -> Iterator[StoredVersion]:
        """Yield the candidates that match, with their contents."""
        for head in heads:
            row = self._connection.execute(_SQL["content"], (head.seq,)).fetchone()
            if row is None:
                raise damaged("a version is missing")
            if (stored := self._match(row)) is not None:
                yield stored

    def total(self) -> int:
        """Count all matches."""
        if self._filter.passes_everything:
            return int(self._connection.execute(_SQL["count"], self._range.extents).fetchone()[0])
        return sum(1 for row in self._rows() if self._match(row) is not None)

    def _match(self, row: Row) -> StoredVersion | None:
        stored = stored_version(self._filter.resource_type, row)
        matches = stored.content is not None and self._filter.matches(stored.content)
        return stored if matches else None

    def _rows(self) -> Iterator[Row]:
        """Yield all candidates with their contents, in no order."""
        if self._candidates is None:
            yield from self._connection.execute(
                _SQL["contents"], (self._range.first, self._range.end)
            )
            return
        for window in self._candidates.seqs(self._range):
            yield from self._connection.execute(_SQL["contents_among"], (json.dumps(window),))

    def _by_id(self, after: PagePosition | None) -> Generator[_Head]:
        candidates = self._few_candidates()
        if candidates is not None:
            descending = self._order is SortOrder.ID_DESCENDING
            for head in sorted(candidates, key=lambda head: head.id, reverse=descending):
                if after is None or (head.id < after.id if descending else head.id > after.id):
                    yield head
            return
        first = "" if self._order is SortOrder.ID else _AFTER_ALL_IDS
        key = (self._collection, first if after is None else after.id)
        with closing(self._connection.execute(_BY_ID[self._order], key)) as rows:
            yield from map(_Head._make, rows)

    def _few_candidates(self) -> list[_Head] | None:
        """Return all candidates, or None if there are more than `SORTED_AT_ONCE`."""
        if self._candidates is None:
            return None
        heads = self._of_range(self._range, SortOrder.LAST_UPDATED)
        with closing(heads):
            candidates = list(islice(heads, SORTED_AT_ONCE + 1))
        return candidates if len(candidates) <= SORTED_AT_ONCE else None

    def _by_age(self, after: PagePosition | None) -> Generator[_Head]:
        heads = self._of_range(self._narrowed(after), self._order)
        for stamp, together in groupby(heads, key=lambda head: head.stamp):
            for head in sorted(together):
                if after is None or stamp != after.stamp or head.id > after.id:
                    yield head

    def _narrowed(self, after: PagePosition | None) -> SeqRange:
        """Return the range of versions that may come after a position."""
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
    """Return the matches that fit on a page, and whether there are more."""
    page = PageBuilder(count, max_bytes)
    for stored in matches:
        if not page.add(stored):
            return page.found, True
    return page.found, False
