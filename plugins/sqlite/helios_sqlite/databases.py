"""One database file, opened: a writer with a thread of its own, and readers on loan."""

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from helios_core.errors import ConfigurationError
from helios_core.threads import in_thread
from helios_sqlite import schema
from helios_sqlite.failures import primary_code, translated
from helios_sqlite.settings import SQLiteSettings

P = ParamSpec("P")
T = TypeVar("T")

PAGE_BYTES = 8192
"""Measured: a tenth faster to write and to read than 4096 with resources of 1.2 KB."""

CHECKPOINT_PAGES = 2048
"""16 MiB of log between checkpoints; the default of 1000 pages syncs the file too often."""

LOG_BYTES = 64 * 1024 * 1024
"""What a log that grew larger is cut down to."""

WRITER_CACHE_KIB = 16 * 1024
READER_CACHE_KIB = 2 * 1024
IDLE_READERS = 8
"""How many readers are kept open while nobody uses them."""

Work = Callable[Concatenate[sqlite3.Connection, P], T]


class Reader:
    """A read-only connection, and what it has in its temporary tables."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.cohort_key: str | None = None
        """The key of the cohort in its table `cohort`."""


class Database:
    """
    Reads and writes of one file.

    All writes of this object go through one thread, one transaction each; with other processes
    they compete for SQLite's write lock. Readers are never blocked, and block nobody.
    """

    def __init__(self, settings: SQLiteSettings) -> None:
        self._path = settings.path
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-writer")
        self._writer: sqlite3.Connection | None = None
        self._idle: list[Reader] = []
        self._kept = IDLE_READERS

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """
        Open the file for as long as the context lasts, and create it where there is none.

        Raises:
            SchemaOutdated: The file needs `helios migrate`.
            ConfigurationError: The file cannot be used.
        """
        try:
            await self._in_writer_thread(self._open)
            yield self
        finally:
            await asyncio.shield(in_thread(self._close))

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do all of some work in one write transaction, or none of it.

        Raises:
            BackendUnavailable: The file is busy beyond patience, or the disk is full.
        """

        def bound(connection: sqlite3.Connection) -> T:
            return work(connection, *args, **kwargs)

        return await self._in_writer_thread(partial(self._transact, bound))

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do some reading, all of it on one state of the database.

        Raises:
            BackendUnavailable: The file does not answer.
        """

        def bound(connection: sqlite3.Connection) -> T:
            return work(connection, *args, **kwargs)

        async with self.reader() as reader:
            return await unblocked(_snapshot, reader.connection, bound)

    @asynccontextmanager
    async def reader(self, *, cohort_key: str | None = None) -> AsyncIterator[Reader]:
        """Lend a reader, one that has the cohort already where there is one."""
        reader = self._take(cohort_key)
        if reader is None:
            reader = await in_thread(self._new_reader)
        try:
            yield reader
        finally:
            self._idle.append(reader)
            while len(self._idle) > self._kept:
                self._idle.pop(0).connection.close()

    def migrate(self) -> tuple[int, int]:
        """Bring the file's schema up to date; blocking, on a file that is not open."""
        schema.check_library()
        with (
            translated(),
            _closing(self._connect_writer()) as connection,
            self._transaction(connection),
        ):
            return schema.migrate(connection)

    async def _in_writer_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _take(self, cohort_key: str | None) -> Reader | None:
        if not self._idle:
            return None
        matches = (n for n, reader in enumerate(self._idle) if reader.cohort_key == cohort_key)
        return self._idle.pop(next(matches, -1))

    def _open(self) -> None:
        schema.check_library()
        with translated():
            connection = self._connect_writer()
            try:
                if schema.is_empty(connection):
                    with self._transaction(connection):
                        schema.migrate(connection)
                schema.check(connection)
            except BaseException:
                connection.close()
                raise
        self._writer = connection

    def _close(self) -> None:
        """Close readers before the writer, which as the last one empties the log."""
        self._thread.shutdown()
        self._kept = 0
        while self._idle:
            self._idle.pop().connection.close()
        if self._writer is not None:
            self._writer.close()

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._writer is not None  # noqa: S101 - `opened` sees to it
        with translated(), self._transaction(self._writer):
            return work(self._writer)

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        _begin(connection, patience=self._settings.busy_timeout)
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back when the disk is full
                connection.execute("ROLLBACK")
            raise

    def _connect_writer(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._prepared_writer(_connect(str(self._path)))
        except (OSError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_BUSY:
                raise
            raise ConfigurationError(
                f"the SQLite database {self._path} cannot be opened ({error}); name a database"
                " file, or a new one in a writable folder, in HFS_DATABASE_URL"
            ) from error

    def _prepared_writer(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        try:
            self._prepare_writer(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_writer(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {self._patience_ms}")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _until_free(
            lambda: connection.execute("PRAGMA journal_mode = WAL"),
            patience=self._settings.busy_timeout,
        )
        connection.execute(f"PRAGMA synchronous = {self._settings.synchronous}")
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA busy_timeout = 0")  # `_begin` waits more evenly

    def _new_reader(self) -> Reader:
        with translated():
            connection = _connect(f"{self._path.as_uri()}?mode=ro")
            connection.execute(f"PRAGMA busy_timeout = {self._patience_ms}")
            connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
            connection.execute("CREATE TEMP TABLE cohort (patient TEXT PRIMARY KEY) WITHOUT ROWID")
            connection.execute("CREATE TEMP TABLE picked (seq INTEGER PRIMARY KEY)")
        return Reader(connection)

    @property
    def _patience_ms(self) -> int:
        return int(self._settings.busy_timeout * 1000)


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(
        name,
        isolation_level=None,
        check_same_thread=False,  # one thread at a time: the writer's own, or a lent reader's
        uri=name.startswith("file:"),
    )


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


def _begin(connection: sqlite3.Connection, *, patience: float) -> None:
    """
    Take the write lock.

    SQLite's own busy handler sleeps up to 100 ms between two looks, so that a kick-off beside a
    bulk load would wait that long; looking every millisecond or so finds the gap between two
    transactions.
    """
    _until_free(lambda: connection.execute("BEGIN IMMEDIATE"), patience=patience)


def _until_free(attempt: Callable[[], object], *, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            attempt()
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0003, 0.0015))  # noqa: S311 - spreads waiting processes
        else:
            return


async def unblocked(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do some reading in a thread, its errors turned into those of the contract."""
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
