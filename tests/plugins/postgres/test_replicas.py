"""Exports read from a streaming replica, and never anything but the whole truth."""

import asyncio
from contextlib import contextmanager
from datetime import timedelta

import pytest

from helios_core import ConfigurationError, Level, Secret
from helios_core.testing import corpus, names, take_snapshot, view_everything, write
from helios_postgres import PostgresSettings, migrate, open_data_provider, replicas
from tests.plugins.postgres.replication import caught_up, primary_and_replica


@pytest.fixture(scope="module")
def servers():
    with primary_and_replica() as servers:
        yield servers


@pytest.fixture
async def settings(servers):
    """Settings for an empty schema on both; the replica follows and is up."""
    primary, replica = servers
    await primary.ask("DROP SCHEMA IF EXISTS helios CASCADE")
    settings = PostgresSettings(
        database_url=Secret(primary.url),
        read_url=Secret(replica.url),
        connect_timeout=timedelta(seconds=3),
    )
    await migrate(settings)
    await caught_up(primary, replica)
    return settings


@contextmanager
def without_the_primary(provider):
    """See to it that reads of exports succeed on the replica alone."""

    async def never(*_, **__):
        raise AssertionError("the primary was asked")

    asked, provider._reads.run_on_primary = provider._reads.run_on_primary, never
    try:
        yield
    finally:
        provider._reads.run_on_primary = asked


async def test_an_export_reads_from_the_replica(provider):
    resources = corpus.mixture(40)
    await write(provider, *resources)

    with without_the_primary(provider):
        snapshot = await take_snapshot(provider, await view_everything(provider))

    assert snapshot.names == names(*resources)


async def test_a_replica_that_is_behind_is_waited_for(provider, servers):
    _, replica = servers
    await write(provider, *corpus.mixture(10))
    await replica.ask("SELECT pg_wal_replay_pause()")
    await write(provider, corpus.patient("late"))
    everything = await view_everything(provider)

    taking = asyncio.create_task(take_snapshot(provider, everything))
    await asyncio.sleep(0.5)
    assert not taking.done()
    await replica.ask("SELECT pg_wal_replay_resume()")

    assert "Patient/late" in (await taking).names


async def test_a_replica_that_stays_behind_is_left_out(provider, servers, monkeypatch):
    _, replica = servers
    monkeypatch.setattr(replicas, "REPLAY", timedelta(seconds=0.2))
    await replica.ask("SELECT pg_wal_replay_pause()")
    try:
        await write(provider, corpus.patient("late"))
        snapshot = await take_snapshot(provider, await view_everything(provider))
    finally:
        await replica.ask("SELECT pg_wal_replay_resume()")

    assert snapshot.names == ["Patient/late"]


async def test_a_replica_that_goes_away_is_left_out_until_it_is_back(
    provider, servers, monkeypatch
):
    """In the middle of an export, whose shard does not fail."""
    monkeypatch.setattr(replicas, "AVOIDANCE", timedelta(seconds=0.5))
    primary, replica = servers
    resources = corpus.mixture(60)
    await write(provider, *resources)
    everything = await view_everything(provider)
    shards = await provider.plan(everything, shard_bytes=1 << 30)
    found = []
    for number, shard in enumerate(shards):
        async for batch in provider.read(everything, shard, batch_bytes=400):
            found += batch.lines
            if number == 0 and (replica.folder / "postmaster.pid").exists():
                replica.stop()
    replica.start()
    await caught_up(primary, replica)
    await asyncio.sleep(0.6)

    with without_the_primary(provider):
        again = await take_snapshot(provider, everything)

    assert len(found) == len(again.lines) == len(resources)


async def test_a_server_starts_without_its_replica(settings, servers):
    _, replica = servers
    replica.stop()
    try:
        async with open_data_provider(settings) as provider:
            await write(provider, corpus.patient("p1"))
            snapshot = await take_snapshot(provider, await view_everything(provider))
    finally:
        replica.start()

    assert snapshot.names == ["Patient/p1"]


async def test_an_address_that_cannot_be_used_refuses_the_start(settings, servers):
    primary, _ = servers
    wrong = PostgresSettings(
        database_url=settings.database_url,
        read_url=Secret(primary.url.replace("/postgres?", "/nowhere?")),
    )

    with pytest.raises(ConfigurationError, match="HFS_POSTGRES_READ_URL"):
        async with open_data_provider(wrong):
            pass


async def test_cohorts_are_read_where_their_patients_are(provider):
    """Tables that are not logged do not reach a replica."""
    await write(provider, *(corpus.patient(f"p{number}") for number in range(30)))
    now = await provider.transaction_time()
    ids = ["p1", "p2", "p29"]

    snapshot = await take_snapshot(
        provider, corpus.view(now, corpus.request(level=Level.GROUP), patients=ids)
    )

    assert snapshot.names == [f"Patient/{each}" for each in ids]


async def test_a_write_under_way_is_not_lost_on_a_replica(provider, settings, servers):
    """Many kick-offs among many writes: each export is whole, wherever it reads."""
    async with open_data_provider(settings) as other:

        async def churn(through, letter):
            for number in range(15):
                note = f"{number}"
                await write(
                    through, *(corpus.patient(f"{letter}{n}", note=note) for n in range(5))
                )

        async with asyncio.TaskGroup() as group:
            writers = [
                group.create_task(churn(provider, "a")),
                group.create_task(churn(other, "b")),
            ]
            taken = []
            while not all(writer.done() for writer in writers):
                everything = await view_everything(provider)
                taken.append((everything, (await take_snapshot(provider, everything)).versions))

    async with open_data_provider(
        PostgresSettings(database_url=settings.database_url)
    ) as on_primary:
        for everything, versions in taken:
            assert (await take_snapshot(on_primary, everything)).versions == versions
