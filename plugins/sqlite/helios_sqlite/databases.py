"""
An open database file.

For resources, there is one writer with a thread of its own, and a pool of readers. For jobs, there
is one connection with one transaction at a time.
"""

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from aiosqlite import Connection

from helios_core import in_thread, run_to_end
from helios_sqlite.connections import connect, open_file, transaction
from helios_sqlite.errors import primary_code, translated
from helios_sqlite.identity import FileIdentity
from helios_sqlite.settings import SQLiteSettings

P = ParamSpec("P")
T = TypeVar("T")

READER_CACHE_KIB = 2 * 1024
IDLE_READERS = 8
"""How many idle readers are kept open."""

Work = Callable[Concatenate[sqlite3.Connection, P], T]

Row = Sequence[Any]
Parameters = Sequence[Any] | Mapping[str, Any]

WRITE = ("BEGIN IMMEDIATE",)


class Reader:
    """A read-only connection with temporary tables for a cohort."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.cohort_key: str | None = None
        """The key of the cohort in its temporary table `cohort`."""


class Database:
    """
    Reads and writes one file.

    All writes go through one thread, each in a transaction of its own; other processes compete for
    SQLite's write lock. Readers and writers do not block each other.
    """

    def __init__(self, settings: SQLiteSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-writer")
        self._writer: sqlite3.Connection | None = None
        self._idle: list[Reader] = []
        self._files = FileIdentity(settings.path, "resources")
        self._kept = IDLE_READERS

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """
        Open the file until the context ends; create it if it does not exist.

        Raises:
            SchemaOutdated: The file needs `helios migrate`.
            ConfigurationError: The file cannot be used.
        """
        try:
            await self._in_writer_thread(self._open)
            async with self._files.watched():
                yield self
        finally:
            await asyncio.shield(in_thread(self._close))

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run `work` in one write transaction.

        Raises:
            BackendUnavailable: The file was locked for longer than HFS_SQLITE_BUSY_TIMEOUT, or the
                disk is full.
            StoreReplaced: The file was replaced; it is unknown whether the work was committed.
        """

        def bound(connection: sqlite3.Connection) -> T:
            return work(connection, *args, **kwargs)

        return await self._in_writer_thread(partial(self._transact, bound))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run `work` in a read transaction, which sees a single snapshot.

        Raises:
            BackendUnavailable: The file cannot be read now.
        """

        def bound(connection: sqlite3.Connection) -> T:
            return work(connection, *args, **kwargs)

        async with self.reader() as reader:
            return await unblocked(_snapshot, reader.connection, bound)

    @asynccontextmanager
    async def reader(self, *, cohort_key: str | None = None) -> AsyncIterator[Reader]:
        """Lend a reader, preferably one that has loaded the cohort already."""
        self._files.refuse_if_replaced()
        reader = self._take(cohort_key)
        if reader is None:
            reader = await in_thread(self._new_reader)
        reusable = False
        try:
            yield reader
            reusable = True
        except (GeneratorExit, asyncio.CancelledError):
            reusable = True  # the work in the thread has ended
            raise
        finally:
            # After an error, the state of the reader is unknown.
            if reusable:
                self._idle.append(reader)
            else:
                _close_quietly(reader.connection)
            while len(self._idle) > self._kept:
                _close_quietly(self._idle.pop(0).connection)

    async def _in_writer_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _take(self, cohort_key: str | None) -> Reader | None:
        if not self._idle:
            return None
        matches = (n for n, reader in enumerate(self._idle) if reader.cohort_key == cohort_key)
        return self._idle.pop(next(matches, -1))

    def _open(self) -> None:
        self._writer = open_file(self._settings)
        self._files.record()

    def _close(self) -> None:
        """Close readers, then the writer, which as the last connection checkpoints the WAL."""
        self._thread.shutdown()
        self._kept = 0
        while self._idle:
            self._idle.pop().connection.close()
        if self._writer is not None:
            self._writer.close()

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._writer is not None  # noqa: S101 - `opened` sets it
        patience = self._settings.busy_timeout
        self._files.check()
        with translated(self._settings.path), transaction(self._writer, patience=patience):
            result = work(self._writer)
        self._files.check()
        return result

    def _new_reader(self) -> Reader:
        with translated(self._settings.path):
            connection = connect(f"{self._settings.path.as_uri()}?mode=ro")
            self._files.check()
            connection.execute(f"PRAGMA busy_timeout = {self._settings.patience_ms}")
            connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
            connection.execute("CREATE TEMP TABLE cohort (patient TEXT PRIMARY KEY) WITHOUT ROWID")
            connection.execute("CREATE TEMP TABLE picked (seq INTEGER PRIMARY KEY, times INTEGER)")
        return Reader(connection)


def _close_quietly(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.close()


async def unblocked(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread, and turn errors of SQLite into those of the contract."""
    return await in_thread(_translating, partial(work, *args, **kwargs))


