"""Resources and job state in PostgreSQL, shared by any number of processes."""

from helios_postgres import schema
from helios_postgres.databases import connected, lock_key
from helios_postgres.settings import PostgresSettings

__all__ = ["PostgresSettings", "migrate"]


async def migrate(settings: PostgresSettings) -> str:
    """
    Bring a database to this schema, and say what was done.

    Raises:
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    name = settings.schema
    async with connected(settings) as connection:
        done = await schema.migrate(connection, name, lock_key=lock_key(name, "migrate"))
    if done.before < done.after:
        return f"schema {name} went from version {done.before} to {done.after}"
    return f"schema {name} has version {done.after} already"
