"""Read of a shard what the search index says may match."""

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
import structlog

from helios_core import (
    BackendError,
    BackendUnavailable,
    Batch,
    SeqRange,
    extent_of,
    read_statements,
)
from helios_core.fhir import Prefilter
from helios_postgres.candidates import candidates, seqs_in
from helios_postgres.connections import Connection
from helios_postgres.ordering import EXTENTS_AT_ONCE
from helios_postgres.reading import Reading, Slice
from helios_postgres.replicas import Reads

log = structlog.stdlib.get_logger()

_SQL = read_statements("helios_postgres", "narrowing")

ENOUGH = 1000
"""Candidates that are worth a query of their own."""


class Narrowed:
    """Reads of slices what may satisfy a prefilter, in transactions of their own for each step."""

    def __init__(self, reads: Reads, prefilter: Prefilter) -> None:
        self._reads = reads
        self._prefilter = prefilter

    async def batches(self, of: Slice, batch_bytes: int) -> AsyncIterator[Batch]:
        """
        Yield what is shown of a slice: at least all that satisfies, in order (P3, P5, P6).

        Where the index is damaged, the rest is given as if there were none.
        """
        reading = Reading(self._reads)
        left = of
        if of.cohort is not None and (damage := await reading.damage(of)):
            yield Batch(damaged=damage)
        checked = set[int]()
        async with aclosing(self._seqs(of)) as several:
            while seqs := await _undamaged(several):
                for extent in await self._suspicious(of, seqs, checked):
                    if damage := await reading.damage_of_extent(of, extent):
                        yield Batch(damaged=damage)
                async for batch in reading.among(left, seqs, batch_bytes):
                    yield batch
                    del batch
                left = _behind(left, seqs[-1])
        if seqs is None:
            async for batch in reading.batches(left, batch_bytes):
                yield batch
                del batch

    async def _suspicious(self, of: Slice, seqs: list[int], checked: set[int]) -> list[int]:
        """
        Return the extents of candidates that are not shown, or should perhaps not be.

        Of a cohort, there are none.
        """
        if of.cohort is not None:
            return []
        shown = await Reading(self._reads).shown_among(of, seqs)
        shown -= await self._reads.run(of.shown.at, _astray, of.collection, seqs)
        extents = {extent_of(seq) for seq in seqs if seq not in shown} - checked
        checked |= extents
        return sorted(extents)

    async def _seqs(self, of: Slice) -> AsyncGenerator[list[int]]:
        """Yield candidates in order, enough of them at a time."""
        pending: list[int] = []
        extents = await self._extents(of)
        start, count = 0, 1
        while start < len(extents):
            pending += await self._found(of, extents[start : start + count])
            start, count = start + count, min(2 * count, EXTENTS_AT_ONCE)
            if len(pending) >= ENOUGH:
                yield pending
                pending = []
        if pending:
            yield pending

    async def _extents(self, of: Slice) -> list[int]:
        shown = of.shown
        bounds = (*of.seqs.extents, shown.at, shown.since, shown.until)
        return await self._reads.run(shown.at, _extents, bounds)

    async def _found(self, of: Slice, extents: list[int]) -> list[int]:
        at, prefilter = of.shown.at, self._prefilter
        found = await self._reads.run(
            at, candidates, of.collection, prefilter, extents=extents, by_rows=True
        )
        seqs = seqs_in(found)
        return seqs[bisect_left(seqs, of.seqs.first) : bisect_left(seqs, of.seqs.end)]


async def _extents(connection: Connection, bounds: tuple[int, ...]) -> list[int]:
    return [extent for (extent,) in await connection.fetch(_SQL["extents"], *bounds)]


async def _astray(connection: Connection, collection: int, seqs: list[int]) -> set[int]:
    """Return which of some versions neither ended nor are the newest of their resource."""
    return {seq for (seq,) in await connection.fetch(_SQL["astray"], collection, seqs)}


async def _undamaged(several: AsyncIterator[list[int]]) -> list[int] | None:
    """Return the next seqs, none at the end, or None if the index is damaged."""
    try:
        return await anext(several, [])
    except BackendUnavailable:
        raise
    except BackendError as error:
        log.warning("index.damaged", reason=str(error))
        return None


def _behind(of: Slice, seq: int) -> Slice:
    return msgspec.structs.replace(of, seqs=SeqRange(first=seq + 1, end=of.seqs.end))
