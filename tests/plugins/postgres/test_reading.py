"""Reading on a bad day, and within bounds."""

import asyncio
import random

import asyncpg
import pytest

from helios_core import BackendUnavailable, JoinedLines
from helios_core.testing import corpus, delete, names, take_snapshot, view_everything, write
from helios_postgres import open_data_provider
from tests.pace import scaled

MEBIBYTE = 1 << 20


async def end_sessions(raw):
    await raw.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'helios' AND datname = current_database()"
    )


async def break_the_toast(raw):
    """Take away a piece of what PostgreSQL keeps outside of the rows, as a bad disk might."""
    toast = await raw.fetchval(
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'versions'::regclass"
    )
    turned = f"UPDATE pg_class SET relkind = $1 WHERE oid = '{toast}'::regclass"
    await raw.execute("SET allow_system_table_mods = on")
    await raw.execute(turned, b"r")
    await raw.execute(f"DELETE FROM {toast} WHERE chunk_seq = 3")
    await raw.execute(turned, b"t")


@pytest.mark.parametrize("patients", [None, {f"p{n}" for n in range(300)}])
async def test_lines_that_are_whole_come_as_postgresql_has_joined_them(provider, patients):
    """Line by line, which is what is left where something is damaged, takes twice as long."""
    await write(provider, *(corpus.patient(f"p{n}") for n in range(300)))
    everything = corpus.view(await provider.transaction_time(), patients=patients)
    [shard] = await provider.plan(everything, shard_bytes=MEBIBYTE)

    batches = [batch async for batch in provider.read(everything, shard, batch_bytes=MEBIBYTE)]

    assert [type(batch.lines) for batch in batches] == [JoinedLines]
    assert sum(len(batch.lines) for batch in batches) == 300


async def test_no_transaction_is_open_between_two_batches(provider, raw):
    """A long export must not keep vacuum from its work."""
    await write(provider, *corpus.mixture(40))
    everything = await view_everything(provider)

    for shard in await provider.plan(everything, shard_bytes=MEBIBYTE):
        async for _ in provider.read(everything, shard, batch_bytes=300):
            assert not await raw.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'helios'"
                " AND datname = current_database()"
                " AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"
            )


async def test_a_connection_lost_between_two_batches_is_replaced(provider, raw):
    resources = corpus.mixture(60)
    await write(provider, *resources)
    everything = await view_everything(provider)
    [shard, *_] = await provider.plan(everything, shard_bytes=1 << 30)

    reading = provider.read(everything, shard, batch_bytes=400)
    found = list((await anext(reading)).lines)
    await end_sessions(raw)
    while provider._database._pool.get_size():
        await asyncio.sleep(0.001)
    found += [line async for batch in reading for line in batch.lines]

    whole = [
        line
        async for batch in provider.read(everything, shard, batch_bytes=MEBIBYTE)
        for line in batch.lines
    ]
    assert found == whole


WAITING = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'versions'::regclass
"""


async def test_a_connection_lost_in_a_batch_fails_the_shard(provider, settings):
    """The worker tries it again, and every shard gives the same then."""
    await write(provider, *corpus.mixture(60))
    everything = await view_everything(provider)
    [shard, *_] = await provider.plan(everything, shard_bytes=1 << 30)
    locker = await asyncpg.connect(
        settings.database_url.reveal(), server_settings={"search_path": settings.schema}
    )
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE versions IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(
                anext(provider.read(everything, shard, batch_bytes=MEBIBYTE))
            )
            async with asyncio.timeout(scaled(30)):
                while not await locker.fetchval(WAITING):
                    await asyncio.sleep(0.01)
            await end_sessions(locker)

            with pytest.raises(BackendUnavailable):
                await reading
    finally:
        await locker.close()

    assert (await anext(provider.read(everything, shard, batch_bytes=MEBIBYTE))).lines


async def test_a_content_that_is_gone_or_cut_is_reported(provider, raw):
    await write(provider, *(corpus.patient(f"p{number}") for number in range(5)))
    await raw.execute("UPDATE versions SET content = NULL WHERE id = 'p1'")
    await raw.execute("UPDATE versions SET content = substr(content, 1, 40) WHERE id = 'p2'")

    for batch_bytes in (100, MEBIBYTE):
        snapshot = await take_snapshot(
            provider, await view_everything(provider), batch_bytes=batch_bytes
        )

        assert snapshot.names == ["Patient/p0", "Patient/p3", "Patient/p4"]
        assert sorted(each.id for each in snapshot.damaged) == ["p1", "p2"]


async def test_a_content_whose_pages_are_broken_is_reported(provider, raw):
    """What PostgreSQL itself cannot put together any more takes nothing else with it."""
    incompressible = random.Random(1).randbytes(MEBIBYTE).hex()
    await write(
        provider,
        corpus.patient("p1"),
        corpus.patient("p2", note=incompressible),
        corpus.patient("p3"),
    )
    await break_the_toast(raw)

    for batch_bytes in (1000, 16 * MEBIBYTE):
        snapshot = await take_snapshot(
            provider, await view_everything(provider), batch_bytes=batch_bytes
        )

        assert snapshot.names == ["Patient/p1", "Patient/p3"]
        assert [each.id for each in snapshot.damaged] == ["p2"]

    now, ids = await provider.transaction_time(), ["p3", "p2", "p1", "p0"]
    fetched = await provider.fetch(corpus.type_key("Patient"), ids, at=now)
    assert (len(fetched.lines), [each.id for each in fetched.damaged]) == (2, ["p2"])


async def test_large_resources_come_one_at_a_time(provider):
    """Whatever surrounds them."""
    several = [corpus.patient(f"p{number}", note="x" * MEBIBYTE) for number in range(6)]
    await write(provider, *several, *(corpus.patient(f"s{number}") for number in range(20)))
    everything = await view_everything(provider)

    sizes = [
        sum(map(len, batch.lines))
        for shard in await provider.plan(everything, shard_bytes=1 << 30)
        async for batch in provider.read(everything, shard, batch_bytes=MEBIBYTE // 2)
    ]

    assert sum(size > MEBIBYTE // 2 for size in sizes) == 6
    assert max(sizes) < 1.1 * MEBIBYTE


async def test_the_statement_timeout_does_not_end_exports(settings, raw):
    """It is for requests: a look at a resource is ended, a shard is read through."""
    async with open_data_provider(settings) as provider:
        await write(provider, *corpus.mixture(20))
        everything = await view_everything(provider)
        [shard, *_] = await provider.plan(everything, shard_bytes=1 << 30)
        timeouts = []

        async def noting(connection):
            timeouts.append(await connection.fetchval("SHOW statement_timeout"))

        await provider._reads.run(0, noting)
        async with provider._database.connection() as connection:
            await noting(connection)

        assert [batch async for batch in provider.read(everything, shard, batch_bytes=MEBIBYTE)]
        assert timeouts == ["0", "30s"]


async def test_a_past_instant_is_read_from_a_changed_store(provider):
    """Of ended versions only those that had ended by then are left out."""
    resources = [corpus.observation(f"o{number}", "p1", note="a") for number in range(30)]
    await write(provider, *resources)
    past = await provider.transaction_time()
    for note in "bcd":
        changed = (corpus.observation(f"o{number}", "p1", note=note) for number in range(30))
        await write(provider, *changed)
    await write(provider, *map(delete, resources[:10]))

    then, now = (
        await take_snapshot(provider, corpus.view(past)),
        await take_snapshot(provider, await view_everything(provider)),
    )

    assert then.versions == dict.fromkeys(names(*resources), 1)
    assert now.versions == dict.fromkeys(names(*resources[10:]), 4)
