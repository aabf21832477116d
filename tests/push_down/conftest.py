import os
from contextlib import asynccontextmanager

import pytest

import helios_mongodb
import helios_postgres
import helios_sqlite
from helios_core.storage.secrets import Secret


@asynccontextmanager
async def _sqlite(folder):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(folder), synchronous="normal")
    async with helios_sqlite.open_data_provider(settings) as provider:
        yield provider


@asynccontextmanager
async def _postgres(url):
    settings = helios_postgres.PostgresSettings(database_url=Secret(url))
    async with helios_postgres.open_data_provider(settings) as provider:
        yield provider


@asynccontextmanager
async def _mongodb(url, name):
    settings = helios_mongodb.MongoSettings(database_url=Secret(url), database=name)
    await helios_mongodb.migrate(settings)
    async with helios_mongodb.open_data_provider(settings) as provider:
        yield provider


@pytest.fixture
async def sqlite_provider(tmp_path):
    async with _sqlite(tmp_path / "sqlite") as provider:
        yield provider


@pytest.fixture
async def postgres_provider(migrated_postgres_url):
    async with _postgres(migrated_postgres_url) as provider:
        yield provider


@pytest.fixture
async def mongodb_provider(mongodb_server, mongodb_database):
    async with _mongodb(mongodb_server.url, mongodb_database) as provider:
        yield provider


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
def opening(request, tmp_path):
    """A context manager that opens a data provider with an index, one after the other."""
    if request.param == "sqlite":
        return _sqlite(tmp_path / "sqlite")
    if request.param == "mongodb":
        server = request.getfixturevalue("mongodb_server")
        return _mongodb(server.url, request.getfixturevalue("mongodb_database"))
    return _postgres(request.getfixturevalue("migrated_postgres_url"))


QUICK = ["sqlite", "postgres", *(["mongodb"] if "HFS_TEST_MONGODB_URL" in os.environ else [])]
"""Backends that do thousands of searches in a minute, which the stand-in for MongoDB does not."""


@pytest.fixture
async def provider(opening):
    async with opening as provider:
        yield provider
