"""Resources and job state in MongoDB, shared by any number of processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, DataProvider, JobStore, Reach, hookimpl
from helios_mongodb import schema
from helios_mongodb.databases import Database, connected, database_of
from helios_mongodb.jobs import MongoJobStore
from helios_mongodb.listening import listener
from helios_mongodb.provider import MongoDataProvider
from helios_mongodb.settings import MongoSettings, ReadFrom

__all__ = [
    "MongoDataProvider",
    "MongoJobStore",
    "MongoSettings",
    "ReadFrom",
    "migrate",
    "open_data_provider",
    "open_job_store",
]


@asynccontextmanager
async def open_data_provider(settings: MongoSettings) -> AsyncIterator[MongoDataProvider]:
    """
    Open a data provider on a database.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with Database(settings).opened() as database:
        yield MongoDataProvider(database)


@asynccontextmanager
async def open_job_store(settings: MongoSettings) -> AsyncIterator[MongoJobStore]:
    """
    Open a job store on a database.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with Database(settings).opened() as database:
        store = await MongoJobStore.of(database)
        async with listener(database, store.wake):
            yield store


async def migrate(settings: MongoSettings) -> str:
    """
    Migrate a database to the current schema, and return a report of what was done.

    Raises:
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with connected(settings, limited=False) as client:
        done = await schema.migrate(database_of(client, settings))
    return done.report(f"the MongoDB database {settings.database}")


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer resources in MongoDB."""
    return Backend(
        api_level=API_LEVEL,
        implementation=MongoDataProvider,
        settings=MongoSettings,
        open=open_data_provider,
        reach=Reach.MACHINES,
        migrate=migrate,
    )


@hookimpl
def helios_job_store() -> Backend[JobStore]:
    """Offer jobs in MongoDB."""
    return Backend(
        api_level=API_LEVEL,
        implementation=MongoJobStore,
        settings=MongoSettings,
        open=open_job_store,
        reach=Reach.MACHINES,
        migrate=migrate,
    )
