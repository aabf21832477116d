"""Read what a view shows of one shard, batch by batch."""

import struct
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import compress
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import msgspec
from asyncpg import Record
from xxhash import xxh3_64_intdigest

from helios_core import (
    HASH_MODULUS,
    BackendError,
    BackendUnavailable,
    Batch,
    SeqRange,
    damage_of,
    line_hash,
    verified_batch,
)
from helios_postgres.cohorts import StoredCohort, check
from helios_postgres.connections import Connection
from helios_postgres.replicas import Reads
from helios_postgres.views import SHOWN, Shown, shown
from helios_postgres.windows import Window, joined, windows_of


def _from(first: str, end: str) -> str:
    return f"FROM versions AS v WHERE v.seq >= {first} AND v.seq < {end}"


def _live(first: str, end: str) -> str:
    return _from(first, end) + " AND NOT v.deleted" + shown(first, end)


# Which side of a cohort is looked up in the other is decided here and not by the planner: what it
# takes the table to hold, just after a million rows came, can be wrong by any factor. OFFSET keeps
# a query from becoming a join that it could turn around.
_OF_COHORT = """
  AND EXISTS (
    SELECT FROM cohort_members AS k
    WHERE k.cohort = $7 AND k.patient = ANY (string_to_array(v.patients, ' ')) OFFSET 0
  )
"""


class _Query(NamedTuple):
    everybody: str
    cohort: str
    """The same of a cohort, whose number is $7."""


def _query(text: str) -> _Query:
    return _Query(text, text + _OF_COHORT)


# A row for each line would cost PostgreSQL as much as joining the lines does, and the driver twice
# as much. Runs are short enough to be joined, and if need be sorted, in a core's cache.
_RUN = 128
_LINES_OF_RUN = _live("r", f"least(r + {_RUN}, $2)")
_RUNS = f"""
SELECT x.* FROM generate_series($1::bigint, $2::bigint - 1, {_RUN}) AS r, LATERAL (
  SELECT sum(v.line_hash), string_agg(int4send(v.size), '') AS sizes,
    string_agg(v.content, '\\x0a'::bytea)
  FROM (SELECT v.* {_LINES_OF_RUN} %s ORDER BY v.seq) AS v OFFSET 0
) AS x WHERE x.sizes IS NOT NULL
"""  # noqa: S608 - of constants
_TOGETHER = _Query(everybody=_RUNS % "", cohort=_RUNS % _OF_COHORT)
# Nothing is sorted here: a window nearly always comes in order, and what an unanalysed table makes
# the planner expect would have it sorted on disk.
_SIZES = _query("SELECT v.seq, v.size " + _live("$1", "$2"))
_DELETED = _query("SELECT v.seq, v.id " + _from("$1", "$2") + " AND v.deleted" + SHOWN)
_SIZES_AMONG = _Query(
    everybody=_SIZES.everybody + " AND v.seq = ANY ($7::bigint[])",
    cohort=_SIZES.cohort + " AND v.seq = ANY ($8::bigint[])",
)
_CONTENTS = "SELECT seq, line_hash, content FROM versions WHERE seq = ANY ($1::bigint[])"
_PIECE = "SELECT substring(content FROM $2 FOR $3) FROM versions WHERE seq = $1"
_NO_CONTENT = "SELECT seq, line_hash, NULL FROM versions WHERE seq = ANY ($1::bigint[])"
_IDS = "SELECT seq, id FROM versions WHERE seq = ANY ($1::bigint[])"
_PICKED = """
SELECT DISTINCT c.seq FROM cohort_members AS k CROSS JOIN LATERAL (
  SELECT seq FROM compartments
  WHERE scope = $1 AND patient = k.patient AND seq >= $3 AND seq < $4 OFFSET 0
) AS c
WHERE k.cohort = $2 ORDER BY c.seq
"""

PICKED_AT_ONCE = 4096
"""Versions of a cohort, or candidates of a search, that are looked at in one query."""

DAMAGED_AT_ONCE = 1000

