"""Compartments: sums of what each patient's compartment must contain."""

from collections.abc import Collection

from helios_core import (
    EXTENT_BITS,
    CompartmentSums,
    SeqRange,
    block_of,
    collection_range,
    ending_mark,
    read_statements,
    version_mark,
)
from helios_postgres.connections import Connection
from helios_postgres.integrity import is_sound

_SQL = read_statements("helios_postgres", "compartments")

NOBODY = ""
"""The patient id under which it is recorded that a block is damaged."""


async def add_sums(connection: Connection, sums: CompartmentSums) -> None:
    """Store the sums of a transaction."""
    if rows := sums.rows():
        await connection.execute(_SQL["add"], *zip(*rows, strict=True))


async def may_have_any(
    connection: Connection, seqs: SeqRange, of: Collection[str], patients: int | None
) -> bool:
    """Return whether any of these patients has, or may have, anything in the blocks of a range."""
    ids = list(of)
    if await connection.fetchval(_SQL["any_expected"], ids, *seqs.blocks):
        return True
    if patients is None:
        return False
    query = (_SQL["any_unsummed"], ids, *collection_range(patients).blocks, patients)
    return bool(await connection.fetchval(*query))


async def sum_compartments(connection: Connection) -> None:
    """
    Compute the sums of all compartments, for a store whose schema had none.

    Extents that are damaged already are recorded as such: whose versions are missing is unknown.
    """
    for (extent,) in await connection.fetch(_SQL["extents"]):
        first, end = extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
        if not await is_sound(connection, extent):
            await connection.execute(_SQL["add"], [NOBODY], [block_of(first)], [1])
            continue
        sums = CompartmentSums()
        for text, seq, until_stamp, patients in await connection.fetch(_SQL["marks"], first, end):
            sums.add(patients, seq, mark_of(text, seq, until_stamp))
        await add_sums(connection, sums)


def mark_of(text: str, seq: int, until_stamp: int | None) -> int:
    """Return what a version and its ending add to the sums of its patients."""
    mark = version_mark((text,))
    return mark if until_stamp is None else mark + ending_mark(seq, until_stamp)
