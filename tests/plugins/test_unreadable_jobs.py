"""J15: rows of job stores that cannot be read, damaged ones or those of a newer version."""

import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import timedelta

import msgspec
import pymongo
import pytest
import structlog

import helios_mongodb
import helios_postgres
import helios_sqlite
from helios_core import JobKey, JobQuery, Secret
from helios_core.testing import corpus
from tests.plugins.postgres.connecting import connected

MINUTE = timedelta(minutes=1)

SPOILT = {
    "no JSON": ("jobs", "accepted", b'{"request'),
    "not UTF-8": ("jobs", "accepted", b'{"id":"\xff"}'),
    "nothing": ("jobs", "accepted", b""),
    "another form": ("jobs", "accepted", b'{"format":2}'),
    "deep nesting": ("jobs", "accepted", b"[" * 100_000),
    "a shard that is no JSON": ("shards", "shard", b"{"),
    "a shard of another form": ("shards", "shard", b'{"ranges":[]}'),
}


class Opened:
    """A job store, and how its rows are spoilt behind its back."""

    def __init__(self, store, spoil):
        self.store = store
        self.spoil = spoil

    async def add(self, job_id, *, shards=1):
        await self.store.add(corpus.job(job_id), corpus.shards(shards), max_active=1000)

    async def claim(self):
        return await self.store.claim("worker", lease_for=MINUTE, max_attempts=2)


@asynccontextmanager
async def on_sqlite(folder):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(folder))

    async def spoil(table, column, value, job_id):
        with closing(sqlite3.connect(settings.path)) as connection, connection:
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE job = (SELECT job FROM jobs WHERE id = ?)",
                (value, job_id),
            )

    async with helios_sqlite.open_job_store(settings) as store:
        yield Opened(store, spoil)


@asynccontextmanager
async def on_postgres(url):
    settings = helios_postgres.PostgresSettings(database_url=Secret(url))
    await helios_postgres.migrate(settings)

    async def spoil(table, column, value, job_id):
        async with connected(settings) as connection:
            await connection.execute(
                f"UPDATE {table} SET {column} = $1 "
                "WHERE job = (SELECT job FROM jobs WHERE id = $2)",
                value,
                job_id,
            )

    async with helios_postgres.open_job_store(settings) as store:
        yield Opened(store, spoil)


@asynccontextmanager
async def on_mongodb(server, name):
    settings = helios_mongodb.MongoSettings(database_url=Secret(server.url), database=name)
    await helios_mongodb.migrate(settings)

    async def spoil(collection, field, value, job_id):
        async with pymongo.AsyncMongoClient(server.url) as client:
            await client[name][collection].update_many({"id": job_id}, {"$set": {field: value}})

    async with helios_mongodb.open_job_store(settings) as store:
        yield Opened(store, spoil)


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
def opening(request, tmp_path):
    if request.param == "sqlite":
        return on_sqlite(tmp_path)
    if request.param == "mongodb":
        names = ("mongodb_server", "mongodb_database")
        return on_mongodb(*map(request.getfixturevalue, names))
    return on_postgres(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def opened(opening):
    async with opening as opened:
        yield opened


@pytest.mark.parametrize("kind", SPOILT)
async def test_a_job_that_cannot_be_read_is_set_aside_and_the_others_go_on(opened, kind):
    await opened.add("spoilt")
    await opened.add("sound", shards=2)
    await opened.spoil(*SPOILT[kind], "spoilt")

    with structlog.testing.capture_logs() as lines:
        leases = [await opened.claim() for _ in range(4)]

    assert [lease and lease.job.id for lease in leases] == ["sound", "sound", None, None]
    assert [line["job_id"] for line in lines if line["event"] == "job.set_aside"] == ["spoilt"]
    assert opened.store.unreadable == [JobKey(tenant=corpus.TENANT, id="spoilt")]


async def test_a_job_that_was_set_aside_is_as_it_was_for_a_version_that_can_read_it(opened):
    await opened.add("job")
    await opened.spoil("shards", "shard", b"{", "job")
    for _ in range(5):
        assert await opened.claim() is None
    readable = corpus.shards(1)[0]
    await opened.spoil("shards", "shard", msgspec.json.encode(readable), "job")

    opened.store._set_aside = type(opened.store._set_aside)()  # another process
    lease = await opened.claim()

    assert (lease.job.id, lease.attempt) == ("job", 1)


@pytest.mark.parametrize("kind", ["no JSON", "another form"])
async def test_finished_jobs_that_cannot_be_read_hide_no_others(opened, kind):
    await opened.add("sound", shards=0)
    for number in range(5):
        await opened.add(f"spoilt-{number}", shards=0)
        await opened.spoil(*SPOILT[kind], f"spoilt-{number}")

    recent = await opened.store.recent(corpus.TENANT, limit=2)

    assert [job.id for job in recent] == ["sound"]


async def test_a_status_of_a_newer_version_is_listed_as_it_is(opened):
    await opened.add("spoilt")
    await opened.spoil("jobs", "status", "paused", "spoilt")

    [listed] = await opened.store.jobs(JobQuery(), limit=9)

    assert (listed.id, listed.status, listed.job) == ("spoilt", "paused", None)
