"""Errors of SQLite as errors of the contract."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from helios_core import BackendError, BackendUnavailable

log = structlog.stdlib.get_logger()

_TEMPORARY = {
    sqlite3.SQLITE_BUSY: "other processes are writing to it without a break",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_READONLY: "it may not be written to",
    sqlite3.SQLITE_PERM: "access to it is denied",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}
_DISK_ERRORS = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
    }
)
"""Errors that an operator resolves; the file's path is logged, but not shown to clients."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class IndexDamaged(BackendError):
    """The search index is damaged; the versions need not be."""

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
    """Return whether the file is damaged."""
    # Python reports text that is not UTF-8 without a result code.
    return primary_code(error) in _DAMAGED or str(error).startswith("Could not decode")


def damaged(what: str) -> BackendError:
    """Return the error for a damaged database."""
    return BackendError(
        f"the SQLite database is damaged: {what}; run PRAGMA integrity_check on it, and restore"
        " missing data from a backup"
    )


def only_value(rows: Sequence[Sequence[Any]], table: str) -> Any:  # noqa: ANN401
    """
    Return the value of a table that has one row of one column.

    Raises:
        BackendError: The row is missing.
    """
    if not rows:
        raise damaged(f"the row of its table {table} is missing")
    return rows[0][0]


@contextmanager
def translated(path: Path | None = None) -> Iterator[None]:
    """
    Turn every error of SQLite into one of the contract; log the path if the disk is at fault.

    Unknown errors count as temporary. The texts of errors are left out, since they may quote
    values; their names are kept.
    """
    try:
        yield
    except MemoryError as error:  # SQLite's, maybe for a damaged page with a huge size
        raise BackendUnavailable(
            "the SQLite database cannot be used: there is not enough memory; try again later"
        ) from error
    except (sqlite3.Error, sqlite3.Warning) as error:
        code = primary_code(error)
        if path is not None and code in _DISK_ERRORS:
            log.error("database.failed", path=str(path), reason=_TEMPORARY[code])  # noqa: TRY400  a traceback may quote values
        if code in _TEMPORARY:
            raise BackendUnavailable(
                f"the SQLite database cannot be used: {_TEMPORARY[code]}; try again later"
            ) from error
        if isinstance(error, sqlite3.Error) and is_damage(error):
            raise damaged("it cannot be read") from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise BackendUnavailable(
            f"the SQLite database failed unexpectedly ({name}); try again later"
        ) from error
