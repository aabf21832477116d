import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from helios_core import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    JobQuery,
    JobStatus,
    LeaseLost,
    Migration,
    Put,
    SchemaOutdated,
)
from helios_core.testing import SEARCHES, compile_searches, corpus, measurements, sift_candidates
from helios_sqlite import migrate, open_data_provider, open_job_store, schema

FROZEN = sorted((Path(__file__).parent / "schemas").glob("*.sql"))
"""Every schema ever released, as it was; a file here is never changed."""


def shape(connection):
    """Everything that makes a schema: tables, columns, indexes, as SQLite understands them."""
    tables = connection.execute(
        "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name"
    ).fetchall()
    columns = {
        name: connection.execute("SELECT * FROM pragma_table_xinfo(?)", (name,)).fetchall()
        for name, _, _ in tables
    }
    indexes = connection.execute(
        "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' ORDER BY name"
    ).fetchall()
    return tables, columns, indexes


def build(path, scripts):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for script in scripts:
            connection.executescript(script.read_text())
        connection.execute("INSERT INTO stores VALUES ('an old store')")
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(scripts)}")


def later_schema(monkeypatch, script="CREATE TABLE later (a INTEGER);\n"):
    steps = schema.migrations()
    later = Migration(number=len(FROZEN) + 1, name="later", script=script)
    longer = replace(steps, steps=(*steps.steps, later))
    monkeypatch.setattr(schema, "migrations", lambda: longer)


def test_every_migration_has_its_frozen_schema():
    assert len(FROZEN) == schema.migrations().newest


@pytest.mark.parametrize("version", range(1, len(FROZEN) + 1))
async def test_every_earlier_schema_becomes_the_fresh_one(tmp_path, settings, raw, version):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        schema.migrate(fresh)
        wanted = shape(fresh)
    build(settings.path, FROZEN[:version])

    await migrate(settings)

    assert shape(raw) == wanted
    async with open_job_store(settings) as store:
        assert store.identity == "an old store"


async def test_what_the_first_schema_held_is_found_by_searches(settings, raw):
    """P5: resources stored before there was an index are in it."""
    async with open_data_provider(settings) as provider, open_job_store(settings) as store:
        puts = [Put(resource=each) for each in measurements()]
        await provider.write(corpus.TENANT, corpus.VERSION, puts[:40])
        await provider.write(corpus.TENANT, corpus.VERSION, puts[20:])
        await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
    to_the_first_schema(raw)

    assert f"from version 1 to {len(FROZEN)}" in await migrate(settings)

    async with open_data_provider(settings) as provider, open_job_store(settings) as store:
        shown = corpus.view(await provider.transaction_time())
        for alternatives in SEARCHES:
            found = await sift_candidates(provider, shown, compile_searches(alternatives))
            assert found.matches == found.expected
            assert len(found.lines) == len(puts)
        lease = await store.claim("worker", lease_for=timedelta(hours=1), max_attempts=1)
        assert lease.shard == corpus.shards(2)[0]


async def test_exports_of_the_second_schema_go_on(settings, raw):
    """J5, J13: what was noted in files that are not read any more is noted again."""
    async with open_job_store(settings) as store:
        planned = corpus.shards(2, phases=(0, 1))
        for name, partial in (("active", False), ("paged", True), ("complete", False)):
            job = corpus.job(name)
            request = replace(job.request, partial_manifests=partial)
            await store.add(replace(job, request=request), planned, max_active=3)
        for lease in [await claim(store) for _ in range(3)]:
            await store.complete(lease, [corpus.part(lease)])
        held = [await claim(store) for _ in range(3)]
        last = next(lease for lease in held if lease.job.id == "complete")
        held.remove(last)
        await store.complete(last, [corpus.part(last)])
    to_the_second_schema(raw)
    add_references(raw)

    await migrate(settings)

    async with open_job_store(settings) as store:
        for lease in held:
            with pytest.raises(LeaseLost):
                await store.complete(lease, [corpus.part(lease)])
        paged = await store.get(corpus.TENANT, "paged")
        assert (paged.status, "upgraded" in paged.failure) == (JobStatus.ERROR, True)
        kept = await store.parts(corpus.TENANT, "complete")
        assert len(kept) == 2
        listed = {job.id: job for job in await store.jobs(JobQuery(), limit=9)}
        assert listed["complete"].bytes == sum(part.size for part in kept)
        assert (listed["complete"].touched_at, listed["complete"].owner) == (None, "")
        assert listed["active"].touched_at is not None
        for part in kept:
            assert await store.part(corpus.TENANT, "complete", part.key.name) == part
        for number in range(2):
            lease = await claim(store)
            assert (lease.job.id, lease.shard, lease.attempt) == ("active", planned[number], 1)
            await store.complete(lease, [corpus.part(lease)], notes=b"noted")
        assert (await store.get(corpus.TENANT, "active")).status is JobStatus.COMPLETE
        parts = await store.parts(corpus.TENANT, "active")
        assert [part.published for part in parts] == [0, 1]


