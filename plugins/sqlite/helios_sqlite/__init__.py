"""Resources and job state in SQLite, the embedded database: one file, no service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, DataProvider, JobStore, Reach, hookimpl, in_thread
from helios_sqlite import connections
from helios_sqlite.databases import Database, JobDatabase
from helios_sqlite.jobs import SQLiteJobStore
from helios_sqlite.provider import SQLiteDataProvider
from helios_sqlite.settings import SQLiteSettings

__all__ = [
    "SQLiteDataProvider",
    "SQLiteJobStore",
    "SQLiteSettings",
    "migrate",
    "open_data_provider",
    "open_job_store",
]


@asynccontextmanager
async def open_data_provider(settings: SQLiteSettings) -> AsyncIterator[SQLiteDataProvider]:
    """
    Open a data provider on a database file, which is created if it does not exist.

    Raises:
        SchemaOutdated: The file needs `helios migrate`.
        ConfigurationError: The file cannot be used.
    """
    async with Database(settings).opened() as database:
        yield SQLiteDataProvider(database)


@asynccontextmanager
async def open_job_store(settings: SQLiteSettings) -> AsyncIterator[SQLiteJobStore]:
    """
    Open a job store on a database file, which may hold resources as well.

    Raises:
        SchemaOutdated: The file needs `helios migrate`.
        ConfigurationError: The file cannot be used.
    """
    async with JobDatabase(settings).opened() as database:
        yield await SQLiteJobStore.of(database)


async def migrate(settings: SQLiteSettings) -> str:
    """
    Migrate a database file to the current schema, and return a report of what was done.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    return (await in_thread(connections.migrate, settings)).report(str(settings.path))


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer resources in SQLite."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINE,
        implementation=SQLiteDataProvider,
        settings=SQLiteSettings,
        open=open_data_provider,
        migrate=migrate,
        files=lambda settings: [settings.path],
    )


@hookimpl
def helios_job_store() -> Backend[JobStore]:
    """Offer jobs in SQLite."""
    return Backend(
        api_level=API_LEVEL,
        reach=Reach.MACHINE,
        implementation=SQLiteJobStore,
        settings=SQLiteSettings,
        open=open_job_store,
        migrate=migrate,
        files=lambda settings: [settings.path],
    )
