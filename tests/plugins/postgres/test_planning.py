"""P2: planning reads counts alone, and of those only what shards need to be even."""

import random
from collections import defaultdict

import msgspec
import pytest

from helios_core import EXTENT_BITS, Level, SeqRun, collection_range, cut_shards, total_size
from helios_core.fhir import to_stamp
from helios_core.testing import corpus, delete, read_batches, write
from helios_postgres import planning
from helios_postgres.runs import holdings
from helios_postgres.views import shown_by

NOTE = "x" * 1000
SHARD_BYTES = 32 * 1024 * 1024


@pytest.fixture
async def hospital(provider, monkeypatch):
    """200 patients with three observations each, in many extents that take turns."""
    monkeypatch.setattr("helios_postgres.extents.EXTENT_BYTES", 16 * 1024)
    for start in range(0, 200, 20):
        people = range(start, start + 20)
        await write(provider, *(corpus.patient(f"p{n}", note=NOTE) for n in people))
        await write(
            provider,
            *(
                corpus.observation(f"o{n}-{k}", f"p{n}", note=NOTE)
                for n in people
                for k in range(3)
            ),
        )
    await write(provider, corpus.organization("org"))


@pytest.fixture
async def many(raw):
    """
    Add 20,000 extents of three types, as if there were as many resources in them.

    They differ in size, have gaps between them, and of a half of them something has ended.
    """
    chosen = random.Random(3)
    types = ("Patient", "Observation", "Organization")
    await raw.executemany(
        "INSERT INTO collections (tenant, fhir_version, resource_type) VALUES ($1, $2, $3)",
        [(corpus.TENANT, corpus.VERSION.value, name) for name in types],
    )
    extents, tallies, number = [], [], 0
    for _ in range(20_000):
        number += chosen.choice((1, 1, 1, 40))
        extent = (chosen.choice((1, 2, 2, 2, 2, 3)) << 28) + number
        rows, size = chosen.randrange(1000, 4097), chosen.randrange(1 << 22)
        extents.append((extent, number, number + 1, size, size // 2, rows, rows, rows // 2, False))
        ended = (extent, size // 2, size // 4, rows // 2, rows // 4)
        tallies += [ended] * chosen.choice((0, 0, 1, 2))
    columns = (
        *("extent", "first_stamp", "last_stamp", "appended_bytes", "compartment_bytes"),
        *("appended", "begun", "compartment_begun", "open"),
    )
    await raw.copy_records_to_table("extents", records=extents, columns=columns)
    columns = ("extent", "ended_bytes", "compartment_bytes", "ended", "compartment_ended")
    await raw.copy_records_to_table("tallies", records=tallies, columns=columns)


async def each_alone(raw, *, everybody=True):
    """What is left of each extent, in runs for each collection."""
    of = "" if everybody else "compartment_"
    begun, ended = ("appended_bytes", "ended_bytes") if everybody else (f"{of}bytes",) * 2
    rows = await raw.fetch(
        f"SELECT extent, appended, {of}begun - coalesce(sum({of}ended), 0)::int,"
        f" e.{begun} - coalesce(sum(t.{ended}), 0)::bigint"
        " FROM extents AS e LEFT JOIN tallies AS t USING (extent) GROUP BY extent ORDER BY extent"
    )
    found = defaultdict(list)
    for extent, seqs, resources, size in rows:
        run = SeqRun(first=extent << EXTENT_BITS, seqs=seqs, resources=resources, bytes=size)
        found[extent >> 28].append(run)
    return found


def bytes_within(runs, start, end):
    """What is in a range of seqs, taking it that each run is the same all along."""
    parts = ((min(end, run.end) - max(start, run.first), run) for run in runs)
    return sum(run.bytes * seqs / run.seqs for seqs, run in parts if seqs > 0)


async def rows_of(provider, shown, shards):
    return [
        sum(len(batch.lines) for batch in await read_batches(provider, shown, shard))
        for shard in shards
    ]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT])
@pytest.mark.parametrize("shard_bytes", [1 << 20, SHARD_BYTES, 1 << 40])
async def test_shards_are_those_of_every_extent_by_itself(provider, raw, many, level, shard_bytes):
    shown = corpus.view(await provider.transaction_time(), corpus.request(level=level))
    runs = await each_alone(raw, everybody=level is Level.SYSTEM)

    shards = await provider.plan(shown, shard_bytes=shard_bytes)

    expected = [
        shard
        for collection, name in enumerate(("Patient", "Observation", "Organization"), 1)
        for shard in cut_shards(
            name, runs[collection], total_size(runs[collection]), shard_bytes=shard_bytes
        )
    ]
    numbered = [msgspec.structs.replace(shard, number=n) for n, shard in enumerate(expected)]
    assert [*map(msgspec.structs.asdict, shards)] == [*map(msgspec.structs.asdict, numbered)]


async def test_shards_of_very_many_extents_are_even(provider, raw, many):
    shown = corpus.view(await provider.transaction_time())
    runs = (await each_alone(raw))[2]

    shards = await provider.plan(shown, shard_bytes=SHARD_BYTES)

    of_type = [shard for shard in shards if shard.resource_type == "Observation"]
    ranges = [collection_range(2).within(start=shard.start, end=shard.end) for shard in of_type]
    held = [bytes_within(runs, each.first, each.end) for each in ranges]
    assert sum(held) == pytest.approx(sum(run.bytes for run in runs))
    assert len(held) > 400
    assert max(held) < SHARD_BYTES * 1.001
    assert min(held) > max(held) * 0.995


async def test_few_rows_say_how_much_there_is(provider, raw, many):
    now = await provider.transaction_time()
    shown = shown_by(corpus.view(now))
    whole = {1: None, 2: None, 3: None}
    planned = await provider.plan(corpus.view(now), shard_bytes=SHARD_BYTES)

    found = await holdings(raw, whole, shown, all_resources=True, shard_bytes=SHARD_BYTES)
    coarse = await holdings(raw, {2: 5, 3: 1}, shown, all_resources=True, shard_bytes=SHARD_BYTES)

    runs = sum(len(holding.runs) for holding in found.values())
    assert len(planned) > 700
    assert runs <= 2 * len(planned) + len(whole)
    assert len(coarse[2].runs) in (10, 11)
    assert len(coarse[3].runs) in (2, 3)


async def test_shards_are_even_and_told_exactly(provider, hospital):
    shown = corpus.view(await provider.transaction_time())

    shards = await provider.plan(shown, shard_bytes=100_000)

    read = await rows_of(provider, shown, shards)
    assert sum(shard.resources for shard in shards) == sum(read) == 801
    assert all(abs(n - shard.resources) <= 3 for n, shard in zip(read, shards, strict=True))
    assert len([shard for shard in shards if shard.resource_type == "Observation"]) == 8


async def test_what_has_ended_is_not_counted(provider, hospital):
    people = [corpus.patient(f"p{n}") for n in range(200)]
    await write(provider, *people[:100], *map(delete, people[100:150]))
    shown = corpus.view(await provider.transaction_time())

    shards = await provider.plan(shown, shard_bytes=10_000)

    read = await rows_of(provider, shown, shards)
    assert sum(read) == sum(shard.resources for shard in shards) == 751


async def test_what_was_deleted_after_the_instant_is_still_planned(provider):
    await write(provider, corpus.patient("p1"), corpus.patient("p2"))
    shown = corpus.view(await provider.transaction_time())
    await write(provider, delete(corpus.patient("p1")), delete(corpus.patient("p2")))

    [shard] = await provider.plan(shown, shard_bytes=1000)

    assert await rows_of(provider, shown, [shard]) == [2]


async def test_planning_of_everything_reads_no_content(provider, raw, hospital):
    shown = corpus.view(await provider.transaction_time())
    await raw.execute("ALTER TABLE versions RENAME COLUMN content TO hidden")

    assert await provider.plan(shown, shard_bytes=100_000)


async def test_only_extents_of_the_time_of_an_incremental_export_are_looked_at(
    provider, raw, hospital, monkeypatch
):
    since = await provider.transaction_time()
    await write(provider, *(corpus.patient(f"new{n}", note=NOTE) for n in range(60)))
    shown = corpus.view(
        await provider.transaction_time(), corpus.request(since=since, types=("Patient",))
    )
    await raw.execute("UPDATE versions SET since_stamp = 1")
    await raw.execute("UPDATE extents SET row_sum = NULL, check_sum = NULL")
    extents = await raw.fetch(
        "SELECT extent, appended FROM extents WHERE last_stamp > $1 ORDER BY extent",
        to_stamp(since),
    )
    between = extents[len(extents) // 2]
    await raw.execute("UPDATE extents SET last_stamp = 1 WHERE extent = $1", between["extent"])
    versions = sum(appended for _, appended in extents) - between["appended"]

    monkeypatch.setattr(planning, "LOOKED_UP", versions + 1)
    looked_at = await provider.plan(shown, shard_bytes=1 << 20)
    monkeypatch.setattr(planning, "LOOKED_UP", versions)
    taken = await provider.plan(shown, shard_bytes=1 << 20)

    assert (looked_at, len(taken)) == ([], 1)


async def test_a_large_group_has_even_shards(provider, hospital, monkeypatch):
    monkeypatch.setattr(planning, "SAMPLE", 10)
    everybody = {f"p{n}" for n in range(100)}
    shown = corpus.view(
        await provider.transaction_time(), corpus.request(level=Level.GROUP), patients=everybody
    )

    shards = await provider.plan(shown, shard_bytes=50_000)

    of_type = [shard for shard in shards if shard.resource_type == "Observation"]
    pieces = [collection_range(2).within(start=each.start, end=each.end) for each in of_type]
    whole = await rows_of(provider, corpus.view(shown.transaction_time), of_type)
    assert sum(await rows_of(provider, shown, shards)) == 400
    assert sum(shard.resources for shard in shards) == 400
    assert len(pieces) == len(whole) == 8
    assert max(whole) - min(whole) <= 3
