"""The schema of a database file, and its way from any earlier version to this one."""

import sqlite3
import uuid
from collections.abc import Iterator
from importlib.resources import files

import msgspec

from helios_core import ConfigurationError, SchemaOutdated
from helios_sqlite.indexing import index_anew, is_indexed

APPLICATION_ID = 0x48454C49
"""`HELI` in the file's header, so that no other program's database is taken for ours."""

OLDEST_SQLITE = (3, 38, 0)
"""The first SQLite with everything in use here: STRICT tables, RETURNING, json_each."""


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a file."""

    before: int
    """How many migrations it had had."""
    after: int
    indexed: bool
    """Whether its search index was made anew."""


def migrations() -> list[str]:
    """Give the scripts that lead from an empty file to this schema, oldest first."""
    folder = files("helios_sqlite").joinpath("migrations")
    scripts = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return [script.read_text(encoding="utf-8") for script in scripts]


def version_of(connection: sqlite3.Connection) -> int:
    """Give how many migrations a database has had."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def check_library(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """
    Refuse an SQLite library that is too old.

    Raises:
        ConfigurationError: It is.
    """
    if version < OLDEST_SQLITE:
        found, needed = (".".join(map(str, v)) for v in (version, OLDEST_SQLITE))
        raise ConfigurationError(
            f"the SQLite library is {found}, but {needed} or newer is needed; use a newer Python"
        )


def check(connection: sqlite3.Connection) -> None:
    """
    Refuse a database that this code cannot use as it is.

    Raises:
        SchemaOutdated: It needs `helios migrate`.
        ConfigurationError: It is newer than the code, or another program's.
    """
    found, known = version_of(connection), len(migrations())
    if _foreign(connection):
        raise ConfigurationError(
            "the SQLite database belongs to another program; name another file in HFS_DATABASE_URL"
        )
    if found > known:
        raise ConfigurationError(
            f"the SQLite database has schema {found}, this code knows schemas up to {known};"
            " install the version of helios-fhir-sqlite that wrote it"
        )
    if found < known:
        raise SchemaOutdated(
            f"the SQLite database has schema {found}, this code needs schema {known};"
            " stop the servers that use it and run: helios migrate"
        )
    if not is_indexed(connection):
        raise SchemaOutdated(
            "the search index of the SQLite database was made by other rules than this code's;"
            " stop the servers that use it and run: helios migrate"
        )


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether a file has never held anything."""
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return tables == 0 and version_of(connection) == 0


def migrate(connection: sqlite3.Connection) -> Migrated:
    """
    Apply what is missing, index what is not indexed, and tell what was done.

    The caller holds the write lock, and its transaction makes this all or nothing.
    """
    found = version_of(connection)
    if _foreign(connection):
        check(connection)
    scripts = migrations()
    for script in scripts[found:]:
        for statement in statements(script):
            connection.execute(statement)
    if found == 0:
        connection.execute("INSERT INTO stores VALUES (?)", (str(uuid.uuid4()),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    after = max(found, len(scripts))
    connection.execute(f"PRAGMA user_version = {after}")
    outdated = found <= len(scripts) and not is_indexed(connection)
    if outdated:
        index_anew(connection)
    return Migrated(before=found, after=after, indexed=outdated)


def statements(script: str) -> Iterator[str]:
    """Cut a script into statements, since `executescript` would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _foreign(connection: sqlite3.Connection) -> bool:
    mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
    return mark != APPLICATION_ID and not is_empty(connection)
