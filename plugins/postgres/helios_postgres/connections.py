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
"""A connection outside of pools, or one borrowed from a pool."""


@asynccontextmanager
async def connected(settings: PostgresSettings) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """
    Open one connection outside of pools, without a statement timeout.

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
        except (*DRIVER_ERRORS, PostgresError):  # its work is done, or has failed
            connection.terminate()


async def prepare(connection: Connection, settings: PostgresSettings, *, timeout_ms: int) -> None:
    """
    Set the schema, the statement timeout and the isolation level of a session.

    The isolation level is `read committed` whatever the server's default is, so that a row read
    after waiting for its lock is current. A statement sets them, since connection poolers refuse
    them as parameters of a connection.
    """
    await connection.execute(
        "SELECT set_config('search_path', quote_ident($1), false),"
        " set_config('statement_timeout', $2, false),"
        " set_config('default_transaction_isolation', 'read committed', false)",
        settings.schema,
        str(timeout_ms),
    )


def lock_key(schema_name: str, name: str) -> int:
    """Return the key of an advisory lock, different for each schema."""
    key = xxhash.xxh3_64_intdigest(f"helios:{schema_name}:{name}".encode())
    return key - (1 << 63)


def address(settings: PostgresSettings, *, replica: bool) -> tuple[str, Secret]:
    """Return the name and the value of the setting with the server's address."""
    if replica and settings.read_url is not None:
        return "HFS_POSTGRES_READ_URL", settings.read_url
    return "HFS_DATABASE_URL", settings.database_url
