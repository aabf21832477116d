"""Cohorts: the patients of an export as a table, sent once for all workers (P4)."""

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
"""How many versions of a cohort one query reads."""

log = structlog.stdlib.get_logger()


class StoredCohort(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort in the database, which statements can join with."""

    number: int
    key: str
    size: int
    patients: int | None
    """The collection of Patient resources, None if there is none."""


async def stored(database: Database, cohort: Cohort, patients: int | None) -> StoredCohort:
    """Return a cohort with its number in the database; store it there if it is missing."""
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
    Check that the cohort is still stored.

    A crash empties the unlogged tables; without this check, reads would find no resources.

    Raises:
        BackendUnavailable: The cohort is gone; the next attempt stores it again.
    """
    if not await connection.fetchval(_SQL["is_there"], cohort.number, cohort.key):
        raise BackendUnavailable(
            "the list of this export's patients was lost in a crash of PostgreSQL; it is sent"
            " again with the next attempt of the shard"
        )


class Member(NamedTuple):
    """A version in the compartment of a patient of the cohort."""

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
    Return the versions of a cohort that a view shows in a range of a collection, by seq.

    The cohort's versions are verified against the sums of its patients, for whole blocks (P4, P9).
    Returns None if they differ, or if the cohort has more than `at_most` versions there.
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
        times: dict[int, int] = {seq: count for seq, count in listed[start : start + LOOKED_UP]}  # noqa: C416 - records are not tuples
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
    """Return whether a stored patient has no sums, which means that they were lost."""
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
