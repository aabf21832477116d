"""Narrowed reads: only what may match according to the search index is read of a shard."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import structlog

from helios_core import BackendError, Batch, Damaged, SeqRange, extent_of, shortfall_of
from helios_core.fhir import Prefilter
from helios_sqlite import reading
from helios_sqlite.candidates import Candidates
from helios_sqlite.errors import is_damage
from helios_sqlite.integrity import extent_at, snapshot
from helios_sqlite.reading import Slice

log = structlog.stdlib.get_logger()

CANDIDATES_AT_ONCE = 1000
"""How many candidates are collected before they are read."""


class Narrowed:
    """A narrowed read of one shard; if the index is damaged, the rest is read without it."""

    def __init__(self, connection: sqlite3.Connection, shard: Slice, prefilter: Prefilter) -> None:
        self._connection = connection
        self._left: Slice | None = shard
        self._pending: list[int] = []
        self._checked = -1
        candidates = Candidates(connection, shard.shown.collection, prefilter, by_rows=True)
        seqs = SeqRange(first=shard.shown.first, end=shard.shown.end)
        self._windows: Iterator[list[int]] | None = (
            candidates.picked(seqs) if shard.picked else candidates.seqs(seqs)
        )

    def next_batch(self, batch_bytes: int) -> Batch | None:
        """Return the next batch, which may be empty, or None at the end (P3, P5, P6, P9)."""
        if self._left is None:
            return None
        if self._windows is not None and not self._left.reports:
            try:
                return self._next_candidates(self._left, self._windows, batch_bytes)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
            except BackendError as error:
                log.warning("index.damaged", reason=str(error))
            self._windows = None
        batch, self._left = reading.next_batch(self._connection, self._left, batch_bytes)
        return batch

    def _next_candidates(
        self, left: Slice, windows: Iterator[list[int]], batch_bytes: int
    ) -> Batch | None:
        while (
            len(self._pending) < CANDIDATES_AT_ONCE and (window := next(windows, None)) is not None
        ):
            self._pending += window
            if reports := self._damage_among(left, window):
                return Batch(damaged=reports)
        if not self._pending:
            self._left = None
            return None
        batch, following = reading.next_among(self._connection, left, self._pending, batch_bytes)
        last = self._pending[-1] + 1 if following is None else following
        self._pending = self._pending[bisect_left(self._pending, last) :]
        self._left = left.starting(last)
        return batch

    def _damage_among(self, left: Slice, seqs: Sequence[int]) -> list[Damaged]:
        """Return a report for each damaged extent with candidates that are not shown."""
        if left.picked:  # cohorts were verified when they were picked
            return []
        unshown = reading.unshown_among(self._connection, left, seqs)
        reports = list[Damaged]()
        for number in sorted({extent_of(seq) for seq in unshown}):
            if number <= self._checked:
                continue
            self._checked = number
            with snapshot(self._connection):
                extent = extent_at(self._connection, number)
                found = extent.count_of_damaged(self._connection)
            if found is not None:
                report = shortfall_of(left.resource_type, found=found, expected=extent.appended)
                reports.append(report)
        return reports
