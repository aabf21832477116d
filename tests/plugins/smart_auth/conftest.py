import pytest

import helios_mongodb
import helios_postgres
import helios_sqlite
from helios_core import Secret
from helios_core.memory import MemoryJobStore
from helios_mongodb import MongoSettings
from helios_postgres import PostgresSettings
from helios_sqlite import SQLiteSettings
from tests.plugins.smart_auth.issuing import Server


@pytest.fixture
def server():
    """A token endpoint that keeps everything in memory."""
    return Server(MemoryJobStore())


@pytest.fixture
def database(request, tmp_path):
    """The name, the settings and the plugin of a database of this test's own."""
    if request.param == "sqlite":
        return helios_sqlite, SQLiteSettings(data_dir=str(tmp_path), synchronous="normal")
    if request.param == "mongodb":
        url = Secret(request.getfixturevalue("mongodb_server").url)
        name = request.getfixturevalue("mongodb_database")
        return helios_mongodb, MongoSettings(database_url=url, database=name)
    url = request.getfixturevalue("postgres_url")
    return helios_postgres, PostgresSettings(database_url=Secret(url))


@pytest.fixture
async def store(database):
    """A job store in a database."""
    plugin, settings = database
    await plugin.migrate(settings)
    async with plugin.open_job_store(settings) as store:
        yield store


def pytest_generate_tests(metafunc):
    """Run what needs a database on each."""
    if "database" in metafunc.fixturenames:
        servers = [
            pytest.param(name, marks=pytest.mark.service) for name in ("postgres", "mongodb")
        ]
        databases = ["sqlite", *servers]
        metafunc.parametrize("database", databases, indirect=True)
