"""Reads of exports: from a replica that has replayed past their instant, or from the primary."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Generic, ParamSpec, TypeVar

import msgspec
import structlog

from helios_core import BackendError, SchemaOutdated, read_statements
from helios_postgres.connections import Connection
from helios_postgres.databases import Database, Work
from helios_postgres.settings import PostgresSettings

_SQL = read_statements("helios_postgres", "replicas")

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.stdlib.get_logger()

REPLAY = timedelta(seconds=10)
"""How long an export waits for the replica to have replayed past its instant."""

AVOIDANCE = timedelta(seconds=30)
"""How long reads go to the primary once the replica has failed or was too far behind."""

_PAUSE = timedelta(milliseconds=50)


class _Done(msgspec.Struct, Generic[T], frozen=True):
    """A result, which may be None."""

    result: T


class Replica:
    """
    A streaming replica, used while it responds and keeps up.

    It may be down when the server starts: it is tried again after each `AVOIDANCE`.
    """

    def __init__(self, settings: PostgresSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._opening = asyncio.Lock()
        self._database: Database | None = None
        self._avoided_until = 0.0

    async def connect(self) -> None:
        """
        Try to connect; a replica that is down or behind is avoided for a while.

        Raises:
            ConfigurationError: Its address, user or database cannot be used.
        """
        try:
            await self._opened()
        except (BackendError, SchemaOutdated) as error:
            self._avoid(error)

    @property
    def _avoided(self) -> bool:
        return time.monotonic() < self._avoided_until

    async def run(
        self, stamp: int, work: Work[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> _Done[T] | None:
        """Run `work` in a read-only transaction, or return None if the replica cannot be used."""
        try:
            database = await self._opened()
            if database is None:
                return None
            async with database.connection() as connection:
                if await self._has_replayed(connection, stamp):
                    return _Done(await _reading(connection, work, *args, **kwargs))
        except (BackendError, SchemaOutdated) as error:
            self._avoid(error)
        return None

    async def _opened(self) -> Database | None:
        async with self._opening:
            if self._avoided:
                return None
            if self._database is None:
                database = Database(self._settings, replica=True)
                self._database = await self._stack.enter_async_context(database.opened())
            return self._database

    async def _has_replayed(self, connection: Connection, stamp: int) -> bool:
        """Wait, at most `REPLAY`, until the replica has all that was committed up to a stamp."""
        deadline = time.monotonic() + REPLAY.total_seconds()
        # Each check is a transaction of its own, so that the next one sees at least as much.
        while not await connection.fetchval(_SQL["replayed"], stamp):
            if time.monotonic() > deadline:
                self._avoid(f"it is more than {REPLAY.total_seconds():g} s behind")
                return False
            await asyncio.sleep(_PAUSE.total_seconds())
        return True

    def _avoid(self, reason: object) -> None:
        self._avoided_until = time.monotonic() + AVOIDANCE.total_seconds()
        log.warning("replica.avoided", reason=str(reason))


class Reads:
    """Runs the reads of exports, each in one read-only transaction without statement timeout."""

    def __init__(self, primary: Database, replica: Replica | None = None) -> None:
        self.primary = primary
        self._replica = replica

    async def run(self, stamp: int, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run `work` on a replica that has replayed past a settled stamp, or on the primary.

        Raises:
            BackendUnavailable: The primary cannot be used either.
        """
        if self._replica is not None:
            done = await self._replica.run(stamp, work, *args, **kwargs)
            if done is not None:
                return done.result
        return await self.run_on_primary(work, *args, **kwargs)

    async def run_on_primary(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the primary: it needs something that is not replicated."""
        async with self.primary.transaction(read_only=True) as connection:
            await connection.execute(_SQL["as_export"])
            return await work(connection, *args, **kwargs)


@asynccontextmanager
async def export_reads(database: Database) -> AsyncIterator[Reads]:
    """
    Open the reads of exports, with a replica if the settings name one.

    Raises:
        ConfigurationError: The address of the replica cannot be used.
    """
    async with AsyncExitStack() as stack:
        if database.settings.read_url is None:
            yield Reads(database)
            return
        replica = Replica(database.settings, stack)
        await replica.connect()
        yield Reads(database, replica)


async def _reading(
    connection: Connection, work: Work[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(_SQL["as_export"])
        return await work(connection, *args, **kwargs)