def _translating(work: Callable[[], T]) -> T:
    with translated():
        return work()


def _snapshot(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        connection.execute("ROLLBACK")


class JobDatabase:
    """
    Transactions on one connection, whose statements run in a thread of its own.

    There is one transaction at a time. One that finds the file locked by another process lets
    others go first while it waits, so that reads never wait for other processes.
    """

    def __init__(self, settings: SQLiteSettings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._files = FileIdentity(settings.path, "jobs")
        self._connection = Connection(self._connect, iter_chunk_size=1)
        self._thread: threading.Thread | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["JobDatabase"]:
        """
        Open the file until the context ends; create it if it does not exist.

        Raises:
            SchemaOutdated: The file needs `helios migrate`.
            ConfigurationError: The file cannot be used.
        """
        try:
            _ = await run_to_end(self._connection)
            async with self._files.watched():
                yield self
        finally:
            await run_to_end(self._close())

    @asynccontextmanager
    async def transaction(self, begin: Iterable[str] = WRITE) -> AsyncIterator[Connection]:
        """
        Run the context in one transaction.

        A cancelled caller returns only after the transaction has been rolled back.

        Raises:
            BackendUnavailable: The file was locked for longer than HFS_SQLITE_BUSY_TIMEOUT, or the
                disk is full.
            StoreReplaced: The file was replaced; it is unknown whether it was committed.
        """
        self._files.check()
        deadline = time.monotonic() + self._settings.busy_timeout
        while True:
            with translated(self._settings.path):
                async with self._lock, _undone_on_error(self._connection):
                    if await self._begun(begin, deadline):
                        yield self._connection
                        await self._connection.commit()
                        self._files.check()
                        return
            await _pause()

    async def _begun(self, begin: Iterable[str], deadline: float) -> bool:
        if self._connection.in_transaction:  # an earlier rollback failed
            await self._connection.rollback()
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
        Return the rows of one query, in a transaction of its own.

        Raises:
            BackendUnavailable: As for `transaction`.
        """
        self._files.refuse_if_replaced()
        deadline = time.monotonic() + self._settings.busy_timeout
        while True:
            with translated(self._settings.path):
                async with self._lock:
                    try:
                        return await run_to_end(rows_of(self._connection, query, parameters))
                    except sqlite3.OperationalError as error:
                        if not _is_busy(error, deadline):
                            raise
            await _pause()

    def write_marker(self) -> object:
        """Return a value that changes with each write of any process; it takes no lock."""
        try:
            log = Path(f"{self._settings.path}-wal").stat()
        except FileNotFoundError:
            return None
        return log.st_mtime_ns, log.st_size

    def _connect(self) -> sqlite3.Connection:
        self._thread = threading.current_thread()
        connection = open_file(self._settings)
        self._files.record()
        return connection

    async def _close(self) -> None:
        async with self._lock:
            await self._connection.close()
        if self._thread is not None:
            await in_thread(self._thread.join)


@asynccontextmanager
async def _undone_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        # The rollback waits for a running statement, and does nothing after a COMMIT.
        await run_to_end(connection.rollback())
        raise


def _is_busy(error: sqlite3.Error, deadline: float) -> bool:
    return primary_code(error) == sqlite3.SQLITE_BUSY and time.monotonic() <= deadline


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0.0003, 0.0015))  # noqa: S311 - spreads retries


async def rows_of(
    connection: Connection, statement: str, parameters: Parameters = ()
) -> list[Row]:
    """Run a statement and return all its rows; a cancellation leaves no cursor open."""
    # aiosqlite's annotation lacks named parameters, which it passes on to sqlite3.
    return list(await connection.execute_fetchall(statement, cast(Iterable[Any], parameters)))
