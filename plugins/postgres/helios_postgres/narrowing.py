"""Narrowed reads: only what may match according to the search index is read of a shard."""

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

CANDIDATES_AT_ONCE = 1000
"""How many candidates are collected before they are read."""


class Narrowed:
    """Reads the resources of slices that may satisfy a prefilter, one transaction per step."""

    def __init__(self, reads: Reads, prefilter: Prefilter) -> None:
        self._reads = reads
        self._prefilter = prefilter

    async def batches(self, of: Slice, batch_bytes: int) -> AsyncIterator[Batch]:
        """
        Yield resources of a slice, at least all that satisfy the prefilter, in order (P3, P5, P6).

        From the point where the index is damaged, everything is read without it.
        """
        reading = Reading(self._reads)
        remaining = of
        if of.cohort is not None and (damage := await reading.damage(of)):
            yield Batch(damaged=damage)
        checked = set[int]()
        async with aclosing(self._seqs(of)) as runs:
            while seqs := await _next_or_none(runs):
                for extent in await self._suspicious(of, seqs, checked):
                    if damage := await reading.damage_of_extent(of, extent):
                        yield Batch(damaged=damage)
                async for batch in reading.among(remaining, seqs, batch_bytes):
                    yield batch
                    del batch
                remaining = _after(remaining, seqs[-1])
        if seqs is None:
            async for batch in reading.batches(remaining, batch_bytes):
                yield batch
                del batch

    async def _suspicious(self, of: Slice, seqs: list[int], checked: set[int]) -> list[int]:
        """
        Return the extents of candidates whose rows may be damaged, without those in `checked`.

        These candidates are not shown, or have lost their ending. Cohorts are checked otherwise.
        """
        if of.cohort is not None:
            return []
        shown = await Reading(self._reads).shown_among(of, seqs)
        shown -= await self._reads.run(of.shown.at, _without_state, of.collection, seqs)
        extents = {extent_of(seq) for seq in seqs if seq not in shown} - checked
        checked |= extents
        return sorted(extents)

    async def _seqs(self, of: Slice) -> AsyncGenerator[list[int]]:
        """Yield the seqs of candidates in order, in runs of about `CANDIDATES_AT_ONCE`."""
        pending: list[int] = []
        extents = await self._extents(of)
        start, count = 0, 1
        while start < len(extents):
            pending += await self._found(of, extents[start : start + count])
            start, count = start + count, min(2 * count, EXTENTS_AT_ONCE)
            if len(pending) >= CANDIDATES_AT_ONCE:
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


async def _without_state(connection: Connection, collection: int, seqs: list[int]) -> set[int]:
    """Return those of these versions that neither ended nor are the newest of their resource."""
    return {seq for (seq,) in await connection.fetch(_SQL["astray"], collection, seqs)}


async def _next_or_none(runs: AsyncIterator[list[int]]) -> list[int] | None:
    """Return the next seqs, an empty list at the end, or None if the index is damaged."""
    try:
        return await anext(runs, [])
    except BackendUnavailable:
        raise
    except BackendError as error:
        log.warning("index.damaged", reason=str(error))
        return None


def _after(of: Slice, seq: int) -> Slice:
    return msgspec.structs.replace(of, seqs=SeqRange(first=seq + 1, end=of.seqs.end))
