"""J15: rows of job stores that cannot be read, damaged ones or those of a newer version."""

import random
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from itertools import chain

import msgspec
import pymongo
import pytest
import structlog
from bson.int64 import Int64

import helios_mongodb
import helios_postgres
import helios_sqlite
from helios_core import JobKey, JobQuery, Secret
from helios_core.testing import corpus
from tests.damage import PAGE_BYTES
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


DAMAGED = {
    "a token that cannot grow": ("shards", "token", 2**63 - 1),
    "counts that have no sum": ("shards", "resources", 2**63 - 1),
    "an instant before all": ("jobs", "created_at", {"sqlite": -(2**62), "postgres": "-infinity"}),
    "an instant after all": ("jobs", "created_at", {"sqlite": 2**62, "postgres": "infinity"}),
    "an instant too late": ("jobs", "created_at", {"sqlite": 2**60, "postgres": "290000-01-01"}),
    "an instant too early": (
        *("shards", "touched_at"),
        {"sqlite": -(2**60), "postgres": "4000-01-01 BC"},
    ),
    "a wait without end": (
        *("shards", "wait"),
        {"sqlite": 2**63 - 1, "postgres": "178000000 years"},
    ),
    "more attempts than there are": (
        "shards",
        "attempts",
        {"sqlite": 2**63 - 1, "postgres": 2**31 - 1},
    ),
    "a shard that is no JSON": ("shards", "shard", b"{"),
    "a job that is no JSON": ("jobs", "accepted", b"{"),
}


class Opened:
    """A job store, and how its rows are spoilt behind its back."""

    def __init__(self, store, settings, spoil):
        self.store = store
        self.settings = settings
        self.spoil = spoil

    async def add(self, job_id, *, shards=1):
        await self.store.add(corpus.job(job_id), corpus.shards(shards), max_active=1000)

    async def claim(self):
        return await self.store.claim("worker", lease_for=MINUTE, max_attempts=2)


@asynccontextmanager
async def on_sqlite(folder):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(folder))

    async def spoil(table, column, value, job_id):
        value = value["sqlite"] if isinstance(value, dict) else value
        with closing(sqlite3.connect(settings.path)) as connection, connection:
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE job = (SELECT job FROM jobs WHERE id = ?)",
                (value, job_id),
            )

    async with helios_sqlite.open_job_store(settings) as store:
        yield Opened(store, settings, spoil)


@asynccontextmanager
async def on_postgres(url):
    settings = helios_postgres.PostgresSettings(database_url=Secret(url))

    async def spoil(table, column, value, job_id):
        value = value["postgres"] if isinstance(value, dict) else value
        literal = f"'\\x{value.hex()}'" if isinstance(value, bytes) else f"'{value}'"
        async with connected(settings) as connection:
            await connection.execute(
                f"UPDATE {table} SET {column} = {literal} "
                "WHERE job = (SELECT job FROM jobs WHERE id = $1)",
                job_id,
            )

    async with helios_postgres.open_job_store(settings) as store:
        yield Opened(store, settings, spoil)


@asynccontextmanager
async def on_mongodb(server, name):
    settings = helios_mongodb.MongoSettings(database_url=Secret(server.url), database=name)
    await helios_mongodb.migrate(settings)

    async def spoil(collection, field, value, job_id):
        value = value["sqlite"] if isinstance(value, dict) else value
        if isinstance(value, int):
            instant = datetime(1 if value < 0 else 9999, 1, 1, tzinfo=UTC)
            value = instant if field.endswith("_at") else Int64(value)
        field = field.removesuffix("_at")
        async with pymongo.AsyncMongoClient(server.url) as client:
            await client[name][collection].update_many({"id": job_id}, {"$set": {field: value}})

    async with helios_mongodb.open_job_store(settings) as store:
        yield Opened(store, settings, spoil)


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
def opening(request, tmp_path):
    if request.param == "sqlite":
        return on_sqlite(tmp_path)
    if request.param == "mongodb":
        names = ("mongodb_server", "mongodb_database")
        return on_mongodb(*map(request.getfixturevalue, names))
    return on_postgres(request.getfixturevalue("migrated_postgres_url"))


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


@pytest.mark.parametrize("kind", DAMAGED)
async def test_damage_to_a_row_keeps_no_other_job_from_anything(opened, kind):
    await opened.add("spoilt", shards=2)
    await opened.add("sound", shards=3)
    await opened.spoil(*DAMAGED[kind], "spoilt")
    store = opened.store

    listed = await store.jobs(JobQuery(), limit=9)
    leases = [await opened.claim() for _ in range(6)]
    await store.beat("worker", lasts=MINUTE)
    await store.workforce()
    await store.end_untouched(timedelta(days=99), reason="why", limit=9)
    await store.removable(completed_before=MINUTE, limit=9)
    await opened.add("later", shards=0)

    assert [lease.job.id for lease in leases if lease].count("sound") == 3
    assert leases[-1] is None
    assert sorted(job.id for job in listed) == ["sound", "spoilt"]
    assert [job.job is not None for job in listed if job.id == "sound"] == [True]
    assert all(job.created_at.tzinfo for job in listed)
    assert {"later", "sound", "spoilt"} == {
        job.id for job in await store.jobs(JobQuery(tenant=corpus.TENANT), limit=9)
    }


