"""Connections to PostgreSQL: how a session is opened and prepared."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import xxhash
from asyncpg import PostgresError

from helios_core import Secret
from helios_postgres.errors import DRIVER_ERRORS, opening, translated
from helios_postgres.settings import PostgresSettings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
"""A connection of one's own, or one that a pool lends."""


@asynccontextmanager
async def connected(settings: PostgresSettings) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """
    Open one connection beside any pool, without a statement time-out.

    Raises:
        ConfigurationError: The address, its user or the database cannot be used.
        BackendUnavailable: The server cannot be reached.
    """
    setting, url = address(settings, replica=False)
    patience = settings.connect_timeout.total_seconds()
    with opening(setting):
        connection = await asyncpg.connect(
            url.reveal(), timeout=patience, server_settings={"application_name": "helios"}
        )
    try:
        with translated():
            await prepare(connection, settings, timeout_ms=0)
            yield connection
    finally:
        try:
            await connection.close(timeout=patience)
        except (*DRIVER_ERRORS, PostgresError):  # whatever it was for is done, or has failed
            connection.terminate()


async def prepare(connection: Connection, settings: PostgresSettings, *, timeout_ms: int) -> None:
    """
    Set the schema, the statement time-out and the isolation of a session.

    What is locked and then read must be read as it is after the wait, whatever the server's
    default for transactions is. They are set by a statement, since a connection pooler refuses a
    session that asks for them while it connects.
    """
    await connection.execute(
        "SELECT set_config('search_path', quote_ident($1), false),"
        " set_config('statement_timeout', $2, false),"
        " set_config('default_transaction_isolation', 'read committed', false)",
        settings.schema,
        str(timeout_ms),
    )


def lock_key(schema_name: str, name: str) -> int:
    """Return the key of an advisory lock; schemas of one database do not share it."""
    key = xxhash.xxh3_64_intdigest(f"helios:{schema_name}:{name}".encode())
    return key - (1 << 63)


def address(settings: PostgresSettings, *, replica: bool) -> tuple[str, Secret]:
    """Return the setting that names the server, and the address in it."""
    if replica and settings.read_url is not None:
        return "HFS_POSTGRES_READ_URL", settings.read_url
    return "HFS_DATABASE_URL", settings.database_url
