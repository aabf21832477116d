"""Connections and transactions."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference, make_read_preference, read_pref_mode_from_name
from pymongo.write_concern import WriteConcern

from helios_core import run_to_end
from helios_mongodb import schema
from helios_mongodb.errors import CONFLICTS, DRIVER_ERRORS, opening, translated
from helios_mongodb.introductions import Introductions, check_transactions
from helios_mongodb.sessions import Writers
from helios_mongodb.settings import MongoSettings
from helios_mongodb.waits import time_of

Document: TypeAlias = dict[str, Any]
Session: TypeAlias = AsyncClientSession
Collection: TypeAlias = AsyncCollection[Document]

T = TypeVar("T")

MAJORITY = WriteConcern("majority")
CLOSED_WITHIN = timedelta(seconds=10)
"""How long the driver may take to close its connections."""

_PAUSE_SECONDS = 0.005
"""The pause before a commit is repeated."""

_LONGEST_PAUSE_SECONDS = 0.08
_SHORTEST_PAUSE_SECONDS = 0.01
"""
The range of pauses before a transaction is repeated.

They get shorter, so that a transaction that has waited longer tries more often. Otherwise
processes that write without a break would leave no gap for it.
"""


class Database:
    """One database of a replica set, read and written with majority concern."""

    def __init__(self, settings: MongoSettings) -> None:
        self.settings = settings
        self._client: AsyncMongoClient[Document] | None = None
        self._writers: Writers | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Database"]:
        """
        Connect for as long as the context lasts.

        Raises:
            SchemaOutdated: The database needs `helios migrate`.
            ConfigurationError: The address cannot be used, or the server has no transactions.
            BackendUnavailable: The server cannot be reached.
        """
        async with connected(self.settings) as client:
            self._client = client
            await schema.check(self.database, self.settings.database)
            async with Writers(client, self.database).opened() as writers:
                self._writers = writers
                yield self

    @property
    def database(self) -> AsyncDatabase[Document]:
        """The database itself."""
        assert self._client is not None  # noqa: S101 - `opened` sets it
        return database_of(self._client, self.settings)

    async def now(self) -> datetime:
        """Return the time of the primary."""
        assert self._client is not None  # noqa: S101 - `opened` sets it
        return await time_of(self._client)

    def __getitem__(self, name: str) -> Collection:
        """Return a collection."""
        return self.database[name]

    def exports(self, name: str) -> Collection:
        """Return a collection, read from the members that serve exports."""
        mode = read_pref_mode_from_name(self.settings.read_preference.value)
        return self[name].with_options(read_preference=make_read_preference(mode, None))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Start a causally consistent session: a read sees what earlier reads in it have seen."""
        assert self._client is not None  # noqa: S101 - `opened` sets it
        session = self._client.start_session(causal_consistency=True)
        try:
            yield session
        finally:
            with suppress(*DRIVER_ERRORS):
                await run_to_end(session.end_session())

    async def write(
        self, work: Callable[[Session], Awaitable[T]], *, persistent: bool = True
    ) -> T:
        """
        Run `work` in one transaction; repeat it after a failover or a conflict.

        Without `persistent`, a conflict with another transaction fails at once. The work may run
        more than once, but only one run is committed. A commit whose response was lost is sent
        again; MongoDB responds to it as to the first one.

        Raises:
            StoreBusy: Another transaction is in the way.
            BackendUnavailable: HFS_MONGODB_TIMEOUT is over. If the response to a commit was lost,
                it is unknown whether the work was committed.
        """
        assert self._writers is not None  # noqa: S101 - `opened` sets it
        deadline = monotonic() + self.settings.timeout.total_seconds()
        pause = _LONGEST_PAUSE_SECONDS
        with translated():
            while True:
                try:
                    async with self._writers.session() as session:
                        return await self._try(session, work, deadline)
                except PyMongoError as error:
                    held = isinstance(error, OperationFailure) and error.code in CONFLICTS
                    over = monotonic() >= deadline or (held and not persistent)
                    if over or not _may_try_again(error):
                        raise
                await asyncio.sleep(pause * random.uniform(0, 1))  # noqa: S311 - spreads retries
                pause = max(0.7 * pause, _SHORTEST_PAUSE_SECONDS)

    async def _try(
        self, session: Session, work: Callable[[Session], Awaitable[T]], deadline: float
    ) -> T:
        await session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=MAJORITY,
            read_preference=ReadPreference.PRIMARY,
        )
        try:
            result = await work(session)
        except BaseException:
            with suppress(*DRIVER_ERRORS):
                await run_to_end(session.abort_transaction())
            raise
        while True:
            try:
                await session.commit_transaction()
            except PyMongoError as error:
                unknown = error.has_error_label("UnknownTransactionCommitResult")
                if not unknown or monotonic() >= deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return result


def _may_try_again(error: PyMongoError) -> bool:
    """Return whether a transaction was aborted for another one or by a failover."""
    # A duplicate key: another transaction inserted it after the snapshot of this one.
    return error.has_error_label("TransientTransactionError") or isinstance(
        error, DuplicateKeyError
    )


@asynccontextmanager
async def connected(
    settings: MongoSettings, *, limited: bool = True
) -> AsyncIterator[AsyncMongoClient[Document]]:
    """
    Connect to a server that has transactions; `limited` sets a timeout on each response.

    Raises:
        ConfigurationError: The address cannot be used, or the server has no transactions.
        BackendUnavailable: It cannot be reached.
    """
    wait_ms = _milliseconds(settings.connect_timeout.total_seconds())
    heard = Introductions()
    with opening():
        client: AsyncMongoClient[Document] = AsyncMongoClient(
            settings.database_url.reveal(),
            appname="helios",
            maxPoolSize=settings.pool_size,
            connectTimeoutMS=wait_ms,
            serverSelectionTimeoutMS=wait_ms,
            waitQueueTimeoutMS=wait_ms,
            socketTimeoutMS=_milliseconds(settings.timeout.total_seconds()) if limited else None,
            event_listeners=[heard],
        )
    try:
        with opening():
            try:
                check_transactions(await client.admin.command("hello"))
            except ServerSelectionTimeoutError:
                heard.explain(client.options.replica_set_name)
                raise
            # A user without rights may connect and send `hello`; reading shows a missing right.
            await database_of(client, settings)["meta"].find_one({})
        yield client
    finally:
        with suppress(*DRIVER_ERRORS):
            await run_to_end(asyncio.wait_for(client.close(), CLOSED_WITHIN.total_seconds()))


def database_of(
    client: AsyncMongoClient[Document], settings: MongoSettings
) -> AsyncDatabase[Document]:
    """Return the database that settings name, with majority read and write concern."""
    return client.get_database(
        settings.database,
        # A damaged instant out of range becomes the nearest valid one instead of an error.
        codec_options=CodecOptions(
            tz_aware=True,
            tzinfo=UTC,
            datetime_conversion=DatetimeConversion.DATETIME_CLAMP,
        ),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=MAJORITY,
    )


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
