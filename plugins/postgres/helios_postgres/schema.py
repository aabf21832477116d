"""The schema of a database, and its migrations."""

from helios_core import ConfigurationError, Migrated, Migrations, index_outdated
from helios_postgres.compartments import sum_compartments
from helios_postgres.connections import Connection
from helios_postgres.indexing import is_indexed, rebuild_index
from helios_postgres.integrity import sum_extents

UNSUMMED = 12
"""The last schema without sums of compartments."""

OLDEST_SERVER = 14
"""The oldest PostgreSQL that its developers still maintain."""


def migrations() -> Migrations:
    """Return the steps from an empty schema to the current one."""
    return Migrations.of("helios_postgres", distribution="helios-fhir-postgres")


async def version_of(connection: Connection) -> int:
    """Return the number of the last migration that was applied, 0 if there is none."""
    if await connection.fetchval("SELECT to_regclass('schema_version') IS NULL"):
        return 0
    number: int = await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_version")
    return number


async def check(connection: Connection, schema: str) -> None:
    """
    Check that the schema is the current one, and the server new enough.

    Raises:
        SchemaOutdated: The schema needs `helios migrate`.
        ConfigurationError: The schema is newer than this code or belongs to another program, or
            the server is too old.
    """
    await _check_server(connection)
    await _check_owner(connection, schema)
    database = f"schema {schema} of the PostgreSQL database"
    migrations().check(await version_of(connection), database)
    if not await is_indexed(connection):
        raise index_outdated(database)


async def migrate(connection: Connection, schema: str, *, lock_key: int) -> Migrated:
    """
    Create the schema, apply missing migrations, add missing sums, rebuild an outdated index.

    Runs in one transaction. A concurrent caller waits, then finds nothing to do.

    Raises:
        ConfigurationError: The schema belongs to another program, or the server is too old.
    """
    await _check_server(connection)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_key)
        await _check_owner(connection, schema)
        before, steps = await version_of(connection), migrations()
        if before == 0:
            await _begin(connection, schema)
        for step in steps.after(before):
            await connection.execute(step.script)
            await connection.execute(
                "INSERT INTO schema_version (number, name) VALUES ($1, $2)", step.number, step.name
            )
        after = max(before, steps.newest)
        outdated = after == steps.newest and not await is_indexed(connection)
        if after == steps.newest:
            await sum_extents(connection)
            if before <= UNSUMMED:
                await sum_compartments(connection)
        if outdated:
            await rebuild_index(connection)
        return Migrated(before=before, after=after, indexed=outdated and before > 0)


async def _begin(connection: Connection, schema: str) -> None:
    # CREATE SCHEMA needs a right on the database even with IF NOT EXISTS.
    if await connection.fetchval("SELECT to_regnamespace(quote_ident($1)) IS NULL", schema):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (number integer PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )


async def _check_server(connection: Connection) -> None:
    found = connection.get_server_version()
    if found.major < OLDEST_SERVER:
        raise ConfigurationError(
            f"the server is PostgreSQL {found.major}, but {OLDEST_SERVER} or newer is needed;"
            " upgrade it"
        )


async def _check_owner(connection: Connection, schema: str) -> None:
    """Raise an error if a schema has tables, but not ours."""
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = $1", schema
    )
    if tables and "schema_version" not in {table["tablename"] for table in tables}:
        raise ConfigurationError(
            f"schema {schema} of the PostgreSQL database belongs to another program; set"
            " HFS_POSTGRES_SCHEMA to another name"
        )