async def claim(store):
    lease = await store.claim("worker", lease_for=timedelta(hours=1), max_attempts=2)
    assert lease is not None
    return lease


def to_the_second_schema(connection):
    """Undo what the migrations from the third on do."""
    connection.execute("DROP TABLE compartment_sums")
    connection.execute("ALTER TABLE extents DROP COLUMN index_sum")
    connection.execute("DROP TABLE index_sums")
    connection.execute("ALTER TABLE jobs DROP COLUMN shards")
    connection.execute("ALTER TABLE shards DROP COLUMN published")
    connection.execute("ALTER TABLE shards DROP COLUMN noted")
    for column in ("postponed", "waiting_since", "waiting_for", "furthest"):
        connection.execute(f"ALTER TABLE shards DROP COLUMN {column}")
    connection.execute("DROP TABLE records")
    connection.execute("DROP TABLE workers")
    connection.execute("ALTER TABLE shards DROP COLUMN bytes")
    connection.execute("ALTER TABLE shards DROP COLUMN touched_at")
    connection.execute("DROP INDEX jobs_listed")
    connection.execute("DROP INDEX jobs_of_tenant")
    connection.execute("ALTER TABLE jobs DROP COLUMN owner")
    for column in ("live_hash", "compartment_hash", "row_sum", "check_sum"):
        connection.execute(f"ALTER TABLE extents DROP COLUMN {column}")
    connection.execute("ALTER TABLE compartments RENAME COLUMN collection TO scope")
    connection.execute("ALTER TABLE versions RENAME COLUMN collection TO scope")
    connection.execute("ALTER TABLE collections RENAME COLUMN collection TO scope")
    connection.execute("ALTER TABLE collections RENAME TO scopes")
    connection.execute("DROP INDEX parts_by_name")
    connection.execute("ALTER TABLE parts DROP COLUMN name")
    connection.execute("ALTER TABLE shards DROP COLUMN wait")
    connection.execute("DROP TABLE notes")
    connection.execute("PRAGMA user_version = 2")


def add_references(connection):
    """Store for each job the part that its first shard would have had."""
    for (job,) in connection.execute("SELECT job FROM jobs").fetchall():
        connection.execute("INSERT INTO parts VALUES (?, 3, 0, 1, x'7b7d')", (job,))


