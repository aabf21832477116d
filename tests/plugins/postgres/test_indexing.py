"""The search index: exact where it is sound, made anew where it is old, done without if broken."""

import asyncio

import pytest

from helios_core import BackendError, Level, SchemaOutdated, SortOrder
from helios_core.fhir import TERMS_VERSION, compile_query
from helios_core.testing import SEARCHES, compile_searches, corpus, delete, measurements
from helios_core.testing import write as write_to
from helios_postgres import (
    extents,
    indexing,
    migrate,
    narrowing,
    open_data_provider,
    ordering,
    searching,
)
from tests.indexed import pages, pages_are_exact, sifted, sifting_is_exact
from tests.pace import scaled


@pytest.fixture
def write(provider):
    async def write(*changes):
        return await write_to(provider, *changes)

    return write


async def rows_of(raw):
    tables = ("postings", "spans", "recent_terms")
    return {each: await raw.fetchval(f"SELECT count(*) FROM {each}") for each in tables}


@pytest.mark.parametrize(
    "alternatives",
    [
        [[("status", "final")]],
        [[("code", "https://codes.example.org|weight,pulse")]],
        [[("subject", "Patient/p1")]],
        [[("date", "2020-02-28")]],
        [[("date", "ge2020-02"), ("status", "final"), ("subject", "p1,p3")]],
        [[("_id", "m3,m5")], [("date", "lt2020")]],
    ],
    ids=str,
)
@pytest.mark.parametrize("enough", [1, 7, 1000])
async def test_the_index_gives_nothing_but_what_matches(
    provider, write, monkeypatch, alternatives, enough
):
    """P5: a search for one resource in a hundred reads one in a hundred."""
    monkeypatch.setattr(indexing, "PACKED_EVERY", enough)
    for start in range(0, 60, 5):
        await write(*measurements()[start : start + 5])

    found = await sifted(provider, alternatives)

    assert found.candidates == found.expected


async def test_an_unchanged_resource_is_indexed_once(write, raw):
    await write(*measurements(10))
    before = await rows_of(raw)

    await write(*measurements(10))

    assert await rows_of(raw) == before == {"postings": 0, "spans": 0, "recent_terms": 1}


async def test_what_small_transactions_add_is_put_together(provider, write, raw, monkeypatch):
    monkeypatch.setattr(indexing, "PACKED_EVERY", 8)
    several = measurements(20)

    counts = []
    for each in several:
        await write(each)
        counts.append((await rows_of(raw))["recent_terms"])

    assert counts == [1, 2, 3, 4, 5, 6, 7, 0] * 2 + [1, 2, 3, 4]
    for alternatives in SEARCHES:
        found = await sifted(provider, alternatives)
        assert found.matches == found.expected


async def test_deletions_count_as_places(provider, write, raw, monkeypatch):
    """Else what is recent would grow in a type where every eighth change is a deletion."""
    monkeypatch.setattr(indexing, "PACKED_EVERY", 8)
    several = measurements(7)
    await write(*several)

    await write(delete(several[0]))

    assert (await rows_of(raw))["recent_terms"] == 0


async def test_a_large_transaction_is_put_into_few_rows(write, raw):
    await write(*measurements(600))

    rows = await rows_of(raw)
    terms = await raw.fetchval("SELECT sum(length(content)) FROM postings")

    assert rows["recent_terms"] == 0
    assert rows["postings"] < 64
    assert terms < 600 * 25


async def test_a_term_is_found_in_many_extents(provider, write, monkeypatch):
    monkeypatch.setattr(extents, "EXTENT_ROWS", 3)
    monkeypatch.setattr(ordering, "EXTENTS_AT_ONCE", 4)
    monkeypatch.setattr(narrowing, "EXTENTS_AT_ONCE", 4)
    monkeypatch.setattr(narrowing, "CANDIDATES_AT_ONCE", 5)
    for start in range(0, 90, 15):
        await write(*measurements(90)[start : start + 15])

    await sifting_is_exact(provider)


@pytest.mark.parametrize("order", [*SortOrder])
@pytest.mark.parametrize("few", [0, 5, 1000])
async def test_pages_agree_however_many_candidates_there_are(
    provider, write, monkeypatch, order, few
):
    monkeypatch.setattr(extents, "EXTENT_ROWS", 3)
    monkeypatch.setattr(ordering, "SORTED_AT_ONCE", few)
    monkeypatch.setattr(ordering, "IDS_AT_ONCE", 10)
    monkeypatch.setattr(searching, "BYTES_AT_ONCE", 1000)
    for start in range(0, 60, 20):
        await write(*measurements()[start : start + 20])
    await pages_are_exact(provider, order)


@pytest.mark.parametrize("order", [SortOrder.LAST_UPDATED, SortOrder.LAST_UPDATED_DESCENDING])
async def test_ages_are_in_order_across_the_extents_of_many_writers(
    provider, write, monkeypatch, order
):
    """Extents that are filled at the same time overlap in time."""
    monkeypatch.setattr(extents, "EXTENT_ROWS", 5)
    names = [f"p{number:03}" for number in range(120)]
    async with asyncio.TaskGroup() as tasks:
        for start in range(8):
            tasks.create_task(one_after_another(write, names[start::8]))

    found = await pages(provider, compile_query(corpus.VERSION, "Patient", []), order)

    ages = [each.last_updated for each in found]
    assert sorted(each.id for each in found) == names
    assert ages == sorted(ages, reverse=order is SortOrder.LAST_UPDATED_DESCENDING)


