"""Connections: opening a database file, migrating it, and taking its write lock."""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock

from helios_core import ConfigurationError, Migrated
from helios_sqlite import schema
from helios_sqlite.errors import primary_code, translated
from helios_sqlite.settings import SQLiteSettings

PAGE_BYTES = 8192
"""With resources of 1.2 KB, writes and reads were measured a tenth faster than with 4096."""

CHECKPOINT_PAGES = 2048
"""Checkpoints every 16 MiB of WAL; the default of 1000 pages syncs the file too often."""

LOG_BYTES = 64 * 1024 * 1024
"""The size that a larger WAL file is truncated to."""

CACHE_KIB = 16 * 1024

_CREATING = Lock()


def connect(name: str) -> sqlite3.Connection:
    """Return a connection that may be used by one thread at a time."""
    return sqlite3.connect(
        name, isolation_level=None, check_same_thread=False, uri=name.startswith("file:")
    )


def open_file(settings: SQLiteSettings) -> sqlite3.Connection:
    """
    Return a connection for writing; if the file does not exist, it is created for its owner only.

    The connection itself does not wait for locks; `transaction` does.

    Raises:
        SchemaOutdated: The file needs `helios migrate`.
        ConfigurationError: The file cannot be used.
    """
    schema.check_library()
    with translated(settings.path), _closed_on_error(_connect_writer(settings)) as connection:
        if schema.is_empty(connection):
            with transaction(connection, patience=settings.busy_timeout):
                schema.migrate(connection)
        schema.check(connection)
        return connection


def migrate(settings: SQLiteSettings) -> Migrated:
    """
    Migrate a file to the current schema and search index.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    schema.check_library()
    with (
        translated(settings.path),
        closing(_connect_writer(settings)) as connection,
        transaction(connection, patience=settings.busy_timeout),
    ):
        return schema.migrate(connection)


@contextmanager
def transaction(connection: sqlite3.Connection, *, patience: float) -> Iterator[None]:
    """
    Take the write lock, waiting at most `patience` seconds; commit, or roll back on an error.

    SQLite's own busy handler sleeps up to 100 ms between two attempts, and a kick-off during a
    bulk load would wait that long; attempts every millisecond find the gap between transactions.
    """
    if connection.in_transaction:  # an earlier rollback failed
        connection.execute("ROLLBACK")
    _until_free(lambda: connection.execute("BEGIN IMMEDIATE"), patience=patience)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise


def _connect_writer(settings: SQLiteSettings) -> sqlite3.Connection:
    path = settings.path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
        with _closed_on_error(connect(str(path))) as connection:
            _prepare(connection, settings)
            return connection
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and primary_code(error) == sqlite3.SQLITE_BUSY:
            raise
        raise ConfigurationError(
            f"the SQLite database {path} cannot be opened ({error}); set HFS_DATABASE_URL to"
            " a database file, or to a new file in a writable folder"
        ) from error


def _create(path: Path) -> None:
    """
    Create a file for its owner only, unless it exists; SQLite's log gets the same permissions.

    A file that exists is not opened: closing any of its descriptors would end all locks that
    other connections of this process have on it (POSIX).
    """
    with _CREATING, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _prepare(connection: sqlite3.Connection, settings: SQLiteSettings) -> None:
    connection.execute(f"PRAGMA busy_timeout = {settings.patience_ms}")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    _until_free(
        lambda: connection.execute("PRAGMA journal_mode = WAL"), patience=settings.busy_timeout
    )
    connection.execute(f"PRAGMA synchronous = {settings.synchronous}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 0")  # `_until_free` waits more evenly


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


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
