import pytest

from helios_core import Secret
from helios_postgres import PostgresSettings, open_data_provider, open_job_store
from tests.plugins.postgres.connecting import connected


@pytest.fixture
def empty_settings(postgres_url):
    """Settings for a database in which nothing is yet."""
    return PostgresSettings(database_url=Secret(postgres_url))


@pytest.fixture
def settings(migrated_postgres_url):
    """Settings for a database of this test's own that has every table."""
    return PostgresSettings(database_url=Secret(migrated_postgres_url))


@pytest.fixture
async def raw(settings):
    """A connection to the same tables with nothing of ours in between."""
    async with connected(settings) as connection:
        yield connection


@pytest.fixture
async def provider(settings):
    async with open_data_provider(settings) as provider:
        yield provider


@pytest.fixture
async def store(settings):
    async with open_job_store(settings) as store:
        yield store