async def test_a_job_with_an_unreadable_shard_is_listed_as_unreadable(opened):
    await opened.add("job", shards=3)
    lease = await opened.claim()
    await opened.store.complete(lease, [])
    [readable] = await opened.store.jobs(JobQuery(), limit=9)
    await opened.spoil("shards", "shard", b"{", "job")

    [listed] = await opened.store.jobs(JobQuery(), limit=9)

    assert (readable.job.id, listed.job) == ("job", None)
    assert opened.store.unreadable == [JobKey(tenant=corpus.TENANT, id="job")]


async def test_a_damaged_job_is_listed_under_the_same_restrictions(opened):
    for number in range(4):
        await opened.add(f"job-{number}", shards=2)
    await opened.spoil("shards", "resources", 2**63 - 1, "job-1")

    pages, after = [], None
    while page := await opened.store.jobs(JobQuery(id_prefix="job"), limit=3, after=after):
        pages.append([job.id for job in page])
        after = page[-1].place

    assert sorted(chain.from_iterable(pages)) == [f"job-{number}" for number in range(4)]
    assert await opened.store.jobs(JobQuery(tenant="another"), limit=9) == []
    assert await opened.store.jobs(JobQuery(id_prefix="b"), limit=9) == []


async def test_a_value_of_which_postgres_has_lost_a_piece_sets_its_job_aside(
    migrated_postgres_url,
):
    """What is too long for a page is cut into pieces, which are rows of another table."""
    async with (
        on_postgres(migrated_postgres_url) as opened,
        connected(opened.settings) as connection,
    ):
        await opened.add("spoilt", shards=2)
        await opened.add("sound", shards=2)
        for column, table in (("accepted", "jobs"), ("shard", "shards")):
            await connection.execute(f"ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL")
        noise = random.Random(0).randbytes(20_000)
        await opened.spoil("jobs", "accepted", noise, "spoilt")
        pieces = await connection.fetchval(
            "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'jobs'::regclass"
        )
        for statement in (
            "SET allow_system_table_mods = on",
            f"UPDATE pg_class SET relkind = 'r' WHERE oid = '{pieces}'::regclass",
            f"DELETE FROM {pieces} WHERE chunk_seq = 1",
            f"UPDATE pg_class SET relkind = 't' WHERE oid = '{pieces}'::regclass",
        ):
            await connection.execute(statement)

        leases = [await opened.claim() for _ in range(4)]
        listed = await opened.store.jobs(JobQuery(), limit=9)

    assert [lease and lease.job.id for lease in leases] == ["sound", "sound", None, None]
    assert opened.store.unreadable == [JobKey(tenant=corpus.TENANT, id="spoilt")]
    assert {job.id: job.job is not None for job in listed} == {"spoilt": False, "sound": True}


@pytest.mark.parametrize("table", ["jobs", "shards"])
async def test_a_damaged_page_of_sqlite_keeps_no_job_on_other_pages_from_going_on(tmp_path, table):
    settings = helios_sqlite.SQLiteSettings(data_dir=str(tmp_path))
    async with on_sqlite(tmp_path) as opened:
        for number in range(60):
            await opened.add(f"job-{number}", shards=4)
    with closing(sqlite3.connect(settings.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        leaves = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path",
            (table,),
        ).fetchall()
    content = bytearray(settings.path.read_bytes())
    end = leaves[len(leaves) // 4][0] * PAGE_BYTES
    content[end - PAGE_BYTES : end] = bytes(PAGE_BYTES)
    settings.path.write_bytes(content)

    async with on_sqlite(tmp_path) as opened:
        leases = []
        while (lease := await opened.claim()) is not None:
            leases.append(lease)
        listed = await opened.store.jobs(JobQuery(), limit=99)
        aside = {key.id for key in opened.store.unreadable}
        await opened.store.workforce()
        await opened.store.end_untouched(timedelta(days=9), reason="why", limit=9)
        await opened.add("new")
        newest = await opened.claim()

    assert len(leaves) > 4
    assert 0 < len(aside) < 40
    counted = Counter(lease.job.id for lease in leases)
    assert {job for job in counted if counted[job] == 4} >= {
        f"job-{number}" for number in range(60)
    } - aside
    assert len(listed) == 60
    assert {job.id for job in listed if job.job is None} <= aside
    assert newest.job.id == "new"
