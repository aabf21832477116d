import sqlite3
from contextlib import closing

import pytest

from helios_core.testing import corpus
from helios_sqlite import SQLiteSettings, open_data_provider, open_job_store


@pytest.fixture
def settings(tmp_path):
    return SQLiteSettings(data_dir=str(tmp_path), synchronous="normal")


@pytest.fixture
async def provider(settings):
    async with open_data_provider(settings) as provider:
        yield provider


@pytest.fixture
async def store(settings):
    async with open_job_store(settings) as store:
        yield store


@pytest.fixture
def raw(settings):
    """Opens the same file with nothing of ours in between."""
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def tenant():
    return corpus.TENANT
