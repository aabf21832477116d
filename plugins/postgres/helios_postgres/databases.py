"""One PostgreSQL database, opened: a pool of connections, and transactions on them."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import asyncpg
from asyncpg import InterfaceError, PostgresError

from helios_core import run_to_end
from helios_postgres import schema
from helios_postgres.connections import Connection, address, lock_key, prepare
from helios_postgres.errors import ABORTED, DRIVER_ERRORS, opening, translated
from helios_postgres.settings import PostgresSettings

if TYPE_CHECKING:
    from asyncpg.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

Work: TypeAlias = Callable[Concatenate[Connection, P], Awaitable[T]]

TRIES = 8
"""How often a transaction is begun anew after another one was preferred to it."""

PATIENCE = timedelta(seconds=10)
"""How much longer than PostgreSQL itself we wait for a statement that is limited in time."""


class Database:
    """
    Transactions on a pool of connections.

    Sessions are prepared once, when they are connected, and not reset between two borrowers,
    which would cost a round trip each time. Who borrows one leaves nothing behind: `SET LOCAL`,
    advisory locks of the transaction, temporary tables that are dropped on commit.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        size: int | None = None,
        replica: bool = False,
        limited: bool = False,
    ) -> None:
        """
        Describe the pool; `opened` fills it.

        `size` is `pool_size` unless said otherwise. `replica` takes the address for reading.
        `limited` also gives up on statements that PostgreSQL itself does not end in time, because
        it vanished; only for a pool whose statements all keep the statement time-out.
        """
        self.settings = settings
        self._replica = replica
        self._size = size or settings.pool_size
        self._limit = (settings.statement_timeout + PATIENCE).total_seconds() if limited else None
        self._pool: Pool[asyncpg.Record] | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """
        Connect for as long as the context lasts.

        Raises:
            SchemaOutdated: The database needs `helios migrate`.
            ConfigurationError: The address, its user or the database cannot be used.
            BackendUnavailable: The server cannot be reached.
        """
        setting, url = address(self.settings, replica=self._replica)
        try:
            with opening(setting):
                self._pool = await asyncpg.create_pool(
                    url.reveal(),
                    min_size=1,
                    max_size=self._size,
                    timeout=self.settings.connect_timeout.total_seconds(),
                    command_timeout=self._limit,
                    server_settings={"application_name": "helios"},
                    init=self._prepare,
                    reset=_as_it_is,
                )
                async with self.connection() as connection:
                    await schema.check(connection, self.settings.schema)
            yield self
        finally:
            if self._pool is not None:
                await run_to_end(self._close(self._pool))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """
        Borrow a connection, outside of any transaction.

        Raises:
            BackendUnavailable: None is free or can be opened in time, or it is lost meanwhile.
        """
        with translated():
            async with self._borrowed() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(
        self, *, read_only: bool = False, unlimited: bool = False
    ) -> AsyncIterator[Connection]:
        """
        Do all of what the context does in one transaction, or none of it.

        One that only reads sees a single state of the database from beginning to end. `unlimited`
        lifts the statement time-out.

        Raises:
            BackendUnavailable: As `connection`. Where the connection is lost under the COMMIT,
                nobody knows whether it was done.
        """
        isolation: Any = "repeatable_read" if read_only else "read_committed"
        async with (
            self.connection() as connection,
            connection.transaction(isolation=isolation, readonly=read_only),
        ):
            if unlimited:
                await connection.execute("SET LOCAL statement_timeout = 0")
            yield connection

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do some work in one transaction, and anew where another transaction was preferred to it.

        The work may therefore run more than once, but only one run of it is ever committed.

        Raises:
            BackendUnavailable: As `transaction`.
        """
        with translated():
            for attempt in range(1, TRIES):
                try:
                    return await self._once(work, *args, **kwargs)
                except ABORTED:
                    await asyncio.sleep(random.uniform(0.001, 0.01) * attempt)  # noqa: S311 - spreads who collided
            return await self._once(work, *args, **kwargs)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do some reading, all of it on one state of the database.

        Raises:
            BackendUnavailable: As `connection`.
        """
        async with self.transaction(read_only=True) as connection:
            return await work(connection, *args, **kwargs)

    def lock_key(self, name: str) -> int:
        """Return the key of an advisory lock that is shared by all servers on this schema."""
        return lock_key(self.settings.schema, name)

    async def _once(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._borrowed() as connection, connection.transaction():
            return await work(connection, *args, **kwargs)

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        assert self._pool is not None  # noqa: S101 - `opened` sees to it
        patience = self.settings.connect_timeout.total_seconds()
        connection = await self._pool.acquire(timeout=patience)
        try:
            yield connection
        except DRIVER_ERRORS:
            # A connection that broke in the middle may be given back before the driver knows: it
            # is neither free nor closed, and must not be lent again.
            connection.terminate()
            raise
        finally:
            # The pool ends a connection that it cannot take back. Whoever borrowed it has the
            # error that broke it, or had none.
            try:
                await self._pool.release(connection)
            except (*DRIVER_ERRORS, PostgresError):
                with suppress(InterfaceError):  # it has left the pool already
                    connection.terminate()

    async def _prepare(self, connection: Connection) -> None:
        await prepare(connection, self.settings, timeout_ms=self.settings.statement_timeout_ms)

    async def _close(self, pool: "Pool[asyncpg.Record]") -> None:
        try:
            async with asyncio.timeout(self.settings.connect_timeout.total_seconds()):
                await pool.close()
        except (*DRIVER_ERRORS, PostgresError):  # a timeout among them
            pool.terminate()


async def _as_it_is(connection: Connection) -> None:
    """Leave a returned session alone; asyncpg itself has ended its transaction."""
