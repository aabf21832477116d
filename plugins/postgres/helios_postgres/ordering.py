"""The current versions of a collection in a search's order, without their contents."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from helios_core import (
    DESCENDING_ORDERS,
    ID_ORDERS,
    PagePosition,
    SortOrder,
    collection_range,
    extent_of,
    read_statements,
)
from helios_core.fhir import FOREVER, Prefilter
from helios_postgres.candidates import candidates, seqs_in
from helios_postgres.connections import Connection

_SQL = read_statements("helios_postgres", "ordering")


EXTENTS_AT_ONCE = 64
"""How many extents one query searches at most; the first query searches one."""

WHOLE_EXTENTS_AT_ONCE = 4
"""How many extents one query reads at most without a prefilter."""

SORTED_AT_ONCE = 5000
"""The most candidates that are sorted by id; if there are more, the index by id is scanned."""

IDS_AT_ONCE = 1000
"""How many ids one query reads; the first query reads a tenth."""


class Candidate(NamedTuple):
    """A current version without its content."""

    stamp: int
    id: str
    seq: int
    size: int


class Search(NamedTuple):
    """The candidates of a search: a collection, or what a prefilter leaves of it."""

    connection: Connection
    number: int
    prefilter: Prefilter | None

    async def unordered(self) -> AsyncGenerator[list[Candidate]]:
        """Yield all candidates in no order, a few extents at a time."""
        rows = await self.connection.fetch(
            _SQL["extents_from"], *collection_range(self.number).extents, 0
        )
        for extents in self._windows([extent for extent, *_ in rows]):
            yield await self._in_extents(extents)

    async def ordered(
        self, order: SortOrder, after: PagePosition | None
    ) -> AsyncGenerator[list[Candidate]]:
        """Yield the candidates after a position in an order, in runs."""
        if order not in ID_ORDERS:
            async for heads in self._by_age(after, descending=order in DESCENDING_ORDERS):
                yield heads
        elif (candidates := await self._few_candidates()) is None:
            async for heads in self._by_id(after, descending=order in DESCENDING_ORDERS):
                yield heads
        else:
            yield _sorted_by_id(candidates, after, descending=order in DESCENDING_ORDERS)

    async def _in_extents(self, extents: Sequence[int]) -> list[Candidate]:
        if self.prefilter is None:
            rows = await self.connection.fetch(_SQL["in_extents"], extents)
        else:
            found = await candidates(self.connection, self.number, self.prefilter, extents=extents)
            rows = await self.connection.fetch(_SQL["among"], seqs_in(found)) if found else []
        return [Candidate(*row) for row in rows]

    async def _few_candidates(self) -> list[Candidate] | None:
        """Return all candidates, or None if there are more than `SORTED_AT_ONCE`."""
        if self.prefilter is None:
            return None
        collected: list[Candidate] = []
        async for heads in self.unordered():
            collected += heads
            if len(collected) > SORTED_AT_ONCE:
                return None
        return collected

    def _windows(self, extents: Sequence[int]) -> Iterator[Sequence[int]]:
        most = WHOLE_EXTENTS_AT_ONCE if self.prefilter is None else EXTENTS_AT_ONCE
        start, count = 0, 1
        while start < len(extents):
            yield extents[start : start + count]
            start, count = start + count, min(2 * count, most)

    async def _by_id(
        self, after: PagePosition | None, *, descending: bool
    ) -> AsyncIterator[list[Candidate]]:
        query = _SQL["by_id_descending"] if descending else _SQL["by_id"]
        last = None if after is None else after.id
        count = IDS_AT_ONCE // 10
        while rows := await self.connection.fetch(query, self.number, last, count):
            heads = [Candidate(*row) for row in rows]
            yield await self._narrowed(heads)
            last, count = heads[-1].id, IDS_AT_ONCE

    async def _narrowed(self, heads: list[Candidate]) -> list[Candidate]:
        if self.prefilter is None:
            return heads
        extents = sorted({extent_of(head.seq) for head in heads})
        found = await candidates(self.connection, self.number, self.prefilter, extents=extents)
        seqs = set(seqs_in(found))
        return [head for head in heads if head.seq in seqs]

    async def _by_age(
        self, after: PagePosition | None, *, descending: bool
    ) -> AsyncIterator[list[Candidate]]:
        """
        Yield candidates by stamp, and by id for equal stamps.

        Extents of concurrent writers overlap in time. Candidates that come before the next extent
        in the order can be yielded at once; the others wait until that extent has been read.
        """
        query, start = (
            (_SQL["extents_up_to"], FOREVER) if descending else (_SQL["extents_from"], 0)
        )
        bound = start if after is None else after.stamp
        rows = await self.connection.fetch(query, *collection_range(self.number).extents, bound)
        edges = {extent: -last if descending else first for extent, first, last in rows}
        waiting: list[Candidate] = []
        done = 0
        for extents in self._windows(list(edges)):
            waiting += await self._in_extents(extents)
            done += len(extents)
            edge = next(iter(list(edges.values())[done:]), FOREVER)
            ready = [head for head in waiting if _age(head, descending=descending) < edge]
            waiting = [head for head in waiting if _age(head, descending=descending) >= edge]
            yield _sorted_by_age(ready, after, descending=descending)


def _sorted_by_id(
    heads: Sequence[Candidate], after: PagePosition | None, *, descending: bool
) -> list[Candidate]:
    ordered = sorted(heads, key=attrgetter("id"), reverse=descending)
    if after is None:
        return ordered
    return [head for head in ordered if (head.id < after.id if descending else head.id > after.id)]


def _sorted_by_age(
    heads: Sequence[Candidate], after: PagePosition | None, *, descending: bool
) -> list[Candidate]:
    ordered = sorted((_age(head, descending=descending), head.id, head) for head in heads)
    bound = None if after is None else (_age(after, descending=descending), after.id)
    return [head for age, id_, head in ordered if bound is None or (age, id_) > bound]


def _age(head: Candidate | PagePosition, *, descending: bool) -> int:
    return -head.stamp if descending else head.stamp
