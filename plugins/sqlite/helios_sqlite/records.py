"""Records that plugins keep in the job store."""

from collections.abc import Sequence
from datetime import timedelta

from helios_core import Record, read_statements
from helios_sqlite.databases import JobDatabase, rows_of

_SQL = read_statements("helios_sqlite", "records")


class SQLiteRecords:
    """Keeps records in the file of the jobs; every change is one transaction."""

    def __init__(self, database: JobDatabase) -> None:
        self._database = database

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record unless one exists, and remove expired ones (K1, K3)."""
        milliseconds = keep_for and -(-keep_for // timedelta(milliseconds=1))  # rounded up
        async with self._database.transaction() as connection:
            await rows_of(connection, _SQL["remove_expired"])
            row = (namespace, key, value, milliseconds)
            return bool(await rows_of(connection, _SQL["insert"], row))

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record if it is the expected one (K2)."""
        async with self._database.transaction() as connection:
            row = (value, namespace, key, expected)
            return bool(await rows_of(connection, _SQL["replace"], row))

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record, or None."""
        rows = await self._database.rows(_SQL["get"], (namespace, key))
        return rows[0][0] if rows else None

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return at most `limit` records of a namespace, by key (K5)."""
        rows = await self._database.rows(_SQL["page"], (namespace, after, limit))
        return [Record(key=key, value=value) for key, value in rows]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record; return whether there was one."""
        async with self._database.transaction() as connection:
            return bool(await rows_of(connection, _SQL["delete"], (namespace, key)))
