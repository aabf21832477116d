import asyncio
import os
import stat
import sys

import helios_sqlite
from helios_core import API_LEVEL, Put, Shard
from helios_core.testing import corpus
from helios_sqlite import (
    SQLiteDataProvider,
    SQLiteJobStore,
    SQLiteSettings,
    open_data_provider,
)


async def test_both_backends_are_offered_and_open_one_file(settings):
    data, jobs = helios_sqlite.helios_data_provider(), helios_sqlite.helios_job_store()

    async with data.open(settings) as provider, jobs.open(settings) as store:
        assert isinstance(provider, SQLiteDataProvider)
        assert isinstance(store, SQLiteJobStore)

    assert data.implementation is SQLiteDataProvider
    assert jobs.implementation is SQLiteJobStore
    assert {data.api_level, jobs.api_level} == {API_LEVEL}
    assert "already" in await data.migrate(settings)


async def test_a_new_database_and_its_folder_are_for_their_owner_only(tmp_path):
    """The file has resources and the keys that sign access tokens."""
    settings = SQLiteSettings(data_dir=tmp_path / "data")
    before = os.umask(0)
    try:
        async with open_data_provider(settings) as provider:
            await provider.write(
                corpus.TENANT, corpus.VERSION, [Put(resource=corpus.patient("p"))]
            )
            modes = {
                path.name: stat.filemode(path.stat().st_mode)
                for path in [settings.path.parent, *settings.path.parent.iterdir()]
            }
    finally:
        os.umask(before)

    assert modes.pop("data") == "drwx------"
    assert {"helios.db", "helios.db-wal"} <= modes.keys()
    assert {*modes.values()} == {"-rw-------"}


async def test_a_file_that_is_opened_again_stays_locked(settings):
    """Another process that closes it would remove the log under an unlocked one."""
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM extents')"
    async with open_data_provider(settings) as provider:
        puts = [Put(resource=corpus.patient("p"))]
        await provider.write(corpus.TENANT, corpus.VERSION, puts)
        async with open_data_provider(settings):
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", look, str(settings.path)
            )
            assert await other.wait() == 0

            await provider.write(corpus.TENANT, corpus.VERSION, puts)


async def test_a_shard_of_a_type_never_stored_is_empty(provider):
    shown = corpus.view(await provider.transaction_time(), corpus.request(since=corpus.AN_INSTANT))
    shard = Shard(number=0, resource_type="Patient", ordinal=1)

    batches = [batch async for batch in provider.read(shown, shard, batch_bytes=1000)]
    deleted = [ids async for ids in provider.read_deleted(shown, shard, batch_rows=10)]

    assert (batches, deleted) == ([], [])


async def test_a_reader_that_outlives_the_database_is_closed(settings):
    async with open_data_provider(settings) as provider:
        puts = [Put(resource=corpus.patient(f"p{number}")) for number in range(9)]
        await provider.write(corpus.TENANT, corpus.VERSION, puts)
        shown = corpus.view(await provider.transaction_time())
        [shard] = await provider.plan(shown, shard_bytes=1 << 20)
        late = provider.read(shown, shard, batch_bytes=100)
        await anext(late)

    await late.aclose()

    assert provider._database._idle == []
