import sqlite3
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from helios_core import BackendError, BackendUnavailable, JoinedLines, Level, Put
from helios_core.testing import corpus
from helios_sqlite import open_data_provider, reading

MEBIBYTE = 1 << 20
PAGE_BYTES = 8192


def names(lines):
    return sorted(line.split(b'"id":"')[1].split(b'"')[0].decode() for line in lines)


async def only_shard(provider, shown):
    [shard] = await provider.plan(shown, shard_bytes=1 << 30)
    return shard


async def test_what_is_stored_is_what_is_read(provider, write, lines, raw):
    await write(*(corpus.patient(f"p{n}") for n in range(100)))

    found, _ = await lines(corpus.view(await provider.transaction_time()), batch_bytes=1000)

    stored = raw.execute("SELECT content FROM versions ORDER BY seq").fetchall()
    assert found == [content for (content,) in stored]


@pytest.mark.parametrize("patients", [None, {"p1", "p2", "p99"}])
async def test_lines_that_are_whole_come_as_sqlite_has_joined_them(provider, write, patients):
    """Line by line, which is what is left where something is damaged, takes twice as long."""
    await write(*(corpus.patient(f"p{n}") for n in range(100)))
    shown = corpus.view(await provider.transaction_time(), patients=patients)
    shard = await only_shard(provider, shown)

    batches = [batch async for batch in provider.read(shown, shard, batch_bytes=MEBIBYTE)]

    assert [type(batch.lines) for batch in batches] == [JoinedLines]


async def test_a_resource_larger_than_a_batch_comes_alone(provider, write):
    await write(
        corpus.patient("a"),
        corpus.patient("b", note="x" * MEBIBYTE),
        corpus.patient("c"),
        corpus.patient("d"),
    )
    shown = corpus.view(await provider.transaction_time())
    shard = await only_shard(provider, shown)

    batches = [batch async for batch in provider.read(shown, shard, batch_bytes=1000)]

    assert [names(batch.lines) for batch in batches] == [["a"], ["b"], ["c", "d"]]


async def test_the_log_can_be_emptied_while_a_shard_is_read(provider, write, raw):
    """A reader that kept its transaction between batches would make the log grow without end."""
    await write(*(corpus.patient(f"p{n}") for n in range(20)))
    shown = corpus.view(await provider.transaction_time())
    shard = await only_shard(provider, shown)

    async with aclosing(provider.read(shown, shard, batch_bytes=500)) as batches:
        await anext(batches)
        busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    assert busy == 0


async def test_a_reader_comes_back_when_a_read_is_given_up(provider, write):
    await write(*(corpus.patient(f"p{n}") for n in range(20)))
    shown = corpus.view(await provider.transaction_time())
    shard = await only_shard(provider, shown)

    for _ in range(5):
        async with aclosing(provider.read(shown, shard, batch_bytes=500)) as batches:
            await anext(batches)

    assert len(provider._database._idle) == 1


async def test_a_cohort_is_sent_once_for_many_shards(provider, write, monkeypatch):
    """P4."""
    sent = []
    load = reading._load

    def counting(reader, cohort):
        sent.append(reader.cohort_key != cohort.key)
        load(reader, cohort)

    monkeypatch.setattr(reading, "_load", counting)
    await write(*(corpus.patient(f"p{n}", note="x" * 500) for n in range(50)))
    everybody = {f"p{n}" for n in range(50)}
    now = await provider.transaction_time()
    shown = corpus.view(now, corpus.request(level=Level.GROUP), patients=everybody)
    other = corpus.view(now, corpus.request(level=Level.GROUP), patients={"p1"})

    async with (
        aclosing(provider.read(other, await only_shard(provider, other), batch_bytes=1)) as held,
    ):
        await anext(held)
        for shard in await provider.plan(shown, shard_bytes=5000):
            async for _ in provider.read(shown, shard, batch_bytes=MEBIBYTE):
                pass

    assert len(sent) > 5
    assert sum(sent) == 2


async def test_content_that_is_missing_is_reported(provider, write, lines, raw):
    await write(corpus.patient("p1"), corpus.patient("p2"))
    raw.execute("UPDATE versions SET content = NULL WHERE id = 'p1'")

    found, damaged = await lines(corpus.view(await provider.transaction_time()))

    assert names(found) == ["p2"]
    assert [(each.resource_type, each.id) for each in damaged] == [("Patient", "p1")]
    assert "missing" in damaged[0].reason


async def test_large_content_that_is_missing_is_reported(provider, write, lines, raw):
    await write(corpus.patient("p1", note="x" * 5000), corpus.patient("p2"))
    raw.execute("UPDATE versions SET content = NULL WHERE id = 'p1'")

    found, damaged = await lines(corpus.view(await provider.transaction_time()), batch_bytes=1000)

    assert (names(found), [each.id for each in damaged]) == (["p2"], ["p1"])


async def test_no_reason_shows_what_is_stored(provider, write, lines, raw):
    await write(corpus.patient("p1", note="canary"))
    raw.execute("UPDATE versions SET content = CAST('canary' AS BLOB)")

    _, [damaged] = await lines(corpus.view(await provider.transaction_time()))

    assert "canary" not in damaged.reason


async def test_much_damage_comes_in_bounded_batches(provider, write, raw, monkeypatch):
    monkeypatch.setattr(reading, "DAMAGED_AT_ONCE", 7)
    await write(*(corpus.patient(f"p{n}") for n in range(20)))
    raw.execute("UPDATE versions SET content = NULL")
    shown = corpus.view(await provider.transaction_time())
    shard = await only_shard(provider, shown)

    batches = [batch async for batch in provider.read(shown, shard, batch_bytes=MEBIBYTE)]

    assert [len(batch.damaged) for batch in batches] == [7, 7, 6]


