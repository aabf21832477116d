"""A PostgreSQL database: a pool of connections, and transactions on them."""

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

ATTEMPTS = 8
"""How often a transaction is tried that PostgreSQL aborts in favour of another one."""

PATIENCE = timedelta(seconds=10)
"""How much longer than the statement timeout we wait for PostgreSQL to end a statement."""


class Database:
    """
    Transactions on a pool of connections.

    Sessions are prepared once, when they are connected, and not reset when they are returned,
    which would cost a round trip each time. So nothing may outlive a transaction: use `SET LOCAL`,
    transaction-level advisory locks, and temporary tables that are dropped on commit.
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
        Set the options of the pool; `opened` connects it.

        `size` defaults to `pool_size`. `replica` uses the address of the replica. `limited` also
        ends statements that PostgreSQL does not end in time itself, because it is gone; it is only
        for pools on which no statement lifts the statement timeout.
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
                    reset=_do_not_reset,
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
        Run the context in one transaction.

        With `read_only` it sees a single snapshot. `unlimited` lifts the statement timeout.

        Raises:
            BackendUnavailable: As for `connection`. If the connection is lost during COMMIT, it is
                unknown whether the transaction was committed.
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
        Run `work` in one transaction; repeat it if PostgreSQL aborts it in favour of another one.

        The work may run more than once, but only one run is committed.

        Raises:
            BackendUnavailable: As for `transaction`.
        """
        with translated():
            for attempt in range(1, ATTEMPTS):
                try:
                    return await self._once(work, *args, **kwargs)
                except ABORTED:
                    await asyncio.sleep(random.uniform(0.001, 0.01) * attempt)  # noqa: S311 - spreads retries
            return await self._once(work, *args, **kwargs)

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run `work` in a read-only transaction, which sees a single snapshot.

        Raises:
            BackendUnavailable: As for `connection`.
        """
        async with self.transaction(read_only=True) as connection:
            return await work(connection, *args, **kwargs)

    def lock_key(self, name: str) -> int:
        """Return the key of an advisory lock shared by all servers on this schema."""
        return lock_key(self.settings.schema, name)

    async def _once(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._borrowed() as connection, connection.transaction():
            return await work(connection, *args, **kwargs)

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        assert self._pool is not None  # noqa: S101 - `opened` sets it
        patience = self.settings.connect_timeout.total_seconds()
        connection = await self._pool.acquire(timeout=patience)
        try:
            yield connection
        except DRIVER_ERRORS:
            # A broken connection may be returned before the driver has noticed, neither idle nor
            # closed; it must not be lent again.
            connection.terminate()
            raise
        finally:
            # The pool ends a connection that it cannot take back. The borrower has already got
            # the error that broke it, or has finished without one.
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


async def _do_not_reset(connection: Connection) -> None:
    """Do not reset a returned session; asyncpg has ended its transaction."""
