import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from helios_core import Delete, Put
from helios_core.fhir import Resource
from helios_core.testing import corpus
from helios_sqlite import SQLiteSettings, open_data_provider, open_job_store


@pytest.fixture
def settings(tmp_path):
    """Patient ones: another process may write for as long as a slow machine takes."""
    return SQLiteSettings(data_dir=str(tmp_path), synchronous="normal", busy_timeout=3600)


@pytest.fixture
def impatient(settings):
    """Settings of who waits 0.3 seconds for another process."""
    return replace(settings, busy_timeout=0.3)


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
    """The same file with nothing of ours in between."""
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def write(provider):
    """Writes to the corpus' tenant; a bare resource stands for a Put of it."""

    async def write(*changes):
        puts = [Put(resource=each) if isinstance(each, Resource) else each for each in changes]
        return await provider.write(corpus.TENANT, corpus.VERSION, puts)

    return write


@pytest.fixture
def delete():
    def delete(resource):
        return Delete(resource_type=resource.resource_type, id=resource.id)

    return delete


@pytest.fixture
def lines(provider):
    """Reads all shards of a view, and tells lines and damaged ids."""

    async def lines(view, *, shard_bytes=1 << 30, batch_bytes=1 << 20):
        found, damaged = [], []
        for shard in await provider.plan(view, shard_bytes=shard_bytes):
            async for batch in provider.read(view, shard, batch_bytes=batch_bytes):
                found += batch.lines
                damaged += batch.damaged
        return found, damaged

    return lines
