"""Extents: numbered runs of a collection's versions, filled by one writer at a time."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from helios_core import (
    COLLECTION_BITS,
    EXTENT_BITS,
    EXTENT_BYTES,
    EXTENT_ROWS,
    SUM_MASK,
    CompartmentSums,
    ending_mark,
    extent_of,
    read_statements,
    version_mark,
)
from helios_postgres.connections import Connection
from helios_postgres.drafts import Draft, Head
from helios_postgres.indexing import IndexSums

_SQL = read_statements("helios_postgres", "extents")

_NUMBER_BITS = COLLECTION_BITS - EXTENT_BITS


class Extent(msgspec.Struct, kw_only=True):
    """An extent that this transaction has locked, and what it adds to it."""

    collection: int
    extent: int | None = None
    """Its number; None for a new extent that has none yet."""
    rows: int = 0
    bytes: int = 0
    """`rows` and `bytes` are what it contains, including what is added."""
    open: bool = True
    drafts: list[Draft] = msgspec.field(default_factory=list)

    def takes(self, size: int) -> bool:
        """Return whether a version of `size` bytes fits; the first one always does."""
        return self.rows == 0 or (self.rows < EXTENT_ROWS and self.bytes + size <= EXTENT_BYTES)

    def add(self, draft: Draft) -> None:
        """Append a version."""
        self.drafts.append(draft)
        self.rows += 1
        self.bytes += draft.size
        self.open = self.rows < EXTENT_ROWS and self.bytes < EXTENT_BYTES

    def number(self) -> None:
        """Set the seqs of the versions that were appended."""
        base = ((self.extent or 0) << EXTENT_BITS) + self.rows - len(self.drafts)
        for seq, draft in enumerate(self.drafts, base):
            draft.seq = seq


class Counts(msgspec.Struct):
    """Counts and sums of versions, and of those that are in a compartment."""

    rows: int = 0
    bytes: int = 0
    compartment_rows: int = 0
    compartment_bytes: int = 0
    hash_sum: int = 0
    compartment_hash: int = 0
    row_sum: int = 0

    def add(self, version: Draft | Head, stored_hash: int) -> None:
        """Count a version that is not a deletion."""
        self.rows += 1
        self.bytes += version.size
        self.hash_sum = (self.hash_sum + stored_hash) & SUM_MASK
        if version.in_compartment:
            self.compartment_rows += 1
            self.compartment_bytes += version.size
            self.compartment_hash = (self.compartment_hash + stored_hash) & SUM_MASK

    def mark(self, mark: int) -> None:
        """Add the mark of a version or of an ending."""
        self.row_sum = (self.row_sum + mark) & SUM_MASK


async def hold(connection: Connection, collections: Collection[int]) -> dict[int, Extent]:
    """Lock one open extent per collection, if there is one that no other writer has locked."""
    rows = await connection.fetch(_SQL["hold"], list(collections))
    held = (
        Extent(collection=extent >> _NUMBER_BITS, extent=extent, rows=appended, bytes=size)
        for extent, appended, size in rows
    )
    return {extent.collection: extent for extent in held}


async def assign_seqs(
    connection: Connection, drafts: Iterable[Draft], held: dict[int, Extent]
) -> list[Extent]:
    """Set the seqs of all drafts, ascending within a collection; return the extents they fill."""
    extents = list(held.values())
    for draft in drafts:
        collection = draft.key[0]
        extent = held.get(collection)
        if extent is None or not extent.takes(draft.size):
            if extent is not None:
                extent.open = False
            extent = held[collection] = Extent(collection=collection)
            extents.append(extent)
        extent.add(draft)
    await _add_numbers(connection, [new for new in extents if new.extent is None])
    for extent in extents:
        extent.number()
    return extents


async def _add_numbers(connection: Connection, extents: Sequence[Extent]) -> None:
    if extents:
        numbers = await connection.fetch(_SQL["numbers"], len(extents))
        for new, (number,) in zip(extents, numbers, strict=True):
            new.extent = (new.collection << _NUMBER_BITS) + number


async def count_begun(
    connection: Connection,
    extents: Iterable[Extent],
    stamp: int,
    index: Mapping[int, IndexSums],
    sums: CompartmentSums,
) -> None:
    """Store the counts and sums of added versions, and add them to the compartment `sums`."""
    rows = []
    for filled in extents:
        counts = Counts()
        for draft in filled.drafts:
            mark = version_mark(draft.row(stamp))
            counts.mark(mark)
            sums.add(draft.patients or "", draft.seq, mark)
            if not draft.deleted:
                counts.add(draft, draft.line_hash)
        indexed = index.get(filled.extent or 0, IndexSums())
        marks = (indexed.packed & SUM_MASK, indexed.recent & SUM_MASK)
        columns = (*msgspec.structs.astuple(counts), *marks)
        rows.append((filled.extent, len(filled.drafts), filled.open, *columns))
    extent, appended, is_open, begun, size, compartment, compartment_size, *others = zip(
        *rows, strict=True
    )
    counted = (extent, appended, size, begun, compartment, compartment_size, is_open)
    await connection.execute(_SQL["add"], *counted, stamp, *others)


async def count_ended(
    connection: Connection, drafts: Collection[Draft], stamp: int, sums: CompartmentSums
) -> None:
    """Store the counts and sums of ended versions, and add them to the compartment `sums`."""
    ended: defaultdict[int, Counts] = defaultdict(Counts)
    stored = await _stored_before(connection, drafts)
    for draft in drafts:
        if (before := draft.before) is None:
            continue
        counts = ended[extent_of(before.seq)]
        if isinstance(before, Draft):
            hash_before, patients = before.line_hash, before.patients
        else:
            hash_before, patients = stored.get(before.seq, (0, ""))
        mark = ending_mark(before.seq, stamp)
        counts.mark(mark)
        sums.add(patients or "", before.seq, mark)
        if not before.deleted:
            counts.add(before, hash_before)
    if not ended:
        return
    rows = await connection.fetch(_SQL["hold_tallies"], sorted(ended))
    tallies: dict[int, int] = {extent: tally for extent, tally in rows}  # noqa: C416 - records are not tuples
    held = [(tallies[extent], counts) for extent, counts in ended.items() if extent in tallies]
    others = [(extent, counts) for extent, counts in ended.items() if extent not in tallies]
    for query, counted in ((_SQL["count"], held), (_SQL["count_anew"], others)):
        if counted:
            await connection.execute(query, *_columns(counted))


async def _stored_before(
    connection: Connection, drafts: Iterable[Draft]
) -> Mapping[int, tuple[int, str]]:
    """Return the hash of the line and the patients of each stored version that ends."""
    heads = [draft.before.seq for draft in drafts if isinstance(draft.before, Head)]
    if not heads:
        return {}
    rows = await connection.fetch(_SQL["ended"], heads)
    return {seq: (stored_hash, patients) for seq, stored_hash, patients in rows}


def _columns(rows: Iterable[tuple[int, Counts]]) -> Iterable[Sequence[int]]:
    return zip(*((key, *msgspec.structs.astuple(counts)) for key, counts in rows), strict=True)
