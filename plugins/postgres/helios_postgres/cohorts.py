"""Cohorts in the database: sent once for all the workers of a cluster, however large (P4)."""

import msgspec

from helios_core import BackendUnavailable, Cohort, read_statements
from helios_postgres.connections import Connection
from helios_postgres.databases import Database

_SQL = read_statements("helios_postgres", "cohorts")


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
