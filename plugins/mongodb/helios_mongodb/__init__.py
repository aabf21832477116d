"""Resources in MongoDB, shared by any number of processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, DataProvider, Reach, hookimpl
from helios_mongodb import schema
from helios_mongodb.databases import Database, connected, database_of
from helios_mongodb.provider import MongoDataProvider
from helios_mongodb.settings import MongoSettings, ReadFrom

__all__ = ["MongoDataProvider", "MongoSettings", "ReadFrom", "migrate", "open_data_provider"]


@asynccontextmanager
async def open_data_provider(settings: MongoSettings) -> AsyncIterator[MongoDataProvider]:
    """
    Open the resources of a database.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with Database(settings).opened() as database:
        yield MongoDataProvider(database)


async def migrate(settings: MongoSettings) -> str:
    """
    Bring a database to this schema, and say what was done.

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
