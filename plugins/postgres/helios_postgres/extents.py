"""Extents: runs of a scope, filled by one writer at a time, and how much there is in each."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import msgspec

from helios_core import COLLECTION_BITS, EXTENT_BITS, EXTENT_BYTES, EXTENT_ROWS, extent_of
from helios_postgres.connections import Connection
from helios_postgres.drafts import Draft, Head

_NUMBER_BITS = COLLECTION_BITS - EXTENT_BITS

# FOR UPDATE belongs to the inner query: it is what skips an extent that somebody else is filling.
_HOLD = """
SELECT e.extent, e.appended, e.appended_bytes
FROM unnest($1::bigint[]) AS s (scope) CROSS JOIN LATERAL (
  SELECT extent, appended, appended_bytes FROM extents
  WHERE open AND extent >= s.scope << 28 AND extent < (s.scope + 1) << 28
  ORDER BY extent LIMIT 1 FOR UPDATE SKIP LOCKED
) AS e
"""
_NUMBERS = "SELECT nextval('extent_numbers') FROM generate_series(1, $1)"
_ADD = """
INSERT INTO extents (extent, appended, appended_bytes, begun, compartment_begun,
  compartment_bytes, open, first_stamp, last_stamp)
SELECT w.*, $8, $8 FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[],
  $5::integer[], $6::bigint[], $7::boolean[]) AS w
ON CONFLICT (extent) DO UPDATE SET
  appended = extents.appended + excluded.appended,
  appended_bytes = extents.appended_bytes + excluded.appended_bytes,
  begun = extents.begun + excluded.begun,
  compartment_begun = extents.compartment_begun + excluded.compartment_begun,
  compartment_bytes = extents.compartment_bytes + excluded.compartment_bytes,
  open = excluded.open, last_stamp = excluded.last_stamp
"""
_HOLD_TALLIES = """
SELECT t.extent, t.tally FROM unnest($1::bigint[]) AS w (extent) CROSS JOIN LATERAL (
  SELECT extent, tally FROM tallies WHERE extent = w.extent
  LIMIT 1 FOR UPDATE SKIP LOCKED
) AS t
"""
_COUNT = """
UPDATE tallies AS t SET ended = t.ended + w.ended, ended_bytes = t.ended_bytes + w.ended_bytes,
  compartment_ended = t.compartment_ended + w.compartment_ended,
  compartment_bytes = t.compartment_bytes + w.compartment_bytes
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[])
  AS w (tally, ended, ended_bytes, compartment_ended, compartment_bytes)
WHERE t.tally = w.tally
"""
_COUNT_ANEW = """
INSERT INTO tallies (extent, ended, ended_bytes, compartment_ended, compartment_bytes)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::bigint[])
"""


class Extent(msgspec.Struct, kw_only=True):
    """What this transaction adds to an extent that it alone is filling."""

    scope: int
    extent: int | None = None
    """None is a new one that has no number yet."""
    rows: int = 0
    bytes: int = 0
    """How much is in it, with what is added."""
    open: bool = True
    drafts: list[Draft] = msgspec.field(default_factory=list)

    def takes(self, size: int) -> bool:
        """Whether there is room for one more; the first one always has."""
        return self.rows == 0 or (self.rows < EXTENT_ROWS and self.bytes + size <= EXTENT_BYTES)

    def add(self, draft: Draft) -> None:
        """Make room for a version."""
        self.drafts.append(draft)
        self.rows += 1
        self.bytes += draft.size
        self.open = self.rows < EXTENT_ROWS and self.bytes < EXTENT_BYTES

    def number(self) -> None:
        """Tell the versions their seqs."""
        base = ((self.extent or 0) << EXTENT_BITS) + self.rows - len(self.drafts)
        for place, draft in enumerate(self.drafts, base):
            draft.seq = place


class Counts(msgspec.Struct):
    """How many versions, of what size, and of those in any compartment."""

    rows: int = 0
    bytes: int = 0
    compartment_rows: int = 0
    compartment_bytes: int = 0

    def add(self, version: Draft | Head) -> None:
        """Count a version that is no deletion."""
        self.rows += 1
        self.bytes += version.size
        if version.in_compartment:
            self.compartment_rows += 1
            self.compartment_bytes += version.size


async def hold(connection: Connection, scopes: Collection[int]) -> dict[int, Extent]:
    """Lock for each scope an extent with room, if there is one that nobody else is filling."""
    rows = await connection.fetch(_HOLD, list(scopes))
    held = (
        Extent(scope=extent >> _NUMBER_BITS, extent=extent, rows=appended, bytes=size)
        for extent, appended, size in rows
    )
    return {each.scope: each for each in held}


async def place(
    connection: Connection, drafts: Iterable[Draft], held: dict[int, Extent]
) -> list[Extent]:
    """Give all drafts their seqs, ascending within a scope, in the extents held and new ones."""
    extents = list(held.values())
    for draft in drafts:
        scope = draft.key[0]
        extent = held.get(scope)
        if extent is None or not extent.takes(draft.size):
            if extent is not None:
                extent.open = False
            extent = held[scope] = Extent(scope=scope)
            extents.append(extent)
        extent.add(draft)
    await _name(connection, [each for each in extents if each.extent is None])
    for each in extents:
        each.number()
    return extents


async def _name(connection: Connection, extents: Sequence[Extent]) -> None:
    if extents:
        numbers = await connection.fetch(_NUMBERS, len(extents))
        for each, (number,) in zip(extents, numbers, strict=True):
            each.extent = (each.scope << _NUMBER_BITS) + number


async def count_begun(connection: Connection, extents: Iterable[Extent], stamp: int) -> None:
    """Write down what was added to extents."""
    rows = []
    for each in extents:
        counts = Counts()
        for draft in each.drafts:
            if not draft.deleted:
                counts.add(draft)
        rows.append((each.extent, len(each.drafts), *msgspec.structs.astuple(counts), each.open))
    extent, appended, begun, size, compartment, compartment_size, is_open = zip(*rows, strict=True)
    columns = (extent, appended, size, begun, compartment, compartment_size, is_open)
    await connection.execute(_ADD, *columns, stamp)


async def count_ended(connection: Connection, drafts: Iterable[Draft]) -> None:
    """Write down what versions ended, beside others who do so at the same time."""
    ended: defaultdict[int, Counts] = defaultdict(Counts)
    for draft in drafts:
        if draft.before is not None and not draft.before.deleted:
            ended[extent_of(draft.before.seq)].add(draft.before)
    if not ended:
        return
    rows = await connection.fetch(_HOLD_TALLIES, sorted(ended))
    tallies: dict[int, int] = {extent: tally for extent, tally in rows}  # noqa: C416 - records are no tuples
    found = [(tallies[extent], counts) for extent, counts in ended.items() if extent in tallies]
    others = [(extent, counts) for extent, counts in ended.items() if extent not in tallies]
    for query, counted in ((_COUNT, found), (_COUNT_ANEW, others)):
        if counted:
            await connection.execute(query, *_columns(counted))


def _columns(rows: Iterable[tuple[int, Counts]]) -> Iterable[Sequence[int]]:
    return zip(*((key, *msgspec.structs.astuple(counts)) for key, counts in rows), strict=True)