_Row: TypeAlias = Record | tuple[int, int, bytes | None]
"""Seq, hash of the line, line."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a shard."""

    scope: int
    resource_type: str
    seqs: SeqRange
    shown: Shown
    cohort: StoredCohort | None = None
    """Whose resources alone are meant; None is everybody."""


class Reading:
    """Reads slices, in transactions of their own for each step."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def batches(self, of: Slice, batch_bytes: int) -> AsyncIterator[Batch]:
        """Give what is shown of a slice, in order (P3, P4, P6)."""
        windows = await self._windows(of)
        if of.cohort is not None and of.cohort.size < sum(window.rows for window in windows):
            seqs = await self.picked(of)
            whosever = msgspec.structs.replace(of, cohort=None)
            async for batch in self.among(whosever, seqs, batch_bytes):
                yield batch
                del batch
            return
        for window in joined(windows, batch_bytes):
            if window.bytes <= batch_bytes:
                together = await self._together(of, window.seqs)
                if together is not None:
                    if together.lines:
                        yield together
                    del together
                    continue
            sizes = await self._fetch(_SIZES, of, window.seqs)
            async for batch in self._by_size(of, sizes, batch_bytes):
                yield batch
                del batch

    async def among(
        self, of: Slice, seqs: Sequence[int], batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Give those of some versions of a slice that are shown; seqs are in order."""
        for start in range(0, len(seqs), PICKED_AT_ONCE):
            some = seqs[start : start + PICKED_AT_ONCE]
            bounds = SeqRange(first=some[0], end=some[-1] + 1)
            sizes = await self._fetch(_SIZES_AMONG, of, bounds, list(some))
            async for batch in self._by_size(of, sizes, batch_bytes):
                yield batch
                del batch

    async def picked(self, of: Slice) -> list[int]:
        """Give the seqs of all versions in the compartments of the slice's cohort, in order."""
        if of.cohort is None:
            return []
        bounds = (of.seqs.first, of.seqs.end)
        rows = await self._ask_cohort(of.cohort, _PICKED, of.scope, of.cohort.number, *bounds)
        return [seq for (seq,) in rows]

    async def deleted(self, of: Slice, batch_rows: int) -> AsyncIterator[Sequence[str]]:
        """Give the ids of the deletions that are shown, in order."""
        for window in await self._windows(of):
            rows = await self._fetch(_DELETED, of, window.seqs)
            ids = [row[1] for row in sorted(rows, key=itemgetter(0))]
            for start in range(0, len(ids), batch_rows):
                yield ids[start : start + batch_rows]

    async def _windows(self, of: Slice) -> list[Window]:
        return await self._reads.run(of.shown.at, windows_of, of.seqs, of.shown)

    async def _together(self, of: Slice, seqs: SeqRange) -> Batch | None:
        """Give what is shown of a window, or None where its rows must be looked at."""
        runs = await _unless_damaged(self._fetch(_TOGETHER, of, seqs))
        return None if runs is None else _joined(runs)

    async def _fetch(
        self, query: _Query, of: Slice, seqs: SeqRange, *further: object
    ) -> list[Record]:
        parameters = of.shown.parameters(seqs)
        if of.cohort is None:
            return await self._ask(of, query.everybody, *parameters, *further)
        number = of.cohort.number
        return await self._ask_cohort(of.cohort, query.cohort, *parameters, number, *further)

    async def _by_size(
        self, of: Slice, sizes: Iterable[Record], batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Give lines in batches that are no larger than asked for, but for a large resource."""
        for seqs, size in _cut(sorted((seq, size) for seq, size in sizes), batch_bytes):
            if size > batch_bytes:
                rows: Sequence[_Row] = [await self._large(of, seqs[0], size, batch_bytes)]
            else:
                rows = await self._lines(of, seqs)
            async for batch in self._checked(of, rows):
                yield batch
                del batch
            del rows  # or they would be kept while the next ones are read

    async def _lines(self, of: Slice, seqs: Sequence[int]) -> Sequence[_Row]:
        rows = await _unless_damaged(self._ask(of, _CONTENTS, seqs))
        return [await self._one(of, seq) for seq in seqs] if rows is None else rows

    async def _one(self, of: Slice, seq: int) -> _Row:
        """Give one line, without its content where PostgreSQL cannot put that together."""
        rows = await _unless_damaged(self._ask(of, _CONTENTS, [seq]))
        return (rows or await self._ask(of, _NO_CONTENT, [seq]))[0]

    async def _large(self, of: Slice, seq: int, size: int, piece_bytes: int) -> _Row:
        """Give one line in pieces: of what comes in one answer the driver holds three copies."""
        row = (await self._ask(of, _NO_CONTENT, [seq]))[0]
        line = BytesIO()
        while line.tell() < size:
            place = line.tell() + 1
            pieces = await _unless_damaged(self._ask(of, _PIECE, seq, place, piece_bytes))
            if pieces is None or pieces[0][0] is None:
                return row
            if not line.write(pieces[0][0]):
                break
        return row[0], row[1], line.getvalue()

    async def _checked(self, of: Slice, rows: Sequence[_Row]) -> AsyncIterator[Batch]:
        """Give rows as one batch, and as more where very many are damaged (P6)."""
        batch, damaged = _batch(sorted(rows, key=itemgetter(0)))
        named = await self._ask(of, _IDS, list(damaged)) if damaged else []
        reports = [damage_of(of.resource_type, id_, damaged[seq]) for seq, id_ in named]
        if batch.lines:
            yield batch
        del batch, damaged
        for start in range(0, len(reports), DAMAGED_AT_ONCE):
            yield Batch(damaged=reports[start : start + DAMAGED_AT_ONCE])

    async def _ask(self, of: Slice, query: str, *parameters: object) -> list[Record]:
        return await self._reads.run(of.shown.at, _rows, query, *parameters)

    async def _ask_cohort(
        self, cohort: StoredCohort, query: str, *parameters: object
    ) -> list[Record]:
        return await self._reads.run_on_primary(_rows_of_cohort, cohort, query, *parameters)


async def _unless_damaged(asked: Awaitable[list[Record]]) -> list[Record] | None:
    """Give rows, or None where something that is stored cannot be read at all (P6)."""
    try:
        return await asked
    except BackendUnavailable:
        raise
    except BackendError:
        return None


async def _rows(connection: Connection, query: str, *parameters: object) -> list[Record]:
    return await connection.fetch(query, *parameters)


async def _rows_of_cohort(
    connection: Connection, cohort: StoredCohort, query: str, *parameters: object
) -> list[Record]:
    # Its tables are not logged, so that a replica does not have them.
    await check(connection, cohort)
    return await connection.fetch(query, *parameters)


def _cut(
    sizes: Iterable[tuple[int, int]], batch_bytes: int
) -> Iterator[tuple[Sequence[int], int]]:
    """Give seqs that fit into a batch together, and how much they are; a large one is alone."""
    seqs: list[int] = []
    total = 0
    for seq, size in sizes:
        if seqs and total + size > batch_bytes:
            yield seqs, total
            seqs, total = [], 0
        seqs.append(seq)
        total += size
    if seqs:
        yield seqs, total


def _joined(runs: Sequence[Record]) -> Batch | None:
    """Give the lines of some runs, or None if they are not those that were written."""
    if not runs:
        return Batch()
    sums, sizes, texts = zip(*runs, strict=True)
    text = b"\n".join(text for text in texts if text is not None)
    packed = b"".join(sizes)
    return verified_batch(
        text, struct.unpack(f">{len(packed) // 4}i", packed), sum(map(int, sums))
    )


def _batch(rows: Sequence[_Row]) -> tuple[Batch, dict[int, bytes | None]]:
    """Give the lines that are as they were written, and the others by their seqs."""
    if not rows:
        return Batch(), {}
    seqs, hashes, lines = zip(*rows, strict=True)
    if None not in lines:
        digests = list(map(xxh3_64_intdigest, lines))
        if (sum(digests) - sum(hashes)) % HASH_MODULUS == 0:
            return Batch(lines=lines, digests=digests), {}
    whole = [line is not None and line_hash(line) == stored for _, stored, line in rows]
    damaged = {seq: line for seq, line, good in zip(seqs, lines, whole, strict=True) if not good}
    return Batch(lines=list(compress(lines, whole))), damaged
