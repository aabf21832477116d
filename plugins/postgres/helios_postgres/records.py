"""Records that plugins keep in the job store."""

from collections.abc import Sequence
from datetime import timedelta

from helios_core import Record, read_statements
from helios_postgres.databases import Database

_SQL = read_statements("helios_postgres", "records")


class PostgresRecords:
    """Keeps records beside the jobs; every method is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record unless one exists, and remove some expired ones (K1, K3)."""
        return await self._had_effect(_SQL["insert"], namespace, key, value, keep_for)

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record if it is the expected one (K2)."""
        return await self._had_effect(_SQL["replace"], namespace, key, expected, value)

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record, or None."""
        async with self._database.connection() as connection:
            value: bytes | None = await connection.fetchval(_SQL["get"], namespace, key)
        return value

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return at most `limit` records of a namespace, by key (K5)."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["page"], namespace, after, limit)
        return [Record(key=row["key"], value=row["value"]) for row in rows]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record; return whether there was one."""
        return await self._had_effect(_SQL["delete"], namespace, key)

    async def _had_effect(self, statement: str, *parameters: object) -> bool:
        """Return whether a statement had an effect; if so, it returns a row."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(statement, *parameters))