def to_the_first_schema(connection):
    """Undo what the second migration does."""
    to_the_second_schema(connection)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as first:
        first.executescript(FROZEN[0].read_text())
        wanted = shape(first)
    for table in ("search_index", "postings", "spans"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DROP INDEX shards_open")
    connection.execute("ALTER TABLE shards DROP COLUMN phase")
    connection.execute(
        "CREATE INDEX shards_open ON shards (job, number, available_at)"
        " WHERE available_at IS NOT NULL"
    )
    connection.execute("PRAGMA user_version = 1")
    assert shape(connection) == wanted


async def test_an_older_database_is_refused_until_it_is_migrated(settings, monkeypatch):
    async with open_data_provider(settings):
        pass
    later_schema(monkeypatch)

    with pytest.raises(SchemaOutdated, match="helios migrate"):
        async with open_data_provider(settings):
            pass

    assert f"from version {len(FROZEN)} to {len(FROZEN) + 1}" in await migrate(settings)
    assert f"has version {len(FROZEN) + 1} already" in await migrate(settings)
    async with open_data_provider(settings) as provider:
        await provider.transaction_time()


async def test_a_migration_that_fails_changes_nothing(settings, raw, monkeypatch):
    async with open_data_provider(settings):
        pass
    later_schema(monkeypatch, "CREATE TABLE later (a INTEGER);\nCREATE TABLE later (a);\n")

    with pytest.raises(BackendUnavailable):
        await migrate(settings)

    assert schema.version_of(raw) == len(FROZEN)
    assert not raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'later'").fetchall()


async def test_a_newer_database_is_refused(settings, raw):
    async with open_data_provider(settings):
        pass
    raw.execute("PRAGMA user_version = 99")

    with pytest.raises(ConfigurationError, match="version 99"):
        async with open_data_provider(settings):
            pass


async def test_another_programs_database_is_refused(settings, raw):
    raw.execute("CREATE TABLE recipes (name TEXT)")

    with pytest.raises(ConfigurationError, match="another program"):
        async with open_data_provider(settings):
            pass
    with pytest.raises(ConfigurationError, match="another program"):
        await migrate(settings)


async def test_a_file_that_is_no_database_is_refused(settings):
    settings.path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(ConfigurationError, match="cannot be opened"):
        async with open_data_provider(settings):
            pass


async def test_a_folder_that_cannot_be_made_is_refused(settings):
    settings.path.parent.rmdir()
    settings.path.parent.touch()

    with pytest.raises(ConfigurationError, match="HFS_DATABASE_URL"):
        async with open_data_provider(settings):
            pass


async def test_many_may_create_the_database_at_once(settings):
    async def first_look():
        async with open_data_provider(settings), open_job_store(settings) as store:
            return store.identity

    identities = await asyncio.gather(*(first_look() for _ in range(8)))

    assert len(set(identities)) == 1


async def test_an_old_sqlite_library_is_refused():
    with pytest.raises(ConfigurationError, match=r"3\.31\.1"):
        schema.check_library((3, 31, 1))


async def test_resources_and_jobs_share_one_file(settings, raw):
    async with open_data_provider(settings) as provider, open_job_store(settings) as store:
        await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
        await provider.transaction_time()

    assert raw.execute("SELECT count(*) FROM shards").fetchone() == (2,)


async def test_a_database_that_is_closed_is_one_file(settings):
    async with open_data_provider(settings) as provider, open_job_store(settings):
        await provider.get(corpus.type_key("Patient").resource("nobody"))

    assert [entry.name for entry in settings.path.parent.iterdir()] == ["helios.db"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"{}",
        b'{"key":{},"size":"x"}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"size":1.5}',
    ],
)
async def test_damaged_rows_stop_no_migration(settings, raw, content):
    """Whatever a job, a shard or a part holds: the others are brought up to date."""
    async with open_job_store(settings) as store:
        for name in ("spoilt", "sound"):
            await store.add(corpus.job(name), corpus.shards(2), max_active=3)
        for lease in [await claim(store) for _ in range(4)]:
            parts = [corpus.part(lease), corpus.part(lease, number=2)]
            await store.complete(lease, parts)
        await store.add(corpus.job("active"), corpus.shards(1), max_active=3)
    to_the_second_schema(raw)
    spoilt = "job = (SELECT job FROM jobs WHERE id = 'spoilt')"
    raw.execute(f"UPDATE parts SET part = ? WHERE {spoilt}", (content,))
    raw.execute("UPDATE jobs SET accepted = ? WHERE id = 'spoilt'", (content,))
    raw.execute(f"UPDATE shards SET shard = ? WHERE {spoilt}", (content,))

    await migrate(settings)

    async with open_job_store(settings) as store:
        parts = await store.parts(corpus.TENANT, "sound")
        for part in parts:
            assert await store.part(corpus.TENANT, "sound", part.key.name) == part
        assert (await claim(store)).job.id == "active"
        with pytest.raises(BackendError):
            await store.parts(corpus.TENANT, "spoilt")
        listed = {job.id: job for job in await store.jobs(JobQuery(), limit=9)}
    assert len(parts) == 4
    assert listed["sound"].bytes == sum(part.size for part in parts)
    assert listed["spoilt"].job is None
