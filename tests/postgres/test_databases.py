import asyncio

import asyncpg
import pytest

from helios_core.errors import BackendUnavailable
from helios_postgres.databases import Database


@pytest.fixture
async def database(settings):
    async with Database(settings).opened() as database:
        yield database


async def test_a_transaction_that_raises_leaves_nothing(database, raw):
    await raw.execute("CREATE TABLE notes (a int)")

    async def fail(connection):
        await connection.execute("INSERT INTO notes VALUES (1)")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)

    assert await raw.fetchval("SELECT count(*) FROM notes") == 0


async def test_a_transaction_is_begun_anew_after_a_deadlock(database, raw):
    await raw.execute("CREATE TABLE notes (a int PRIMARY KEY, n int)")
    await raw.execute("INSERT INTO notes VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)

    async def add(connection, first, second, seen):
        await connection.execute("UPDATE notes SET n = n + 1 WHERE a = $1", first)
        if not seen:
            seen.append(True)
            await both.wait()
        await connection.execute("UPDATE notes SET n = n + 1 WHERE a = $1", second)

    await asyncio.gather(database.write(add, 1, 2, []), database.write(add, 2, 1, []))

    assert await raw.fetch("SELECT n FROM notes") == [(2,), (2,)]


async def test_reading_sees_one_state_from_beginning_to_end(database, raw):
    await raw.execute("CREATE TABLE notes (a int)")

    async def count_twice(connection):
        before = await connection.fetchval("SELECT count(*) FROM notes")
        await raw.execute("INSERT INTO notes VALUES (1)")
        return before, await connection.fetchval("SELECT count(*) FROM notes")

    assert await database.read(count_twice) == (0, 0)


async def test_a_connection_that_is_cut_is_told_and_replaced(database, raw):
    async with database.connection() as connection:
        pid = connection.get_server_pid()

    async def cut_and_ask(connection):
        assert connection.get_server_pid() == pid
        await raw.execute("SELECT pg_terminate_backend($1)", pid)
        return await connection.fetchval("SELECT 1")

    with pytest.raises(BackendUnavailable):
        await database.read(cut_and_ask)

    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_session_has_schema_time_out_and_name_again_after_it_was_lent(database, settings):
    for _ in range(2):
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT current_schema") == settings.schema
            assert await connection.fetchval("SHOW statement_timeout") == "30s"
            assert await connection.fetchval("SHOW application_name") == "helios"


async def test_an_unlimited_transaction_has_no_time_out_and_the_next_one_has(database):
    async with database.transaction(unlimited=True) as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "0"
    async with database.transaction() as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "30s"


async def test_a_defect_of_ours_is_not_hidden(database):
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.connection() as connection:
            await connection.execute("SELECT * FROM nothing")


async def test_an_error_does_not_quote_values(database, raw):
    await raw.execute("CREATE TABLE notes (a int)")

    async def wait(connection):
        await connection.execute("SET LOCAL statement_timeout = 1")
        await connection.execute("SELECT pg_sleep(9), 'canary'")

    with pytest.raises(BackendUnavailable) as caught:
        await database.write(wait)

    assert "57014" in str(caught.value)
    assert "canary" not in str(caught.value)
