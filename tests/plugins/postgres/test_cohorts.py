"""P4: a cohort is sent once for all workers, and reading costs by the smaller side."""

import asyncio

import pytest

from helios_core import BackendUnavailable, Cohort, Level
from helios_core.testing import corpus, read_batches, take_snapshot, write
from helios_postgres import open_data_provider
from tests.pace import scaled


def group(now, cohort):
    return corpus.view(now, corpus.request(level=Level.GROUP), patients=cohort)


async def stored_members(raw):
    return await raw.fetchval("SELECT count(*) FROM cohort_members")


async def inserted(raw):
    """How many members were ever sent, those that were rolled back too; told when sessions end."""
    query = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'cohort_members'"
    while not (found := await raw.fetchval(query)):
        await asyncio.sleep(0.1)
    return found


async def test_a_large_cohort_is_sent_once_for_all_workers(settings, raw):
    """Counted in the database: what two servers with many shards at once have inserted."""
    async with open_data_provider(settings) as one, open_data_provider(settings) as other:
        await write(one, *(corpus.patient(f"p{n}", note="x" * 500) for n in range(300)))
        await write(one, *(corpus.observation(f"o{n}", f"p{n}") for n in range(300)))
        now = await one.transaction_time()
        large = group(now, [f"p{n}" for n in range(50_000)])
        shards = await one.plan(corpus.view(now), shard_bytes=20_000)
        async with asyncio.TaskGroup() as tasks:
            readings = [
                tasks.create_task(read_batches((one, other)[shard.number % 2], large, shard))
                for shard in shards
            ]

    lines = [line for task in readings for batch in task.result() for line in batch.lines]
    assert (len(shards) > 5, len(lines), len(set(lines))) == (True, 600, 600)
    assert await stored_members(raw) == 50_000
    assert await inserted(raw) == 50_000


async def test_a_small_cohort_does_not_cost_by_the_store(provider, raw):
    """Its versions are looked up: nothing of the others is looked at."""
    others = [corpus.observation(f"o{n}", f"p{n % 400}", note="x" * 300) for n in range(2000)]
    await write(provider, *others)
    small = group(await provider.transaction_time(), ["p1", "p2"])

    asked = []
    ask = provider._reads.run

    async def noting(stamp, work, *args, **kwargs):
        asked.append(args)
        return await ask(stamp, work, *args, **kwargs)

    provider._reads.run = noting
    snapshot = await take_snapshot(provider, small)

    assert len(snapshot.names) == 10
    looked_at = [args[-1] for args in asked if isinstance(args[-1], list)]
    assert {len(seqs) for seqs in looked_at} == {10}


async def test_a_cohort_that_a_crash_took_is_sent_again(provider, raw):
    await write(provider, *(corpus.patient(f"p{n}") for n in range(20)))
    both = group(await provider.transaction_time(), [f"p{n}" for n in range(40)])
    before = await take_snapshot(provider, both)

    await raw.execute("TRUNCATE cohorts, cohort_members RESTART IDENTITY")

    assert (await take_snapshot(provider, both)).lines == before.lines


async def test_a_cohort_that_a_crash_takes_in_the_middle_fails_the_shard(provider, raw):
    """An empty table would look as if nobody had anything."""
    await write(provider, *(corpus.patient(f"p{n}") for n in range(20)))
    both = group(await provider.transaction_time(), [f"p{n}" for n in range(40)])
    [shard] = await provider.plan(both, shard_bytes=1 << 30)
    of = await provider._slice(both, shard)

    await raw.execute("TRUNCATE cohorts, cohort_members RESTART IDENTITY")
    await provider._slice(group(both.transaction_time, ["somebody"]), shard)

    with pytest.raises(BackendUnavailable, match="sent again"):
        [batch async for batch in provider._reading.batches(of, 1 << 20)]


async def test_a_cohort_nobody_has_read_for_a_day_is_swept(provider, raw):
    await write(provider, corpus.patient("p1"))
    now = await provider.transaction_time()
    await take_snapshot(provider, group(now, ["p1", "old"]))
    await raw.execute("UPDATE cohorts SET used_at = now() - interval '25 hours'")

    await take_snapshot(provider, group(now, ["p1", "new", "newer"]))

    assert await raw.fetchval("SELECT count(*) FROM cohorts") == 1
    assert await stored_members(raw) == 3


async def test_reading_a_cohort_keeps_it_from_being_swept(provider, raw):
    await write(provider, corpus.patient("p1"))
    now = await provider.transaction_time()
    await take_snapshot(provider, group(now, ["p1", "old"]))
    await raw.execute("UPDATE cohorts SET used_at = now() - interval '2 hours'")

    await take_snapshot(provider, group(now, ["p1", "old"]))

    assert await raw.fetchval("SELECT used_at > now() - interval '1 minute' FROM cohorts")


WAITING = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cohort_members'::regclass
"""


async def test_a_cohort_is_there_whole_or_not_at_all(provider, raw):
    """Who sends it and is cancelled leaves nothing that another would take for all of it."""
    await write(provider, *(corpus.patient(f"p{n}") for n in range(20)))
    ids = frozenset(f"p{n}" for n in range(20_000))
    large = group(await provider.transaction_time(), ids)
    assert isinstance(large.cohort, Cohort)
    [shard] = await provider.plan(large, shard_bytes=1 << 30)

    async with raw.transaction():
        await raw.execute("LOCK TABLE cohort_members IN EXCLUSIVE MODE")
        sending = asyncio.create_task(read_batches(provider, large, shard))
        async with asyncio.timeout(scaled(30)):
            while not await raw.fetchval(WAITING):
                await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert await raw.fetchval("SELECT count(*) FROM cohorts") == 0

    assert len((await take_snapshot(provider, large)).names) == 20
