"""Where exports read: on a replica that has replayed past their instant, or on the primary."""

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
    """What some reading gave, be it None."""

    result: T


class Replica:
    """
    A streaming replica, used for as long as it answers and keeps up.

    It may be away when the server starts and come back later: it is tried again every now and
    then.
    """

    def __init__(self, settings: PostgresSettings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._opening = asyncio.Lock()
        self._database: Database | None = None
        self._avoided_until = 0.0

    async def connect(self) -> None:
        """
        Look whether the replica can be used.

        Raises:
            ConfigurationError: Its address, user or database cannot; one that is away may come.
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
        """Do some reading as of an instant, or give None where the primary has to do it."""
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
        """Wait for a while until the replica shows all that was committed before an instant."""
        deadline = time.monotonic() + REPLAY.total_seconds()
        # Each look is a transaction of its own, so that what follows sees at least as much.
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
    """Reads of exports, each in one transaction that has no statement time-out."""

    def __init__(self, primary: Database, replica: Replica | None = None) -> None:
        self.primary = primary
        self._replica = replica

    async def run(self, stamp: int, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do some reading as of an instant that is settled.

        Raises:
            BackendUnavailable: The primary cannot be asked either.
        """
        if self._replica is not None:
            done = await self._replica.run(stamp, work, *args, **kwargs)
            if done is not None:
                return done.result
        return await self.run_on_primary(work, *args, **kwargs)

    async def run_on_primary(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do some reading that needs what a replica does not have."""
        async with self.primary.transaction(read_only=True) as connection:
            await connection.execute(_SQL["as_export"])
            return await work(connection, *args, **kwargs)


@asynccontextmanager
async def reads(database: Database) -> AsyncIterator[Reads]:
    """
    Open the place where exports read, by the settings of an opened database.

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
