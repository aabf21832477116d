import asyncio
import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
from msgspec import structs

from helios_core import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    JobQuery,
    Migration,
    SchemaOutdated,
    Secret,
)
from helios_core.testing import corpus
from helios_postgres import (
    PostgresSettings,
    migrate,
    open_data_provider,
    open_job_store,
    schema,
)
from helios_postgres.connections import lock_key
from tests.pace import scaled, wait_for_end
from tests.processes import Process

SCHEMAS = Path(__file__).parent / "schemas"
FROZEN = sorted(SCHEMAS.glob("????.sql"))
"""
Every migration, with rows of its time beside it.

None is changed after its release, except in what it does with damaged rows.
"""
ROWS = sorted(SCHEMAS.glob("*_rows.sql"))
NEWEST = len(FROZEN)
DAY = timedelta(days=1)

SHAPE = """
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ', a.attnum,
  format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attcollation,
  pg_get_expr(d.adbin, d.adrelid), c.relpersistence, c.reloptions::text)
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef AS d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'S') AND a.attnum > 0
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = $1::text
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = $1::text::regnamespace
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc
WHERE pronamespace = $1::text::regnamespace
ORDER BY 1, 2, 3
"""


async def shape(connection, name):
    """Everything that makes a schema, without its name."""
    rows = await connection.fetch(SHAPE, name)
    return [tuple(text.replace(f"{name}.", "") for text in row) for row in rows]


@pytest.fixture
async def plain(empty_settings):
    """A connection to the database in which nothing is yet."""
    connection = await asyncpg.connect(
        empty_settings.database_url.reveal(), server_settings={"search_path": "helios"}
    )
    try:
        yield connection
    finally:
        await connection.close()