async def one_after_another(write, names):
    for name in names:
        await write(corpus.patient(name))


async def test_writers_at_once_do_not_wait_for_each_other(settings, provider, raw, write):
    """Nor for one whose transaction stays open: each adds to extents of its own."""
    await write(*measurements(5))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection):
        rows = await connection.fetch(
            "SELECT extent FROM extents WHERE open ORDER BY extent FOR UPDATE"
        )
        postings = indexing.Postings()
        for (extent,) in rows:
            postings.add((extent << 12) + 255, measurements(1)[0].terms)
        await postings.store(connection)
        begun.set()
        await go_on.wait()

    async with open_data_provider(settings) as other, asyncio.TaskGroup() as tasks:
        tasks.create_task(other._database.write(slow))
        await begun.wait()
        async with asyncio.timeout(scaled(10)):
            await asyncio.gather(*(write(*some(number)) for number in range(12)))
        go_on.set()

    found = await sifted(provider, [[("code", "b")]])
    assert len(found.expected) == 12 * 300
    assert found.matches == found.expected


def some(number):
    return [
        corpus.measurement(f"w{number}-{each}", "p1", status="final", code="b", day="2021")
        for each in range(300)
    ]


@pytest.fixture
async def outdated(settings, raw):
    """A store whose index was made by other rules."""
    async with open_data_provider(settings) as provider:
        await write_to(provider, *measurements())
    await raw.execute("UPDATE search_index SET terms_version = $1", TERMS_VERSION - 1)
    await raw.execute("DELETE FROM postings")
    await raw.execute("DELETE FROM recent_terms")


async def test_an_index_made_by_other_rules_is_refused(outdated, settings):
    with pytest.raises(SchemaOutdated, match="helios migrate"):
        async with open_data_provider(settings):
            pass


async def test_an_index_made_by_other_rules_is_made_anew(outdated, settings):
    """P5: a new version of the server finds what the old one would not have found."""
    assert "its search index was rebuilt" in await migrate(settings)
    assert "made anew" not in await migrate(settings)

    async with open_data_provider(settings) as provider:
        for alternatives in SEARCHES:
            found = await sifted(provider, alternatives)
            assert found.matches == found.expected
            assert len(found.lines) == len(measurements())


async def test_what_is_damaged_when_it_is_indexed_is_a_candidate_of_every_search(
    outdated, settings, raw
):
    """P6: it may have been anything."""
    await raw.execute("UPDATE versions SET content = 'canary' WHERE id = 'm7'")
    await migrate(settings)

    async with open_data_provider(settings) as provider:
        for pair in (("code", "height"), ("date", "1999"), ("_id", "m3")):
            found = await sifted(provider, [[pair]])
            assert [each.id for each in found.damaged] == ["m7"]


UNPACKABLE = "UPDATE postings SET content = '\\x0002'"
UNREADABLE = """
ALTER TABLE postings RENAME TO elsewhere;
CREATE FUNCTION broken(bytea) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN RAISE SQLSTATE 'XX001'; END $$;
CREATE VIEW postings AS SELECT extent, bucket, broken(content) AS content FROM elsewhere
"""


@pytest.mark.parametrize("damage", [UNPACKABLE, UNREADABLE], ids=["unpackable", "unreadable"])
@pytest.mark.parametrize("patients", [None, ("p1", "p2")])
async def test_a_damaged_index_is_done_without(provider, write, raw, damage, patients):
    """P5, P6: what is left is read as if there were no index."""
    await write(*measurements(300), corpus.patient("p1"))
    await raw.execute(damage)

    found = await sifted(
        provider,
        [[("date", "2020"), ("status", "final")]],
        export_request=corpus.request(level=Level.SYSTEM if patients is None else Level.GROUP),
        patients=patients,
    )

    assert found.candidates == found.lines
    assert found.matches == found.expected != []


async def test_damage_met_later_on_repeats_nothing(provider, write, raw, monkeypatch):
    """P3: what was read before it by the index is not read again."""
    monkeypatch.setattr(extents, "EXTENT_ROWS", 8)
    monkeypatch.setattr(indexing, "PACKED_EVERY", 8)
    monkeypatch.setattr(narrowing, "CANDIDATES_AT_ONCE", 1)
    monkeypatch.setattr(narrowing, "EXTENTS_AT_ONCE", 1)
    for start in range(0, 40, 8):
        await write(*measurements(40)[start : start + 8])
    await raw.execute(UNPACKABLE + " WHERE extent = (SELECT max(extent) - 2 FROM extents)")

    now = await provider.transaction_time()
    [shard] = await provider.plan(corpus.view(now), shard_bytes=1 << 30)
    condition = compile_searches([[("status", "final")]])
    read = provider.read_candidates(
        corpus.view(now), shard, condition.prefilter(), batch_bytes=1000
    )
    lines = [line async for batch in read for line in batch.lines]

    assert len(set(lines)) == len(lines) < 40
    assert len([line for line in lines if condition.matches(line)]) == len(
        [
            each
            for each in measurements(40)
            if condition.matches(each.stamped(1, corpus.AN_INSTANT))
        ]
    )


async def test_a_search_by_a_damaged_index_says_what_to_do(provider, write, raw):
    await write(*measurements(300))
    await raw.execute(UNPACKABLE)

    with pytest.raises(BackendError, match="helios migrate"):
        await pages(provider, compile_searches([[("status", "final")]]), SortOrder.ID)
