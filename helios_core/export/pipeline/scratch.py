"""Room for what does not fit into memory: a private database that goes with its owner."""

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

from helios_core.errors import BackendUnavailable
from helios_core.storage.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")

CACHE_KIB = 16 * 1024
"""How much of a spool is in memory; the rest is in a file without a name."""


class ScratchDatabase:
    """A temporary SQLite database of one owner, who uses it for one thing at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """
        Do some work on the database in a thread.

        Raises:
            BackendUnavailable: There is no room for temporary files.
        """
        try:
            return await in_thread(work, self._connection, *args, **kwargs)
        except sqlite3.OperationalError as error:
            raise BackendUnavailable(
                f"The temporary file of an export cannot be written ({error}); make room in the "
                "folder for temporary files."
            ) from error


@asynccontextmanager
async def scratch_database(schema: str) -> AsyncGenerator[ScratchDatabase]:
    """Give a spool with some tables; whatever happens, nothing of it is left afterwards."""
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
