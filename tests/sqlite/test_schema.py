import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from helios_core.errors import ConfigurationError, SchemaOutdated
from helios_core.testing import corpus
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


def later_schema(monkeypatch):
    scripts = [*schema.migrations(), "CREATE TABLE later (a INTEGER);\n"]
    monkeypatch.setattr(schema, "migrations", lambda: scripts)


def test_every_migration_has_its_frozen_schema():
    assert len(FROZEN) == len(schema.migrations())


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


async def test_an_older_database_is_refused_until_it_is_migrated(settings, monkeypatch):
    async with open_data_provider(settings):
        pass
    later_schema(monkeypatch)

    with pytest.raises(SchemaOutdated, match="helios migrate"):
        async with open_data_provider(settings):
            pass

    assert "from schema 2 to 3" in await migrate(settings)
    assert "has schema 3 already" in await migrate(settings)
    async with open_data_provider(settings) as provider:
        await provider.transaction_time()


async def test_a_migration_that_fails_changes_nothing(settings, raw, monkeypatch):
    async with open_data_provider(settings):
        pass
    scripts = [*schema.migrations(), "CREATE TABLE later (a INTEGER);\nCREATE TABLE later (a);\n"]
    monkeypatch.setattr(schema, "migrations", lambda: scripts)

    with pytest.raises(sqlite3.OperationalError):
        await migrate(settings)

    assert schema.version_of(raw) == 2
    assert not raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'later'").fetchall()


async def test_a_newer_database_is_refused(settings, raw):
    async with open_data_provider(settings):
        pass
    raw.execute("PRAGMA user_version = 99")

    with pytest.raises(ConfigurationError, match="schema 99"):
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
        await provider.get(corpus.TENANT, corpus.VERSION, "Patient", "nobody")

    assert [entry.name for entry in settings.path.parent.iterdir()] == ["helios.db"]
