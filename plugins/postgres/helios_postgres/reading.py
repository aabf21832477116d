"""Reading: the resources of one shard that a view shows, batch by batch."""

import struct
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import compress
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from asyncpg import Record
from xxhash import xxh3_64_intdigest

from helios_core import (
    EXTENT_BITS,
    HASH_MODULUS,
    BackendError,
    BackendUnavailable,
    Batch,
    Damaged,
    ResourceSums,
    SeqRange,
    damage_of,
    line_hash,
    read_statements,
    shortfall_of,
    verified_batch,
)
from helios_postgres.cohorts import Member, StoredCohort, check, members_shown
from helios_postgres.connections import Connection
from helios_postgres.integrity import current_in, damage_in, damaged
from helios_postgres.replicas import Reads
from helios_postgres.views import Shown
from helios_postgres.windows import Window, join_windows, windows_of

_SQL = read_statements("helios_postgres", "reading")

T = TypeVar("T")


class _Query(NamedTuple):
    all_resources: str
    cohort: str
    """The same statement restricted to a cohort, whose number is $7."""


_TOGETHER = _Query(_SQL["together"], _SQL["together_of_cohort"])
_SIZES = _Query(_SQL["sizes"], _SQL["sizes_of_cohort"])
_SIZES_AMONG = _Query(_SQL["sizes_among"], _SQL["sizes_among_of_cohort"])
_DELETED = _Query(_SQL["deleted"], _SQL["deleted_of_cohort"])

PICKED_AT_ONCE = 4096
"""How many versions of a cohort, or candidates of a search, one query reads."""

DAMAGED_AT_ONCE = 1000

PIECE_BYTES = 64 * 1024
"""The smallest piece of a large resource; below it, the round trip costs more than the read."""

LOOKED_UP_SHARE = 0.3
"""A cohort is looked up by its patients if it has at most this share of all versions."""

LOOKED_UP = 1000
"""A cohort with at most this many versions is looked up by its patients in any case."""

_Row: TypeAlias = Record | tuple[int, int, bytes | None]
"""Seq, hash of the line, and line; None is a line that cannot be read."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The range of a shard, and what is read from it."""

    collection: int
    resource_type: str
    seqs: SeqRange
    shown: Shown
    cohort: StoredCohort | None = None
    """The patients whose resources are read; None for all patients."""


