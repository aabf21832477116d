"""Scratch databases: temporary SQLite files for what does not fit into memory."""

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

from helios_core.errors import BackendUnavailable
from helios_core.storage.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")

CACHE_KIB = 16 * 1024
"""Maximum memory of one scratch database; the rest is in its temporary file."""


class ScratchDatabase:
    """A temporary SQLite database with one owner, who makes one call at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        Call a function with the connection, in a thread, and return its result.

        Raises:
            BackendUnavailable: The temporary file cannot be written, for example on a full disk.
        """
        try:
            return await in_thread(function, self._connection, *args, **kwargs)
        except sqlite3.OperationalError as error:
            raise BackendUnavailable(
                f"The temporary file of an export cannot be written ({error}); free space in the "
                "folder for temporary files."
            ) from error


@asynccontextmanager
async def scratch_database(schema: str) -> AsyncGenerator[ScratchDatabase]:
    """Open a scratch database with some tables; it is deleted when the context ends."""
    connection = await in_thread(_open, schema)
    try:
        yield ScratchDatabase(connection)
    finally:
        await in_thread(connection.close)


def _open(schema: str) -> sqlite3.Connection:
    # An empty name is a file that is deleted as soon as it is made (SQLite, inmemorydb.html).
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.executescript(schema)
    return connection
