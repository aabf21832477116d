"""The schema of a database file, and its migrations."""

import sqlite3
import uuid
from collections.abc import Iterator

from helios_core import ConfigurationError, Migrated, Migrations, index_outdated
from helios_sqlite.compartments import sum_compartments
from helios_sqlite.indexing import is_indexed, rebuild_index
from helios_sqlite.integrity import sum_extents

APPLICATION_ID = 0x48454C49
"""`HELI` in the file's header, which distinguishes our files from those of other programs."""

OLDEST_SQLITE = (3, 38, 0)
"""The first SQLite with all that is used here: STRICT tables, RETURNING, json_each, `->>`."""


DATABASE = "the SQLite database"

UNSUMMED = 11
"""The last schema without sums of compartments."""


def migrations() -> Migrations:
    """Return the steps from an empty file to the current schema."""
    return Migrations.of("helios_sqlite", distribution="helios-fhir-sqlite")


def version_of(connection: sqlite3.Connection) -> int:
    """Return the number of the last migration that was applied, 0 if there is none."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def check_library(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """
    Check that the SQLite library is new enough.

    Raises:
        ConfigurationError: It is older than `OLDEST_SQLITE`.
    """
    if version < OLDEST_SQLITE:
        found, needed = (".".join(map(str, v)) for v in (version, OLDEST_SQLITE))
        raise ConfigurationError(
            f"the SQLite library is {found}, but {needed} or newer is needed; use a newer Python"
        )


def check(connection: sqlite3.Connection) -> None:
    """
    Check that the schema of a database is the current one.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The schema is newer than this code or belongs to another program.
    """
    _check_owner(connection)
    migrations().check(version_of(connection), DATABASE)
    if not is_indexed(connection):
        raise index_outdated(DATABASE)


def is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether a file has no tables and no schema version."""
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return tables == 0 and version_of(connection) == 0


def migrate(connection: sqlite3.Connection) -> Migrated:
    """
    Apply missing migrations, add missing sums, rebuild an outdated index; return what was done.

    It runs in the caller's transaction, which must hold the write lock.

    Raises:
        ConfigurationError: The file belongs to another program.
    """
    _check_owner(connection)
    before, steps = version_of(connection), migrations()
    for step in steps.after(before):
        for statement in statements(step.script):
            connection.execute(statement)
    if before == 0:
        connection.execute("INSERT INTO stores VALUES (?)", (str(uuid.uuid4()),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    after = max(before, steps.newest)
    connection.execute(f"PRAGMA user_version = {after}")
    outdated = after == steps.newest and not is_indexed(connection)
    if after == steps.newest:
        sum_extents(connection)
        if before <= UNSUMMED:
            sum_compartments(connection)
    if outdated:
        rebuild_index(connection)
    return Migrated(before=before, after=after, indexed=outdated and before > 0)


def statements(script: str) -> Iterator[str]:
    """Split a script into statements, since `executescript` would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_owner(connection: sqlite3.Connection) -> None:
    mark: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != APPLICATION_ID and not is_empty(connection):
        raise ConfigurationError(
            f"{DATABASE} belongs to another program; set HFS_DATABASE_URL to another file"
        )
