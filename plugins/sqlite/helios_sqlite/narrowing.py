"""Read of a shard what the search index says may match, and all of it where that is broken."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import structlog

from helios_core import BackendError, Batch, Damaged, SeqRange, extent_of, shortfall_of
from helios_core.fhir import Prefilter
from helios_sqlite import reading
from helios_sqlite.candidates import Candidates
from helios_sqlite.errors import is_damage
from helios_sqlite.integrity import extent_at, one_state
from helios_sqlite.reading import Slice

log = structlog.stdlib.get_logger()

ENOUGH = 1000
"""Candidates that are worth a query of their own."""


class Narrowed:
    """What is left to read of a shard."""

    def __init__(self, connection: sqlite3.Connection, whole: Slice, prefilter: Prefilter) -> None:
        self._connection = connection
        self._left: Slice | None = whole
        self._pending: list[int] = []
        self._checked = -1
        candidates = Candidates(connection, whole.shown.collection, prefilter, by_rows=True)
        seqs = SeqRange(first=whole.shown.first, end=whole.shown.end)
        self._windows: Iterator[list[int]] | None = (
            candidates.picked(seqs) if whole.picked else candidates.seqs(seqs)
        )

    def next_batch(self, batch_bytes: int) -> Batch | None:
        """Return the next batch, perhaps an empty one, or None at the end (P3, P5, P6, P9)."""
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
        while len(self._pending) < ENOUGH and (window := next(windows, None)) is not None:
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
        """Return a report for each extent with candidates that should perhaps be shown."""
        if left.picked:  # what can be checked of a cohort was checked when it was picked
            return []
        unshown = reading.unshown_among(self._connection, left, seqs)
        reports = list[Damaged]()
        for number in sorted({extent_of(seq) for seq in unshown}):
            if number <= self._checked:
                continue
            self._checked = number
            with one_state(self._connection):
                extent = extent_at(self._connection, number)
                found = extent.count_of_damaged(self._connection)
            if found is not None:
                report = shortfall_of(left.resource_type, found=found, expected=extent.appended)
                reports.append(report)
        return reports
