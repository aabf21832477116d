"""SQLite's errors as the errors of the contract."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from helios_core import BackendError, BackendUnavailable

log = structlog.stdlib.get_logger()

_PASSING = {
    sqlite3.SQLITE_BUSY: "other processes are writing to it all the time",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_READONLY: "it may not be written to",
    sqlite3.SQLITE_PERM: "access to it is denied",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}
_OF_THE_DISK = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
    }
)
"""What an operator repairs at the file; its path is logged, and is in no message to a client."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class IndexDamaged(BackendError):
    """The search index is not as it was written; the versions may be."""

    def __init__(self) -> None:
        super().__init__(
            "the search index of the SQLite database is damaged; stop the servers that use it, set"
            " terms_version to 0 in its table search_index, and run: helios migrate"
        )


def primary_code(error: sqlite3.Error | sqlite3.Warning) -> int:
    """Return SQLite's primary result code, 0 for an error of the Python module itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether the bytes on disk are at fault."""
    # Text that is no text has no code of SQLite's.
    return primary_code(error) in _DAMAGED or str(error).startswith("Could not decode")


def damaged(what: str) -> BackendError:
    """Return the error about a database that contradicts itself."""
    return BackendError(
        f"the SQLite database is damaged: {what}; run PRAGMA integrity_check on it and restore"
        " what is lost from a backup"
    )


def only_value(rows: Sequence[Sequence[Any]], table: str) -> Any:  # noqa: ANN401  a column's
    """
    Return the value of a table that has one row of one column.

    Raises:
        BackendError: The row is gone.
    """
    if not rows:
        raise damaged(f"the row of its table {table} is gone")
    return rows[0][0]


@contextmanager
def translated(path: Path | None = None) -> Iterator[None]:
    """
    Turn every error of the driver into one of the contract, and log the path of a bad disk.

    What nobody expected may pass as well, such as a connection that broke, so it is worth another
    try; its kind is in the message, and its text, which may quote values, is not.
    """
    try:
        yield
    except MemoryError as error:  # SQLite's own, perhaps because a damaged page promises too much
        raise BackendUnavailable(
            "the SQLite database did not answer: there is not enough memory; try again later"
        ) from error
    except (sqlite3.Error, sqlite3.Warning) as error:
        code = primary_code(error)
        if path is not None and code in _OF_THE_DISK:
            log.error("database.failed", path=str(path), reason=_PASSING[code])  # noqa: TRY400  no traceback quotes values
        if code in _PASSING:
            raise BackendUnavailable(
                f"the SQLite database did not answer: {_PASSING[code]}; try again later"
            ) from error
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise damaged("it cannot be read") from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise BackendUnavailable(
            f"the SQLite database failed unexpectedly ({name}); try again later"
        ) from error
