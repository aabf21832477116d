"""Many writers at once: nobody waits in a circle, and nobody waits for what is not his."""

import asyncio
import random

from helios_core import ChangeResult
from helios_core.testing import corpus, delete, take_snapshot, view_everything, write
from helios_postgres import open_data_provider
from tests.pace import scaled
from tests.plugins.postgres.connecting import held_after_its_stamp


async def test_writers_of_overlapping_sets_never_wait_in_a_circle(provider, settings, raw):
    """Each in an order of its own, from two servers, over resources old and new."""
    await write(provider, *(corpus.patient(f"p{number}") for number in range(0, 40, 2)))
    chance = random.Random(7)

    async def one(number, through):
        ids = chance.sample(range(40), 12)
        changes = [corpus.patient(f"p{each}", note=f"{number}") for each in ids]
        changes += [
            corpus.observation(f"o{each}", f"p{each}", note=f"{number}") for each in ids[:4]
        ]
        changes += [delete(corpus.patient(f"p{ids[0]}"))]
        chance.shuffle(changes)
        return await write(through, *changes)

    async with open_data_provider(settings) as other, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n, (provider, other)[n % 2])) for n in range(60)]

    applied = [each for task in tasks for each in task.result()]
    made = sum(
        each.outcome not in (ChangeResult.UNCHANGED, ChangeResult.ABSENT) for each in applied
    )
    assert await raw.fetchval("SELECT count(*) FROM versions") == made + 20
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await raw.fetchval(deadlocks) == 0


async def test_every_version_follows_the_one_it_ends(provider, settings, raw):
    """Whoever wrote it: no gap in the numbers, and each ends when the next begins."""
    async with open_data_provider(settings) as other, asyncio.TaskGroup() as group:
        for number in range(40):
            one = corpus.patient(f"p{number % 3}", note=f"{number}")
            group.create_task(write((provider, other)[number % 2], one))

    broken = await raw.fetch(
        "SELECT v.id FROM versions v LEFT JOIN endings e USING (seq)"
        " LEFT JOIN versions n ON n.id = v.id AND n.version_id = v.version_id + 1"
        " WHERE e.until_stamp IS DISTINCT FROM n.since_stamp"
    )
    assert broken == []
    numbers = await raw.fetch("SELECT max(version_id), count(*) FROM versions GROUP BY id")
    assert all(highest == count for highest, count in numbers)


async def test_a_writer_does_not_wait_for_those_of_other_resources(provider):
    """One of the same type is held open between its stamp and its commit."""
    await write(provider, corpus.patient("p1"), corpus.patient("p2"))
    slow = write(provider, corpus.patient("p1", note="b"))

    async with held_after_its_stamp(provider, slow) as writing, asyncio.timeout(scaled(5)):
        await write(provider, corpus.patient("p2", note="b"), corpus.patient("p3"))
        await write(provider, delete(corpus.patient("p2")))
        assert not writing.done()

    snapshot = await take_snapshot(provider, await view_everything(provider))
    assert snapshot.versions == {"Patient/p1": 2, "Patient/p3": 1}


async def test_what_is_counted_is_what_is_there(provider, settings, raw):
    """After creations, updates and deletions by many at once."""
    async with open_data_provider(settings) as other, asyncio.TaskGroup() as group:
        for number in range(60):
            through = (provider, other)[number % 2]
            changes = [
                corpus.observation(f"o{number % 7}", "p1", note=f"{number}"),
                corpus.patient(f"{number}"),
            ]
            if number % 5 == 0:
                changes.append(delete(corpus.patient(f"{number}")))
            group.create_task(write(through, *changes))

    counted = await raw.fetchrow(
        "SELECT (SELECT sum(begun) FROM extents) - (SELECT sum(ended) FROM tallies),"
        " (SELECT sum(appended_bytes) FROM extents) - (SELECT sum(ended_bytes) FROM tallies),"
        " (SELECT sum(appended) FROM extents)"
    )
    there = await raw.fetchrow(
        "SELECT count(*) FILTER (WHERE NOT deleted),"
        " sum(size), (SELECT count(*) FROM versions) FROM resources"
    )
    assert tuple(counted) == tuple(there)


async def test_small_writes_share_extents(provider, settings, raw):
    """There are as many as there were writers at once, not as many as there were writes."""
    async with open_data_provider(settings) as other:
        for number in range(40):
            await asyncio.gather(
                write(provider, corpus.patient(f"a{number}")),
                write(other, corpus.patient(f"b{number}")),
            )

    assert await raw.fetchval("SELECT count(*) FROM extents") <= 3
    dense = await raw.fetchval("SELECT max(seq & 4095) + 1 FROM versions")
    assert dense == await raw.fetchval("SELECT max(appended) FROM extents")


async def test_unchanged_resources_cost_no_stamp(provider, raw):
    await write(provider, corpus.patient("p1"), corpus.patient("p2"))
    before = await raw.fetchval("SELECT last_value FROM clock")

    await write(provider, corpus.patient("p1"), corpus.patient("p2"))

    assert await raw.fetchval("SELECT last_value FROM clock") == before
