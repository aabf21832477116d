from datetime import timedelta

import msgspec
import pytest

from helios_core import Level
from helios_core.testing import corpus
from helios_sqlite import planning
from helios_sqlite.databases import unblocked

NOTE = "x" * 1000


@pytest.fixture
async def hospital(write):
    """200 patients with three observations each, in a store of four extents a type."""
    for start in range(0, 200, 50):
        people = range(start, start + 50)
        await write(*(corpus.patient(f"p{n}", note=NOTE) for n in people))
        await write(
            *(
                corpus.observation(f"o{n}-{k}", f"p{n}", note=NOTE)
                for n in people
                for k in range(3)
            )
        )
    await write(corpus.organization("org"))


@pytest.fixture(autouse=True)
def small_extents(monkeypatch):
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_BYTES", 64 * 1024)


async def rows_of(provider, view, shard):
    batches = [batch async for batch in provider.read(view, shard, batch_bytes=1 << 20)]
    return sum(len(batch.lines) for batch in batches)


async def test_shards_are_even_and_told_exactly(provider, hospital):
    shown = corpus.view(await provider.transaction_time())

    shards = await provider.plan(shown, shard_bytes=100_000)

    read = [await rows_of(provider, shown, shard) for shard in shards]
    assert sum(shard.resources for shard in shards) == sum(read) == 801
    assert all(abs(n - shard.resources) <= 3 for n, shard in zip(read, shards, strict=True))
    assert all(shard.bytes <= 100_000 for shard in shards)
    assert len([shard for shard in shards if shard.resource_type == "Observation"]) == 8


async def test_a_shard_may_be_smaller_than_an_extent(provider, hospital):
    shown = corpus.view(await provider.transaction_time())

    shards = await provider.plan(shown, shard_bytes=5_000)

    assert sum([await rows_of(provider, shown, shard) for shard in shards]) == 801
    assert len(shards) > 150


async def test_shards_do_not_depend_on_the_store_growing(provider, hospital, write):
    shown = corpus.view(await provider.transaction_time())
    shards = await provider.plan(shown, shard_bytes=100_000)

    await write(*(corpus.patient(f"late{n}", note=NOTE) for n in range(100)))

    assert sum([await rows_of(provider, shown, shard) for shard in shards]) == 801


async def test_what_was_deleted_after_the_instant_is_still_planned(provider, write, delete):
    await write(corpus.patient("p1"), corpus.patient("p2"))
    shown = corpus.view(await provider.transaction_time())
    await write(delete(corpus.patient("p1")), delete(corpus.patient("p2")))

    [shard] = await provider.plan(shown, shard_bytes=1000)

    assert await rows_of(provider, shown, shard) == 2


async def test_what_came_after_the_instant_is_not_planned(provider, write):
    at = await provider.transaction_time()
    await write(corpus.patient("p1"))

    assert await provider.plan(corpus.view(at), shard_bytes=1000) == []


async def test_an_incremental_export_starts_behind_what_is_older(provider, hospital, write):
    since = await provider.transaction_time()
    await write(corpus.patient("new"), corpus.observation("new", "new"))
    shown = corpus.view(await provider.transaction_time(), corpus.request(since=since))

    shards = await provider.plan(shown, shard_bytes=100_000)

    assert [(shard.resource_type, shard.resources) for shard in shards] == [
        ("Patient", 1),
        ("Observation", 1),
    ]
    assert sum([await rows_of(provider, shown, shard) for shard in shards]) == 2


async def test_every_instant_finds_its_seq(provider, raw, hospital, write):
    stamps = [at for (at,) in raw.execute("SELECT DISTINCT since_stamp FROM versions ORDER BY 1")]
    now = await provider.transaction_time()
    for stamp in (stamps[0], stamps[2], stamps[-1]):
        for step in (-1, 0):
            since = now - timedelta(microseconds=(_stamp(now) - stamp) - step)
            shown = corpus.view(now, corpus.request(since=since))

            shards = await provider.plan(shown, shard_bytes=1 << 30)

            wanted = raw.execute(
                "SELECT count(*) FROM versions WHERE since_stamp > ?", (stamp + step,)
            ).fetchone()[0]
            assert sum([await rows_of(provider, shown, shard) for shard in shards]) == wanted
            assert sum(shard.resources for shard in shards) == wanted


def _stamp(instant):
    return round(instant.timestamp() * 1_000_000)


async def test_a_small_group_is_counted_exactly(provider, hospital):
    shown = corpus.view(
        await provider.transaction_time(),
        corpus.request(level=Level.GROUP),
        patients={"p1", "p77", "nobody"},
    )

    shards = await provider.plan(shown, shard_bytes=1 << 20)

    assert {shard.resource_type: shard.resources for shard in shards} == {
        "Patient": 2,
        "Observation": 6,
    }


async def test_a_large_group_is_estimated_from_a_sample(provider, hospital, monkeypatch):
    monkeypatch.setattr(planning, "SAMPLE", 10)
    everybody = {f"p{n}" for n in range(100)}
    shown = corpus.view(
        await provider.transaction_time(), corpus.request(level=Level.GROUP), patients=everybody
    )

    shards = await provider.plan(shown, shard_bytes=100_000)

    assert sum(shard.resources for shard in shards) == 400
    assert sum([await rows_of(provider, shown, shard) for shard in shards]) == 400
    assert len(shards) > 3


@pytest.mark.parametrize("looked_up", [5, 1000])
async def test_a_large_group_of_strangers_is_not_planned(
    provider, hospital, monkeypatch, looked_up
):
    monkeypatch.setattr(planning, "SAMPLE", 10)
    monkeypatch.setattr(planning, "LOOKED_UP", looked_up)
    strangers = {f"stranger{n}" for n in range(900)}
    shown = corpus.view(
        await provider.transaction_time(), corpus.request(level=Level.GROUP), patients=strangers
    )

    shards = await provider.plan(shown, shard_bytes=1 << 20)

    # Where both sides are large nobody looks closely, and an empty shard does no harm.
    assert shards == [] if looked_up > 5 else sum(shard.resources for shard in shards) == 0


async def test_planning_reads_no_version(provider, hospital):
    """P2: the cost of a kick-off does not grow with the store."""
    shown = corpus.view(await provider.transaction_time())
    tables = set()

    def note(action, table, column, *_):
        is_key = table == "versions" and column in {"seq", "ROWID", ""}
        if action == 20 and not is_key:  # SQLITE_READ
            tables.add(table)
        return 0

    async with provider._database.reader() as reader:
        reader.connection.set_authorizer(note)
        shards = await unblocked(planning.plan, reader.connection, shown, 100_000)
        reader.connection.set_authorizer(None)

    assert shards
    assert tables == {"collections", "extents"}


async def test_types_are_numbered_in_the_order_asked_for(provider, hospital):
    asked = msgspec.structs.replace(corpus.request(), types=("Organization", "Patient"))

    shards = await provider.plan(
        corpus.view(await provider.transaction_time(), asked), shard_bytes=10**9
    )

    assert [(shard.number, shard.resource_type, shard.ordinal) for shard in shards] == [
        (0, "Organization", 1),
        (1, "Patient", 1),
    ]