class Reading:
    """Reads slices, in one transaction per step."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def batches(self, of: Slice, batch_bytes: int) -> AsyncIterator[Batch]:
        """Yield the resources of a slice that are shown, by seq (P3, P4, P6)."""
        members = await self._members(of)
        if members is not None:
            sizes = [(member.seq, member.size) for member in members if not member.deleted]
            async for batch in self._by_size(of, sizes, batch_bytes):
                yield batch
                del batch
            return
        for window in join_windows(await self._windows(of), batch_bytes):
            together, is_all = None, False
            if window.bytes <= batch_bytes:
                together, is_all = await self._together(of, window.seqs)
            damage = [] if is_all else await self._damage_in(of, window.seqs)
            if together is not None and not damage:
                if together.lines:
                    yield together
                del together
                continue
            if damage:
                yield Batch(damaged=damage)
            rows = await self._fetch(_SIZES, of, window.seqs)
            async for batch in self._by_size(of, [(seq, size) for seq, size in rows], batch_bytes):
                yield batch
                del batch

    async def among(
        self, of: Slice, seqs: Sequence[int], batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Yield those of these versions of a slice that are shown; `seqs` ascend."""
        for start in range(0, len(seqs), PICKED_AT_ONCE):
            chunk = seqs[start : start + PICKED_AT_ONCE]
            [(found,)] = await self._run(of, _SQL["count"], chunk)
            if found != len(chunk):
                report = shortfall_of(of.resource_type, found=found, expected=len(chunk))
                yield Batch(damaged=[report])
            bounds = SeqRange(first=chunk[0], end=chunk[-1] + 1)
            rows = await self._fetch(_SIZES_AMONG, of, bounds, list(chunk))
            async for batch in self._by_size(of, [(seq, size) for seq, size in rows], batch_bytes):
                yield batch
                del batch

    async def shown_among(self, of: Slice, seqs: Sequence[int]) -> set[int]:
        """Return those of these versions that are shown; `seqs` ascend."""
        bounds = SeqRange(first=seqs[0], end=seqs[-1] + 1)
        rows = await self._fetch(_SIZES_AMONG, of, bounds, list(seqs))
        return {seq for seq, _ in rows}

    async def deleted(self, of: Slice, batch_rows: int) -> AsyncIterator[Sequence[str]]:
        """
        Yield the ids of deletions that are shown, by seq.

        Raises:
            BackendError: Versions are missing or damaged, which may be deletions.
        """
        members = await self._members(of)
        if members is not None:
            deleted = [member.seq for member in members if member.deleted]
            for start in range(0, len(deleted), batch_rows):
                rows = await self._run(of, _SQL["ids"], deleted[start : start + batch_rows])
                yield [row[1] for row in sorted(rows, key=itemgetter(0))]
            return
        if await self._damage_in(of, of.seqs):
            raise damaged(f"deletions of {of.resource_type} may be missing")
        for window in await self._windows(of):
            rows = await self._fetch(_DELETED, of, window.seqs)
            ids = [row[1] for row in sorted(rows, key=itemgetter(0))]
            for start in range(0, len(ids), batch_rows):
                yield ids[start : start + batch_rows]

    async def _windows(self, of: Slice) -> list[Window]:
        return await self._reads.run(of.shown.at, windows_of, of.seqs, of.shown)

    async def damage(self, of: Slice) -> list[Damaged]:
        """Return the damage to the cohort of a slice, or to its extents (P4, P9)."""
        return [] if await self._members(of) is not None else await self._damage_in(of, of.seqs)

    async def damage_of_extent(self, of: Slice, extent: int) -> list[Damaged]:
        """Return a report if an extent is damaged."""
        first, end = extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
        return await self._damage_in(of, SeqRange(first=first, end=end))

    async def _damage_in(self, of: Slice, seqs: SeqRange) -> list[Damaged]:
        return await self._reads.run(of.shown.at, damage_in, of.resource_type, seqs)

    async def _members(self, of: Slice) -> list[Member] | None:
        """
        Return the shown versions of the slice's cohort, looked up by its patients.

        Returns None if there is no cohort, if it has so many versions that scanning all is faster,
        or if its versions do not agree with their sums.
        """
        if of.cohort is None:
            return None
        rows = sum(window.rows for window in await self._windows(of))
        if of.cohort.size >= rows:
            return None
        at_most = max(LOOKED_UP, int(rows * LOOKED_UP_SHARE))
        return await _unless_damaged(
            self._reads.run_on_primary(members_shown, of.cohort, of.seqs, of.shown, at_most)
        )

    async def _together(self, of: Slice, seqs: SeqRange) -> tuple[Batch | None, bool]:
        """
        Return the shown resources of a window, and whether these agree with its extents' sums.

        The batch is None if its rows must be read one by one.
        """
        if of.cohort is not None:
            found = await _unless_damaged(self._fetch(_TOGETHER, of, seqs))
            return None if found is None else _join_runs(found), False
        try:
            runs, current = await self._reads.run(
                of.shown.at, _together, of.shown.parameters(seqs), seqs
            )
        except BackendUnavailable:
            raise
        except BackendError:
            return None, False
        batch = _join_runs(runs)
        return batch, batch is not None and current.agree(_sums(runs))

    async def _fetch(
        self, query: _Query, of: Slice, seqs: SeqRange, *further: object
    ) -> list[Record]:
        parameters = of.shown.parameters(seqs)
        if of.cohort is None:
            return await self._run(of, query.all_resources, *parameters, *further)
        number = of.cohort.number
        return await self._run_for_cohort(of.cohort, query.cohort, *parameters, number, *further)

    async def _by_size(
        self, of: Slice, sizes: Iterable[tuple[int, int]], batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Yield lines in batches of at most `batch_bytes`, a larger line in one of its own."""
        for seqs, size in _cut(sorted(sizes), batch_bytes):
            if size > batch_bytes:
                piece_bytes = max(batch_bytes, PIECE_BYTES)
                rows: Sequence[_Row] = [await self._large(of, seqs[0], size, piece_bytes)]
            else:
                rows = await self._lines(of, seqs)
            async for batch in self._checked(of, rows):
                yield batch
                del batch
            del rows  # or they would stay in memory while the next ones are read

    async def _lines(self, of: Slice, seqs: Sequence[int]) -> Sequence[_Row]:
        rows = await _unless_damaged(self._run(of, _SQL["contents"], seqs))
        return [await self._one(of, seq) for seq in seqs] if rows is None else rows

    async def _one(self, of: Slice, seq: int) -> _Row:
        """Return one row, without its line if PostgreSQL cannot read that."""
        rows = await _unless_damaged(self._run(of, _SQL["contents"], [seq]))
        return (rows or await self._run(of, _SQL["no_content"], [seq]))[0]

    async def _large(self, of: Slice, seq: int, size: int, piece_bytes: int) -> _Row:
        """Read one line in pieces, since the driver holds three copies of each response."""
        row = (await self._run(of, _SQL["no_content"], [seq]))[0]
        line = BytesIO()
        while line.tell() < size:
            start = line.tell() + 1
            pieces = await _unless_damaged(self._run(of, _SQL["piece"], seq, start, piece_bytes))
            if pieces is None or pieces[0][0] is None:
                return row
            if not line.write(pieces[0][0]):
                break
        return row[0], row[1], line.getvalue()

    async def _checked(self, of: Slice, rows: Sequence[_Row]) -> AsyncIterator[Batch]:
        """Yield rows as one batch, and reports of damaged ones in further batches (P6)."""
        batch, altered = _batch(sorted(rows, key=itemgetter(0)))
        named = await self._run(of, _SQL["ids"], list(altered)) if altered else []
        reports = [damage_of(of.resource_type, id_, altered[seq]) for seq, id_ in named]
        if batch.lines:
            yield batch
        del batch, altered
        for start in range(0, len(reports), DAMAGED_AT_ONCE):
            yield Batch(damaged=reports[start : start + DAMAGED_AT_ONCE])

    async def _run(self, of: Slice, query: str, *parameters: object) -> list[Record]:
        return await self._reads.run(of.shown.at, _rows, query, *parameters)

    async def _run_for_cohort(
        self, cohort: StoredCohort, query: str, *parameters: object
    ) -> list[Record]:
        return await self._reads.run_on_primary(_rows_of_cohort, cohort, query, *parameters)


async def _unless_damaged(read: Awaitable[T]) -> T | None:
    """Return the result of a read, or None if PostgreSQL cannot read the stored data (P6)."""
    try:
        return await read
    except BackendUnavailable:
        raise
    except BackendError:
        return None


async def _together(
    connection: Connection, parameters: Sequence[Any], seqs: SeqRange
) -> tuple[list[Record], ResourceSums]:
    """Return the shown rows of a window, and the sums of its live resources, of one snapshot."""
    runs = await connection.fetch(_TOGETHER.all_resources, *parameters)
    return runs, await current_in(connection, seqs, all_resources=parameters[-1])


def _sums(runs: Sequence[Record]) -> ResourceSums:
    sizes = [size for _, packed, _ in runs for (size,) in struct.iter_unpack(">i", packed)]
    return ResourceSums(len(sizes), sum(sizes), sum(int(hashes) for hashes, _, _ in runs))


async def _rows(connection: Connection, query: str, *parameters: object) -> list[Record]:
    return await connection.fetch(query, *parameters)


async def _rows_of_cohort(
    connection: Connection, cohort: StoredCohort, query: str, *parameters: object
) -> list[Record]:
    # The tables of cohorts are unlogged, so replicas do not have them.
    await check(connection, cohort)
    return await connection.fetch(query, *parameters)


def _cut(
    sizes: Iterable[tuple[int, int]], batch_bytes: int
) -> Iterator[tuple[Sequence[int], int]]:
    """Yield runs of seqs that fit into one batch, with their size; a larger one is alone."""
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


def _join_runs(runs: Sequence[Record]) -> Batch | None:
    """Return the lines of runs as a batch, or None if they do not agree with their hashes."""
    if not runs:
        return Batch()
    sums, sizes, texts = zip(*runs, strict=True)
    text = b"\n".join(text for text in texts if text is not None)
    packed = b"".join(sizes)
    return verified_batch(
        text, struct.unpack(f">{len(packed) // 4}i", packed), sum(map(int, sums))
    )


def _batch(rows: Sequence[_Row]) -> tuple[Batch, dict[int, bytes | None]]:
    """Return the intact lines as a batch, and the damaged ones by seq."""
    if not rows:
        return Batch(), {}
    seqs, hashes, lines = zip(*rows, strict=True)
    if None not in lines:
        digests = list(map(xxh3_64_intdigest, lines))
        if (sum(digests) - sum(hashes)) % HASH_MODULUS == 0:
            return Batch(lines=lines, digests=digests), {}
    intact = [line is not None and line_hash(line) == stored for _, stored, line in rows]
    damaged = {seq: line for seq, line, good in zip(seqs, lines, intact, strict=True) if not good}
    return Batch(lines=list(compress(lines, intact))), damaged
