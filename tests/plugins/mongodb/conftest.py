import gc

import pymongo
import pytest

from helios_core import Secret
from helios_mongodb import MongoSettings, migrate, open_data_provider


@pytest.fixture
def empty_settings(mongodb_server, mongodb_database):
    """Settings for a database in which nothing is yet."""
    return MongoSettings(database_url=Secret(mongodb_server.url), database=mongodb_database)


@pytest.fixture
async def settings(empty_settings):
    """Settings for a database of this test's own that has every collection."""
    await migrate(empty_settings)
    return empty_settings


@pytest.fixture
async def raw(settings):
    """The same database with nothing of ours in between."""
    async with pymongo.AsyncMongoClient(settings.database_url.reveal()) as client:
        yield client[settings.database]


@pytest.fixture
async def provider(settings):
    async with open_data_provider(settings) as provider:
        yield provider


@pytest.fixture
def collected():
    """Collect what the driver leaves when it is cut off, or closed while it connects."""
    yield
    gc.collect()
