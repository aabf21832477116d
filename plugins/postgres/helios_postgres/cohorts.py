"""Cohorts in the database: sent once for all the workers of a cluster, however large (P4)."""

import msgspec

from helios_core import BackendUnavailable, Cohort
from helios_postgres.connections import Connection
from helios_postgres.databases import Database

# A cohort that is being read is touched by every shard; one that was not for a day is left over.
_SWEEP = """
WITH old AS (
  DELETE FROM cohorts WHERE used_at < now() - interval '1 day' RETURNING cohort
)
DELETE FROM cohort_members AS m USING old WHERE m.cohort = old.cohort
"""
_FIND = "SELECT cohort, used_at < now() - interval '1 hour' FROM cohorts WHERE key = $1"
_TOUCH = "UPDATE cohorts SET used_at = now() WHERE cohort = $1"
# Whoever is second waits here for the first one to have sent the members.
_ADD = "INSERT INTO cohorts (key, used_at) VALUES ($1, now()) ON CONFLICT DO NOTHING"
_IS_THERE = "SELECT EXISTS (SELECT FROM cohorts WHERE cohort = $1 AND key = $2)"


class StoredCohort(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort that the database can join with."""

    number: int
    key: str
    size: int


async def stored(database: Database, cohort: Cohort) -> StoredCohort:
    """Give a cohort with the number it has in the database, which gets it if it lacks it."""
    async with database.connection() as connection:
        found = await connection.fetchrow(_FIND, cohort.key)
        if found is not None and found[1]:
            await connection.execute(_TOUCH, found[0])
    number = found[0] if found is not None else await _send(database, cohort)
    return StoredCohort(number=number, key=cohort.key, size=len(cohort.patients))


async def check(connection: Connection, cohort: StoredCohort) -> None:
    """
    See to it that a transaction has the whole cohort before it.

    A crash empties the table, and what is asked about an empty one looks like nobody's data.

    Raises:
        BackendUnavailable: It is gone; whoever starts again sends it again.
    """
    if not await connection.fetchval(_IS_THERE, cohort.number, cohort.key):
        raise BackendUnavailable(
            "the patients of this export were lost with a crash of PostgreSQL; they are sent"
            " again when the shard is tried again"
        )


async def _send(database: Database, cohort: Cohort) -> int:
    async with database.transaction(unlimited=True) as connection:
        await connection.execute(_SWEEP)
        added = await connection.execute(_ADD, cohort.key)
        number: int = await connection.fetchval(_FIND, cohort.key)
        if added == "INSERT 0 1":
            rows = ((number, patient) for patient in sorted(cohort.patients))
            await connection.copy_records_to_table(
                "cohort_members", records=rows, columns=("cohort", "patient")
            )
        return number
