"""Stamps: instants in microseconds since 1970, by the database's clock, that only increase."""

import asyncio
import time

from asyncpg.exceptions import LockNotAvailableError

from helios_core import BackendUnavailable, read_statements
from helios_postgres.connections import Connection
from helios_postgres.databases import Database
from helios_postgres.errors import translated

_SQL = read_statements("helios_postgres", "clock")

FIRST_TRY_MS = 50
"""How long the first attempt to settle blocks writers; it doubles with every further one."""


class Clock:
    """
    The source of the stamps of writes and of the transaction times of exports.

    A write holds a shared lock from before it gets its stamp until it is committed. A kick-off
    takes the lock exclusively for a moment; then no write is between its stamp and its commit.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = (database.lock_key("settle"), database.lock_key("clock"))

    async def write_stamp(self, connection: Connection) -> int:
        """Return a stamp later than any before, for the writes of this transaction."""
        stamp: int = await connection.fetchval(_SQL["write_stamp"], *self._keys)
        return stamp

    async def settled_stamp(self) -> int:
        """
        Return a stamp of about now that is below those of all writes not committed yet (P1).

        While it waits for open writes, new ones queue behind it. So it gives up after a moment,
        lets them pass, and waits twice as long the next time.

        Raises:
            BackendUnavailable: A write did not end within HFS_POSTGRES_SETTLE_TIMEOUT.
        """
        timeout = self._database.settings.settle_timeout
        deadline = time.monotonic() + timeout.total_seconds()
        patience_ms = FIRST_TRY_MS
        while (left_ms := round((deadline - time.monotonic()) * 1000)) > 0:
            patience_ms = min(patience_ms, left_ms)
            stamp = await self._try(patience_ms)
            if stamp is not None:
                return stamp
            await asyncio.sleep(min(patience_ms, left_ms) / 1000)
            patience_ms *= 2
        raise BackendUnavailable(
            "no transaction time could be set: a write transaction has been open for longer than"
            f" {timeout.total_seconds():g} s (HFS_POSTGRES_SETTLE_TIMEOUT); try again later, and"
            " if that does not help, look for a long transaction in pg_stat_activity"
        )

    async def _try(self, patience_ms: int) -> int | None:
        try:
            with translated():
                return await self._database.write(self._settle, patience_ms)
        except BackendUnavailable as error:
            if isinstance(error.__cause__, LockNotAvailableError):
                return None
            raise

    async def _settle(self, connection: Connection, patience_ms: int) -> int:
        await connection.fetchval(_SQL["patience"], f"{patience_ms}ms")
        stamp: int = await connection.fetchval(_SQL["settled_stamp"], *self._keys)
        return stamp
