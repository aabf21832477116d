"""Cohorts in the database: sent once for all the workers of a cluster, however large (P4)."""

from typing import NamedTuple

import msgspec
import structlog

from helios_core import (
    COLLECTION_BITS,
    SUM_MASK,
    BackendUnavailable,
    Cohort,
    SeqRange,
    collection_range,
    read_statements,
)
from helios_postgres.compartments import mark_of
from helios_postgres.connections import Connection
from helios_postgres.databases import Database
from helios_postgres.views import Shown

_SQL = read_statements("helios_postgres", "cohorts")

LOOKED_UP = 4096
"""Versions of a cohort that are looked at in one query."""

log = structlog.stdlib.get_logger()


class StoredCohort(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort that the database can join with."""

    number: int
    key: str
    size: int
    patients: int | None
    """The collection of the Patients, if there is one."""


async def stored(database: Database, cohort: Cohort, patients: int | None) -> StoredCohort:
    """Return a cohort with its number in the database, and store it there if it is missing."""
    async with database.connection() as connection:
        found = await connection.fetchrow(_SQL["find"], cohort.key)
        if found is not None and found[1]:
            await connection.execute(_SQL["touch"], found[0])
    number = found[0] if found is not None else await _send(database, cohort)
    return StoredCohort(
        number=number, key=cohort.key, size=len(cohort.patients), patients=patients
    )


async def check(connection: Connection, cohort: StoredCohort) -> None:
    """
    See to it that a transaction has the whole cohort before it.

    A crash empties the table, and what is asked about an empty one looks like nobody's data.

    Raises:
        BackendUnavailable: It is gone; whoever starts again sends it again.
    """
    if not await connection.fetchval(_SQL["is_there"], cohort.number, cohort.key):
        raise BackendUnavailable(
            "the patients of this export were lost with a crash of PostgreSQL; they are sent"
            " again when the shard is tried again"
        )


class Member(NamedTuple):
    """A version in the compartment of a cohort."""

    seq: int
    size: int
    deleted: bool


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
            found += times[seq] * mark_of(text, seq, until_stamp)
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


async def _send(database: Database, cohort: Cohort) -> int:
    async with database.transaction(unlimited=True) as connection:
        await connection.execute(_SQL["sweep"])
        added = await connection.execute(_SQL["add"], cohort.key)
        number: int = await connection.fetchval(_SQL["find"], cohort.key)
        if added == "INSERT 0 1":
            rows = ((number, patient) for patient in sorted(cohort.patients))
            await connection.copy_records_to_table(
                "cohort_members", records=rows, columns=("cohort", "patient")
            )
        return number
