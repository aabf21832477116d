"""Resources and job state in PostgreSQL, shared by any number of processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios_core import API_LEVEL, Backend, DataProvider, JobStore, Reach, hookimpl
from helios_postgres import schema
from helios_postgres.connections import connected, lock_key
from helios_postgres.databases import Database
from helios_postgres.jobs import PostgresJobStore
from helios_postgres.listening import listener
from helios_postgres.provider import PostgresDataProvider
from helios_postgres.replicas import export_reads
from helios_postgres.settings import PostgresSettings

__all__ = [
    "PostgresDataProvider",
    "PostgresJobStore",
    "PostgresSettings",
    "migrate",
    "open_data_provider",
    "open_job_store",
]


@asynccontextmanager
async def open_data_provider(settings: PostgresSettings) -> AsyncIterator[PostgresDataProvider]:
    """
    Open a data provider on a database.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with Database(settings).opened() as database, export_reads(database) as reads:
        yield PostgresDataProvider(database, reads)


@asynccontextmanager
async def open_job_store(settings: PostgresSettings) -> AsyncIterator[PostgresJobStore]:
    """
    Open a job store on a database.

    Raises:
        SchemaOutdated: The database needs `helios migrate`.
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    async with Database(settings, size=settings.job_pool_size, limited=True).opened() as database:
        store = await PostgresJobStore.of(database)
        async with listener(settings, store.channel, store.wake):
            yield store


async def migrate(settings: PostgresSettings) -> str:
    """
    Migrate a database to the current schema, and return a report of what was done.

    Raises:
        ConfigurationError: The database cannot be used.
        BackendUnavailable: It cannot be reached.
    """
    name = settings.schema
    async with connected(settings) as connection:
        done = await schema.migrate(connection, name, lock_key=lock_key(name, "migrate"))
    return done.report(f"schema {name}")


@hookimpl
def helios_data_provider() -> Backend[DataProvider]:
    """Offer resources in PostgreSQL."""
    return Backend(
        api_level=API_LEVEL,
        implementation=PostgresDataProvider,
        settings=PostgresSettings,
        open=open_data_provider,
        reach=Reach.MACHINES,
        migrate=migrate,
    )


@hookimpl
def helios_job_store() -> Backend[JobStore]:
    """Offer jobs in PostgreSQL."""
    return Backend(
        api_level=API_LEVEL,
        implementation=PostgresJobStore,
        settings=PostgresSettings,
        open=open_job_store,
        reach=Reach.MACHINES,
        migrate=migrate,
    )
