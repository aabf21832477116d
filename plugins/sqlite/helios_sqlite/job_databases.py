"""One database file, opened for jobs: one connection, in one transaction at a time."""

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from aiosqlite import Connection

from helios_core import in_thread, run_to_end
from helios_sqlite.failures import primary_code, translated
from helios_sqlite.files import open_file
from helios_sqlite.settings import SQLiteSettings

Row = Sequence[Any]
Parameters = Sequence[Any] | Mapping[str, Any]

WRITE = ("BEGIN IMMEDIATE",)


class JobDatabase:
    """
    Transactions of one connection, whose statements run in a thread of its own.

    They take turns. Who finds the file locked by another process lets the others have their turn
    while it waits, so that reading never waits for other processes.
    """

    def __init__(self, settings: SQLiteSettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._connection = Connection(self._connect, iter_chunk_size=1)
        self._thread: threading.Thread | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["JobDatabase"]:
        """
        Open the file for as long as the context lasts, and create it where there is none.

        Raises:
            SchemaOutdated: The file needs `helios migrate`.
            ConfigurationError: The file cannot be used.
        """
        try:
            _ = await run_to_end(self._connection)
            yield self
        finally:
            await run_to_end(self._close())

    @asynccontextmanager
    async def transaction(self, begin: Iterable[str] = WRITE) -> AsyncIterator[Connection]:
        """
        Do all of what the context does in one transaction, or none of it.

        Whoever is cancelled goes when the transaction is rolled back, not before.

        Raises:
            BackendUnavailable: The file is busy beyond patience, or the disk is full.
        """
        deadline = time.monotonic() + self._settings.busy_timeout
        while True:
            with translated():
                async with self._turn, _undone_on_error(self._connection):
                    if await self._begun(begin, deadline):
                        yield self._connection
                        await self._connection.commit()
                        return
            await _pause()

    async def _begun(self, begin: Iterable[str], deadline: float) -> bool:
        try:
            for statement in begin:
                await rows_of(self._connection, statement)
        except sqlite3.OperationalError as error:
            if not _is_busy(error, deadline):
                raise
            await self._connection.rollback()
            return False
        return True

    async def rows(self, query: str, parameters: Parameters = ()) -> list[Row]:
        """
        Give the rows of one query, which is a transaction of its own.

        Raises:
            BackendUnavailable: As in `transaction`.
        """
        deadline = time.monotonic() + self._settings.busy_timeout
        while True:
            with translated():
                async with self._turn:
                    try:
                        return await run_to_end(rows_of(self._connection, query, parameters))
                    except sqlite3.OperationalError as error:
                        if not _is_busy(error, deadline):
                            raise
            await _pause()

    def written(self) -> object:
        """Give what is another value once any process has written, read without a lock."""
        try:
            log = Path(f"{self._settings.path}-wal").stat()
        except FileNotFoundError:
            return None
        return log.st_mtime_ns, log.st_size

    def _connect(self) -> sqlite3.Connection:
        self._thread = threading.current_thread()
        return open_file(self._settings)

    async def _close(self) -> None:
        async with self._turn:
            await self._connection.close()
        if self._thread is not None:
            await in_thread(self._thread.join)


@asynccontextmanager
async def _undone_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        # It queues behind a statement still running; after a COMMIT it does nothing.
        await run_to_end(connection.rollback())
        raise


def _is_busy(error: sqlite3.Error, deadline: float) -> bool:
    return primary_code(error) == sqlite3.SQLITE_BUSY and time.monotonic() <= deadline


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0.0003, 0.0015))  # noqa: S311 - spreads processes


async def rows_of(
    connection: Connection, statement: str, parameters: Parameters = ()
) -> list[Row]:
    """Run a statement and give all its rows; no cursor stays open, whoever is cancelled."""
    # Its annotation leaves named parameters out, which it hands to sqlite3 as they are.
    return list(await connection.execute_fetchall(statement, cast(Iterable[Any], parameters)))
