"""Compartments: what a cohort has, compared with what it must have."""

from collections.abc import Collection
from typing import NamedTuple

import structlog

from helios_core import (
    COLLECTION_BITS,
    EXTENT_BITS,
    SUM_MASK,
    CompartmentSums,
    SeqRange,
    block_of,
    collection_range,
    ending_mark,
    read_statements,
    version_mark,
)
from helios_postgres.cohorts import StoredCohort, check
from helios_postgres.connections import Connection
from helios_postgres.integrity import is_sound
from helios_postgres.views import Shown

_SQL = read_statements("helios_postgres", "compartments")

NOBODY = ""
"""The patient whose sums say that something is lost."""

log = structlog.stdlib.get_logger()

LOOKED_UP = 4096
"""Versions of a cohort that are looked at in one query."""


class Member(NamedTuple):
    """A version in the compartment of a cohort."""

    seq: int
    size: int
    deleted: bool


async def add_sums(connection: Connection, sums: CompartmentSums) -> None:
    """Add what a transaction adds to what patients must have."""
    if rows := sums.rows():
        await connection.execute(_SQL["add"], *zip(*rows, strict=True))


async def members_shown(
    connection: Connection,
    cohort: StoredCohort,
    seqs: SeqRange,
    shown: Shown,
    at_most: int,
) -> list[Member] | None:
    """
    Return what a view shows of a cohort in a range of a collection, in order.

    What the cohort has in whole blocks is compared with what it must have (P4, P9). There is None
    where they differ, or where the cohort has more than `at_most` versions there.
    """
    await check(connection, cohort)
    whole = seqs.whole_blocks
    listed = await connection.fetch(
        _SQL["listed"], cohort.number, seqs.first >> COLLECTION_BITS, whole.first, whole.end
    )
    if len(listed) > at_most:
        return None
    expected = await connection.fetchval(_SQL["expected"], cohort.number, *seqs.blocks)
    found = 0
    members: list[Member] = []
    for start in range(0, len(listed), LOOKED_UP):
        times: dict[int, int] = {seq: count for seq, count in listed[start : start + LOOKED_UP]}  # noqa: C416 - records are no tuples
        bounds = SeqRange(first=min(times), end=max(times) + 1)
        for text, seq, until_stamp, size, deleted, is_shown in await connection.fetch(
            _SQL["members"], *shown.parameters(bounds), list(times)
        ):
            found += times[seq] * _mark(text, seq, until_stamp)
            if is_shown and seqs.first <= seq < seqs.end:
                members.append(Member(seq, size, deleted))
    if (int(expected) - found) & SUM_MASK or await _is_any_unsummed(connection, cohort):
        log.warning("compartments.damaged", collection=seqs.first >> COLLECTION_BITS)
        return None
    return sorted(members)


async def _is_any_unsummed(connection: Connection, cohort: StoredCohort) -> bool:
    """Return whether a patient is stored, and has no sums: there are some of every Patient."""
    if (patients := cohort.patients) is None:
        return False
    query = (_SQL["unsummed_patient"], cohort.number, *collection_range(patients).blocks, patients)
    return bool(await connection.fetchval(*query))


async def may_have_any(
    connection: Connection, seqs: SeqRange, of: Collection[str], patients: int | None
) -> bool:
    """Return whether any of some patients must have anything in the blocks of a range, or may."""
    ids = list(of)
    if await connection.fetchval(_SQL["any_expected"], ids, *seqs.blocks):
        return True
    if patients is None:
        return False
    query = (_SQL["any_unsummed"], ids, *collection_range(patients).blocks, patients)
    return bool(await connection.fetchval(*query))


async def sum_compartments(connection: Connection) -> None:
    """
    Make the sums of what is there, for a store from before there were any.

    Where versions are missing or altered already, who they were of nobody knows any more.
    """
    for (extent,) in await connection.fetch(_SQL["extents"]):
        first, end = extent << EXTENT_BITS, (extent + 1) << EXTENT_BITS
        if not await is_sound(connection, extent):
            await connection.execute(_SQL["add"], [NOBODY], [block_of(first)], [1])
            continue
        sums = CompartmentSums()
        for text, seq, until_stamp, patients in await connection.fetch(_SQL["marks"], first, end):
            sums.add(patients, seq, _mark(text, seq, until_stamp))
        await add_sums(connection, sums)


def _mark(text: str, seq: int, until_stamp: int | None) -> int:
    """Return what a version, and its ending, add to the sums of its patients."""
    mark = version_mark((text,))
    return mark if until_stamp is None else mark + ending_mark(seq, until_stamp)
