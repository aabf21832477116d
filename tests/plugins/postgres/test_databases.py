import asyncio
from datetime import timedelta

import asyncpg
import pytest
from msgspec import structs

from helios_core import BackendUnavailable
from helios_postgres.databases import ATTEMPTS, Database
from tests.pace import scaled


@pytest.fixture
async def database(settings):
    async with Database(settings).opened() as database:
        yield database


async def test_a_transaction_that_raises_leaves_nothing(database, raw):
    await raw.execute("CREATE TABLE scratch (a int)")

    async def fail(connection):
        await connection.execute("INSERT INTO scratch VALUES (1)")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)

    assert await raw.fetchval("SELECT count(*) FROM scratch") == 0


async def test_a_transaction_is_begun_anew_after_a_deadlock(database, raw):
    await raw.execute("CREATE TABLE scratch (a int PRIMARY KEY, n int)")
    await raw.execute("INSERT INTO scratch VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)

    async def add(connection, first, second, seen):
        await connection.execute("UPDATE scratch SET n = n + 1 WHERE a = $1", first)
        if not seen:
            seen.append(True)
            await both.wait()
        await connection.execute("UPDATE scratch SET n = n + 1 WHERE a = $1", second)

    await asyncio.gather(database.write(add, 1, 2, []), database.write(add, 2, 1, []))

    assert await raw.fetch("SELECT n FROM scratch") == [(2,), (2,)]


async def test_reading_sees_one_state_from_beginning_to_end(database, raw):
    await raw.execute("CREATE TABLE scratch (a int)")

    async def count_twice(connection):
        before = await connection.fetchval("SELECT count(*) FROM scratch")
        await raw.execute("INSERT INTO scratch VALUES (1)")
        return before, await connection.fetchval("SELECT count(*) FROM scratch")

    assert await database.read(count_twice) == (0, 0)


async def test_a_connection_whose_driver_is_in_disorder_is_not_lent_again(settings):
    pids = []

    async def break_down(connection):
        pids.append(connection.get_server_pid())
        raise asyncpg.InternalClientError("another operation is in progress")

    async with Database(settings, size=1).opened() as database:
        with pytest.raises(BackendUnavailable):
            await database.write(break_down)
        async with database.connection() as connection:
            pids.append(connection.get_server_pid())

    assert pids[0] != pids[1]


BUSY = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active'"


async def test_a_connection_that_cannot_be_taken_back_is_replaced_without_a_word(settings, raw):
    async with Database(settings, size=1).opened() as database:
        async with database.connection() as connection:
            before = connection.get_server_pid()
            await connection.execute("BEGIN")
            running = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
            while not await raw.fetchval(BUSY, before):
                await asyncio.sleep(0.01)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await running

        async with database.connection() as connection:
            assert connection.get_server_pid() != before


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
    with pytest.raises(BackendUnavailable, match="UndefinedTableError") as caught:
        async with database.connection() as connection:
            await connection.execute("SELECT * FROM nothing")

    assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)


async def test_an_error_does_not_quote_values(database, raw):
    await raw.execute("CREATE TABLE scratch (a int)")

    async def wait(connection):
        await connection.execute("SET LOCAL statement_timeout = 1")
        await connection.execute("SELECT pg_sleep(9), 'canary'")

    with pytest.raises(BackendUnavailable) as caught:
        await database.write(wait)

    assert "57014" in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_what_a_wait_brought_is_read_whatever_the_default_isolation(settings, raw):
    database = await raw.fetchval("SELECT current_database()")
    await raw.execute(
        f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"
    )
    await raw.execute("CREATE TABLE scratch (a int)")

    async def count_twice(connection):
        before = await connection.fetchval("SELECT count(*) FROM scratch")
        await raw.execute("INSERT INTO scratch VALUES (1)")
        return before, await connection.fetchval("SELECT count(*) FROM scratch")

    async with Database(settings).opened() as opened:
        assert await opened.write(count_twice) == (0, 1)


async def test_a_borrower_who_gets_no_connection_in_time_is_told_so(settings):
    hasty = structs.replace(settings, connect_timeout=timedelta(seconds=scaled(1)))

    async with Database(hasty, size=1).opened() as database, database.connection():
        with pytest.raises(BackendUnavailable, match="did not respond"):
            await database.read(asyncio.sleep)


async def test_a_pool_is_closed_in_time_although_somebody_kept_a_connection(settings, raw):
    hasty = structs.replace(settings, connect_timeout=timedelta(seconds=scaled(1)))
    async with Database(hasty).opened() as database:
        pid = (await database._pool.acquire()).get_server_pid()

    async with asyncio.timeout(scaled(10)):
        while await raw.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid):
            await asyncio.sleep(0.05)


async def test_a_transaction_that_is_never_preferred_is_told_as_unavailable(database):
    tries = []

    async def collide(connection):
        tries.append(connection)
        await connection.execute(
            "DO $$ BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'canary'; END $$"
        )

    with pytest.raises(BackendUnavailable, match="40001") as caught:
        await database.write(collide)

    assert len(tries) == ATTEMPTS
    assert "canary" not in str(caught.value)
