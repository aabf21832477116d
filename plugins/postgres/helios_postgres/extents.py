"""Extents: runs of a collection, filled by one writer at a time, and how much there is in each."""

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
    """What this transaction adds to an extent that it alone is filling."""

    collection: int
    extent: int | None = None
    """None is a new one that has no number yet."""
    rows: int = 0
    bytes: int = 0
    """How much is in it, with what is added."""
    open: bool = True
    drafts: list[Draft] = msgspec.field(default_factory=list)

    def takes(self, size: int) -> bool:
        """Return whether there is room for one more; the first one always has."""
        return self.rows == 0 or (self.rows < EXTENT_ROWS and self.bytes + size <= EXTENT_BYTES)

    def add(self, draft: Draft) -> None:
        """Make room for a version."""
        self.drafts.append(draft)
        self.rows += 1
        self.bytes += draft.size
        self.open = self.rows < EXTENT_ROWS and self.bytes < EXTENT_BYTES

    def number(self) -> None:
        """Set the seqs of the versions."""
        base = ((self.extent or 0) << EXTENT_BITS) + self.rows - len(self.drafts)
        for place, draft in enumerate(self.drafts, base):
            draft.seq = place


class Counts(msgspec.Struct):
    """How many versions, of what size, and of those in any compartment."""

    rows: int = 0
    bytes: int = 0
    compartment_rows: int = 0
    compartment_bytes: int = 0
    hash_sum: int = 0
    compartment_hash: int = 0
    row_sum: int = 0

    def add(self, version: Draft | Head, stored_hash: int) -> None:
        """Count a version that is no deletion."""
        self.rows += 1
        self.bytes += version.size
        self.hash_sum = (self.hash_sum + stored_hash) & SUM_MASK
        if version.in_compartment:
            self.compartment_rows += 1
            self.compartment_bytes += version.size
            self.compartment_hash = (self.compartment_hash + stored_hash) & SUM_MASK

    def mark(self, mark: int) -> None:
        """Add the mark of a version, or of an ending."""
        self.row_sum = (self.row_sum + mark) & SUM_MASK


async def hold(connection: Connection, collections: Collection[int]) -> dict[int, Extent]:
    """Lock an extent with room per collection, if there is one that nobody else is filling."""
    rows = await connection.fetch(_SQL["hold"], list(collections))
    held = (
        Extent(collection=extent >> _NUMBER_BITS, extent=extent, rows=appended, bytes=size)
        for extent, appended, size in rows
    )
    return {each.collection: each for each in held}


async def place(
    connection: Connection, drafts: Iterable[Draft], held: dict[int, Extent]
) -> list[Extent]:
    """Number all drafts, ascending within a collection, in the extents held and in new ones."""
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
    await _name(connection, [each for each in extents if each.extent is None])
    for each in extents:
        each.number()
    return extents


async def _name(connection: Connection, extents: Sequence[Extent]) -> None:
    if extents:
        numbers = await connection.fetch(_SQL["numbers"], len(extents))
        for each, (number,) in zip(extents, numbers, strict=True):
            each.extent = (each.collection << _NUMBER_BITS) + number


async def count_begun(
    connection: Connection,
    extents: Iterable[Extent],
    stamp: int,
    index: Mapping[int, IndexSums],
    sums: CompartmentSums,
) -> None:
    """Write down what was added to extents and their search index, and add it to `sums`."""
    rows = []
    for each in extents:
        counts = Counts()
        for draft in each.drafts:
            mark = version_mark(draft.row(stamp))
            counts.mark(mark)
            sums.add(draft.patients or "", draft.seq, mark)
            if not draft.deleted:
                counts.add(draft, draft.line_hash)
        indexed = index.get(each.extent or 0, IndexSums())
        marks = (indexed.packed & SUM_MASK, indexed.recent & SUM_MASK)
        columns = (*msgspec.structs.astuple(counts), *marks)
        rows.append((each.extent, len(each.drafts), each.open, *columns))
    extent, appended, is_open, begun, size, compartment, compartment_size, *others = zip(
        *rows, strict=True
    )
    counted = (extent, appended, size, begun, compartment, compartment_size, is_open)
    await connection.execute(_SQL["add"], *counted, stamp, *others)


async def count_ended(
    connection: Connection, drafts: Collection[Draft], stamp: int, sums: CompartmentSums
) -> None:
    """Write down what versions ended, beside others who do so now, and add it to `sums`."""
    ended: defaultdict[int, Counts] = defaultdict(Counts)
    stored = await _stored_before(connection, drafts)
    for draft in drafts:
        if (before := draft.before) is None:
            continue
        counts = ended[extent_of(before.seq)]
        if isinstance(before, Draft):
            own, patients = before.line_hash, before.patients
        else:
            own, patients = stored.get(before.seq, (0, ""))
        mark = ending_mark(before.seq, stamp)
        counts.mark(mark)
        sums.add(patients or "", before.seq, mark)
        if not before.deleted:
            counts.add(before, own)
    if not ended:
        return
    rows = await connection.fetch(_SQL["hold_tallies"], sorted(ended))
    tallies: dict[int, int] = {extent: tally for extent, tally in rows}  # noqa: C416 - records are no tuples
    found = [(tallies[extent], counts) for extent, counts in ended.items() if extent in tallies]
    others = [(extent, counts) for extent, counts in ended.items() if extent not in tallies]
    for query, counted in ((_SQL["count"], found), (_SQL["count_anew"], others)):
        if counted:
            await connection.execute(query, *_columns(counted))


async def _stored_before(
    connection: Connection, drafts: Iterable[Draft]
) -> Mapping[int, tuple[int, str]]:
    """Return line_hash and patients of each stored version that is ended."""
    heads = [draft.before.seq for draft in drafts if isinstance(draft.before, Head)]
    if not heads:
        return {}
    rows = await connection.fetch(_SQL["ended"], heads)
    return {seq: (own, patients) for seq, own, patients in rows}


def _columns(rows: Iterable[tuple[int, Counts]]) -> Iterable[Sequence[int]]:
    return zip(*((key, *msgspec.structs.astuple(counts)) for key, counts in rows), strict=True)