async def test_damaged_content_is_not_served_either(provider, write, raw):
    await write(corpus.patient("p1", note="canary"))
    raw.execute("UPDATE versions SET content = CAST('canary' AS BLOB)")

    with pytest.raises(BackendError, match="damaged") as raised:
        await provider.get(corpus.type_key("Patient").resource("p1"))

    assert "canary" not in str(raised.value)


def spoil(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xff" * 100)


@pytest.fixture
async def broken(settings, monkeypatch):
    """A store of 60 patients, one page of which is unreadable; gives the ids on that page."""
    monkeypatch.setattr(reading, "KEYS_AT_ONCE", 16)
    async with open_data_provider(settings) as provider:
        for start in range(0, 60, 20):
            people = [
                corpus.patient(f"p{n:02}", note="x" * 1000) for n in range(start, start + 20)
            ]
            watch = [corpus.observation(f"o{n:02}", f"p{n:02}") for n in range(start, start + 20)]
            await provider.write(corpus.TENANT, corpus.VERSION, _puts(people + watch))
    content = settings.path.read_bytes()
    page = content.index(b'"id":"p30"') // PAGE_BYTES + 1
    on_page = content[(page - 1) * PAGE_BYTES : page * PAGE_BYTES]
    spoil(settings.path, page)
    return names(part for part in on_page.split(b'{"resourceType"') if b'"id":"' in part)


def _puts(resources):
    return [Put(resource=resource) for resource in resources]


@pytest.mark.parametrize("level", [Level.SYSTEM, Level.PATIENT, Level.GROUP])
async def test_an_unreadable_page_costs_only_what_is_on_it(broken, settings, level):
    """P6: the rest of the shard is read, and what is lost is named."""
    assert 2 < len(broken) < 20
    everybody = {f"p{n:02}" for n in range(60)} if level is Level.GROUP else None
    async with open_data_provider(settings) as provider:
        now = await provider.transaction_time()
        shown = corpus.view(
            now, corpus.request(level=level, types=["Patient"]), patients=everybody
        )
        shard = await only_shard(provider, shown)
        batches = [batch async for batch in provider.read(shown, shard, batch_bytes=4000)]

    found = names(line for batch in batches for line in batch.lines)
    reported = [damaged.id for batch in batches for damaged in batch.damaged]
    lost = sorted(each for each in reported if each != "(unknown)")
    assert len(lost) < len(reported)  # what is not named may be out of date
    assert set(broken) <= set(lost)
    assert sorted(found + lost) == [f"p{n:02}" for n in range(60)]
    assert len(lost) < 20


async def test_other_errors_of_the_database_are_not_taken_for_damage(provider, write, raw):
    await write(corpus.patient("p1"))
    shown = corpus.view(await provider.transaction_time())
    shard = await only_shard(provider, shown)
    raw.execute("ALTER TABLE versions RENAME TO elsewhere")

    with pytest.raises(BackendUnavailable, match="SQLITE_ERROR"):
        [batch async for batch in provider.read(shown, shard, batch_bytes=1000)]


async def test_an_index_that_is_unreadable_is_an_error_of_the_backend(settings, provider, write):
    await write(*(corpus.patient(f"p{n}") for n in range(500)))
    await provider._database.write(
        lambda connection: connection.execute("SELECT 1").fetchone(),
    )
    with closing(sqlite3.connect(settings.path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = raw.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'versions_by_id'"
        ).fetchone()[0]
    spoil(settings.path, root)

    async with open_data_provider(settings) as another:
        with pytest.raises(BackendError, match="integrity_check"):
            await another.get(corpus.type_key("Patient").resource("p1"))


def sizes_of(batches):
    return [sum(map(len, batch.lines)) for batch in batches]


async def cohort_batches(provider, ids):
    now = await provider.transaction_time()
    shown = corpus.view(now, corpus.request(level=Level.GROUP, types=["Patient"]), patients=ids)
    shard = await only_shard(provider, shown)
    return [batch async for batch in provider.read(shown, shard, batch_bytes=4 * MEBIBYTE)]


async def test_the_little_a_cohort_has_in_several_extents_comes_in_one_batch(provider, write, raw):
    people = [corpus.patient(f"p{n:02}", note="x" * 300_000) for n in range(60)]
    for start in range(0, 60, 10):
        await write(*people[start : start + 10])
    ids = {f"p{n:02}" for n in range(0, 60, 12)}

    batches = await cohort_batches(provider, ids)

    assert raw.execute("SELECT count(*) FROM extents").fetchone()[0] >= 5
    assert len(batches) == 1
    assert names(batches[0].lines) == sorted(ids)


async def test_a_cohort_of_large_resources_among_small_ones_keeps_to_the_limit(
    provider, write, raw
):
    """What the extents' averages promise is little; what is there is much."""
    large = {f"large{n}" for n in range(6)}
    for each in sorted(large):
        small = [corpus.patient(f"{each}-{n:03}", note="x" * 100) for n in range(200)]
        await write(corpus.patient(each, note="x" * 3 * MEBIBYTE), *small)

    batches = await cohort_batches(provider, large)

    assert raw.execute("SELECT count(*) FROM extents").fetchone()[0] >= 5
    assert max(sizes_of(batches)) <= 4 * MEBIBYTE
    assert names(line for batch in batches for line in batch.lines) == sorted(large)