async def build(connection, version):
    """Make the schema of an earlier release, with rows in it."""
    await connection.execute(
        "CREATE SCHEMA helios; CREATE TABLE schema_version (number integer PRIMARY KEY,"
        " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for number, script in enumerate(FROZEN[:version], 1):
        await connection.execute(script.read_text())
        rows = script.with_name(f"{script.stem}_rows.sql")
        if rows in ROWS:
            await connection.execute(rows.read_text())
        await connection.execute("INSERT INTO schema_version VALUES ($1, 'x')", number)


def later_schema(monkeypatch, script="CREATE TABLE later (a int)"):
    steps = schema.migrations()
    later = Migration(number=NEWEST + 1, name="later", script=script)
    longer = structs.replace(steps, steps=(*steps.steps, later))
    monkeypatch.setattr(schema, "migrations", lambda: longer)


def test_migrations_are_numbered_on_and_none_is_changed():
    steps = schema.migrations().steps

    assert [step.number for step in steps] == list(range(1, NEWEST + 1))
    assert [step.script for step in steps] == [path.read_text() for path in FROZEN]


@pytest.mark.parametrize("version", range(1, NEWEST))
async def test_every_earlier_schema_becomes_the_fresh_one(empty_settings, plain, version):
    await migrate(structs.replace(empty_settings, schema="fresh"))
    await build(plain, version)

    said = await migrate(empty_settings)

    assert f"from version {version} to {NEWEST}" in said
    assert await shape(plain, "helios") == await shape(plain, "fresh")
    async with open_data_provider(empty_settings) as provider:
        shown = corpus.view(await provider.transaction_time())
        read = [
            line
            for shard in await provider.plan(shown, shard_bytes=1 << 20)
            async for batch in provider.read(shown, shard, batch_bytes=1 << 20)
            for line in batch.lines
        ]
    assert len(read) == 2


async def test_parts_that_were_not_numbered_are(empty_settings, plain):
    """J12: in the order in which they are listed; what is published next goes on from there."""
    await build(plain, 3)
    # The rows above come from a test that published more than its shards said.
    await plain.execute(
        "UPDATE shards AS s SET resources_done = p.exported FROM ("
        "SELECT job, shard, sum((convert_from(part, 'UTF8')::json ->> 'count')::bigint)"
        " AS exported"
        " FROM parts WHERE kind = 0 GROUP BY job, shard"
        ") AS p WHERE s.job = p.job AND s.number = p.shard"
    )
    identity = await plain.fetchval("SELECT identity FROM stores")

    await migrate(empty_settings)

    async with open_job_store(empty_settings) as store:
        assert store.identity == identity
        finished = await store.parts(corpus.TENANT, "finished")
        assert [part.published for part in finished] == [0, 1, 2, 3, 4, 5]
        running = await store.parts(corpus.TENANT, "running")
        assert [part.published for part in running] == [0, 1]
        for part in finished:  # by the names that they got when names were kept
            assert await store.part(corpus.TENANT, "finished", part.key.name) == part
        lease = await store.claim("worker", lease_for=DAY, max_attempts=3)
        assert lease.job.tenant == corpus.OTHER_TENANT
        lease = await store.claim("worker", lease_for=DAY, max_attempts=3)
        assert (lease.job.id, lease.shard.number) == ("running", 2)
        await store.complete(lease, [corpus.part(lease, number=n) for n in (1, 2)])
        running = await store.parts(corpus.TENANT, "running")
        assert [part.published for part in running] == [0, 1, 2, 3]


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
async def test_damaged_rows_stop_no_migration(empty_settings, plain, content):
    """Whatever a job, a shard or a part holds: the others are brought up to date."""
    await build(plain, 3)
    spoilt = "job = (SELECT job FROM jobs WHERE id = 'running')"
    await plain.execute(f"UPDATE parts SET part = $1 WHERE {spoilt}", content)
    await plain.execute(
        f"UPDATE shards SET shard = $1, available_at = 'infinity' WHERE {spoilt}", content
    )
    await plain.execute("UPDATE jobs SET accepted = $1 WHERE id = 'running'", content)

    await migrate(empty_settings)

    rows = await plain.fetch("SELECT name FROM parts ORDER BY name")
    assert len({row["name"] for row in rows}) == len(rows)
    async with open_job_store(empty_settings) as store:
        listed = {job.id: job for job in await store.jobs(JobQuery(), limit=9)}
        with pytest.raises(BackendError):
            await store.parts(corpus.TENANT, "running")
    assert listed["finished"].bytes > 0
    assert listed["running"].job is None


async def test_a_part_is_in_one_place_only(settings, raw):
    async with open_job_store(settings) as store:
        await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
        lease = await store.claim("worker", lease_for=DAY, max_attempts=3)
        await store.complete(lease, [corpus.part(lease)])

    with pytest.raises(asyncpg.UniqueViolationError):
        await raw.execute("INSERT INTO parts SELECT job, 1, 9, 9, part, position, 'x' FROM parts")


async def test_a_database_without_our_schema_is_refused_until_it_is_migrated(empty_settings):
    with pytest.raises(SchemaOutdated, match="run: helios migrate"):
        async with open_job_store(empty_settings):
            pass

    assert f"from version 0 to {NEWEST}" in await migrate(empty_settings)
    assert f"has version {NEWEST} already" in await migrate(empty_settings)


async def test_an_older_schema_is_refused_until_it_is_migrated(settings, monkeypatch):
    later_schema(monkeypatch)

    with pytest.raises(SchemaOutdated, match="run: helios migrate"):
        async with open_job_store(settings):
            pass
    await migrate(settings)

    async with open_job_store(settings):
        pass


async def test_a_newer_schema_is_refused(settings, raw):
    await raw.execute("INSERT INTO schema_version VALUES (99, 'future')")

    with pytest.raises(ConfigurationError, match="version 99"):
        async with open_job_store(settings):
            pass


async def test_a_migration_that_fails_changes_nothing(settings, raw, monkeypatch):
    later_schema(monkeypatch, "CREATE TABLE later (a int); CREATE TABLE later (a int)")

    with pytest.raises(BackendUnavailable):
        await migrate(settings)

    assert await schema.version_of(raw) == NEWEST
    assert await raw.fetchval("SELECT to_regclass('later') IS NULL")


async def test_another_programs_schema_is_refused(empty_settings, plain):
    await plain.execute("CREATE SCHEMA helios; CREATE TABLE recipes (a int)")

    for attempt in (migrate(empty_settings), open_job_store(empty_settings).__aenter__()):
        with pytest.raises(ConfigurationError, match="another program"):
            await attempt


async def test_a_schema_made_by_an_administrator_is_used(plain):
    """Whoever owns the schema needs no right to make one."""
    name = f"role_{os.urandom(6).hex()}"
    await plain.execute(f"CREATE ROLE {name}; CREATE SCHEMA helios AUTHORIZATION {name}")
    try:
        await plain.execute(f"SET ROLE {name}")

        done = await schema.migrate(plain, "helios", lock_key=1)

        assert done.after == NEWEST
        await schema.check(plain, "helios")
    finally:
        await plain.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_role_without_rights_is_told_what_it_lacks(empty_settings, plain):
    name = f"role_{os.urandom(6).hex()}"
    await plain.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'canary'")
    database = await plain.fetchval("SELECT current_database()")
    await plain.execute(f"REVOKE CONNECT ON DATABASE {database} FROM public")
    url = empty_settings.database_url.reveal().replace("postgres:", f"{name}:canary", 1)
    try:
        with pytest.raises(ConfigurationError, match="lacks a right") as caught:
            await migrate(PostgresSettings(database_url=Secret(url)))
    finally:
        await plain.execute(f"DROP ROLE {name}")

    assert "canary" not in str(caught.value)


async def test_servers_on_different_schemas_share_a_database_and_nothing_else(settings):
    other = PostgresSettings(database_url=settings.database_url, schema="other")
    await migrate(other)

    async with open_job_store(settings) as one, open_job_store(other) as two:
        await one.add(corpus.job("job"), corpus.shards(1), max_active=1)

        assert await two.claim("worker", lease_for=DAY, max_attempts=3) is None
        assert one.identity != two.identity
        assert one.channel != two.channel


def variables(settings):
    return {
        "HFS_STORAGE_BACKEND": "postgres",
        "HFS_DATABASE_URL": settings.database_url.reveal(),
    }


async def test_of_two_migrations_at_once_one_works_and_the_other_waits(
    empty_settings, plain, tmp_path
):
    await plain.execute("SELECT pg_advisory_lock($1)", lock_key("helios", "migrate"))
    started = [
        Process("migrate", settings=variables(empty_settings), log=tmp_path / f"{n}.log")
        for n in range(2)
    ]
    try:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(scaled(30)):
            while await plain.fetchval(waiting) < 2:
                assert all(each.process.poll() is None for each in started), "nobody waited"
                await asyncio.sleep(0.05)
        await plain.execute("SELECT pg_advisory_unlock_all()")
        ended = [await asyncio.to_thread(wait_for_end, each.process) for each in started]
    finally:
        for each in started:
            each.kill()

    assert ended == [0, 0]
    said = [each.output() for each in started]
    first, second = sorted(said, key=lambda text: "already" in text)
    assert f"schema helios went from version 0 to {NEWEST}" in first
    assert f"schema helios has version {NEWEST} already" in second


async def test_a_server_that_is_too_old_is_refused():
    old = SimpleNamespace(get_server_version=lambda: SimpleNamespace(major=12))

    with pytest.raises(ConfigurationError, match="PostgreSQL 12"):
        await schema.check(old, "helios")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: url.replace("/helios_", "/no_helios_"), "no such database"),
        (lambda url: url.replace("postgres:", "nobody:", 1), "user or the password"),
        (lambda _: "postgresql://127.0.0.1:no/port", "is not a valid address"),
        (lambda _: "postgresql://127.0.0.1/?sslmode=perhaps", "is not a valid address"),
    ],
)
async def test_an_address_that_cannot_be_used_is_refused(empty_settings, change, text):
    url = change(empty_settings.database_url.reveal())
    settings = PostgresSettings(database_url=Secret(url))

    for attempt in (migrate(settings), open_job_store(settings).__aenter__()):
        with pytest.raises(ConfigurationError, match=text) as caught:
            await attempt
        assert url not in str(caught.value)


async def test_a_server_that_is_not_there_is_told_as_unavailable():
    settings = PostgresSettings(database_url=Secret("postgresql://nobody:secret@127.0.0.1:1/x"))

    with pytest.raises(BackendUnavailable, match="cannot be reached") as caught:
        await migrate(settings)

    assert "secret" not in str(caught.value)
