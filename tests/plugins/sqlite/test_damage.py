"""
Damaged files: none is read as if it were whole.

HFS_TEST_FUZZ_RUNS is how many damaged files are tried of each kind.
"""

import asyncio
import os
import random
import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing

import pytest
from msgspec.structs import replace

from helios_core import BackendError, Level, Put
from helios_core.testing import corpus
from helios_sqlite import SQLiteSettings, migrate, open_data_provider, open_job_store
from helios_sqlite.integrity import Extent
from tests.damage import (
    DAMAGES_OF_FILES,
    MINUTE,
    PAGE_BYTES,
    SEARCHED,
    fill,
    fill_jobs,
    lose_entries,
    read,
    short,
    unnoticed,
    views_of,
)

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "12"))


def settings_of(folder):
    return SQLiteSettings(data_dir=str(folder), synchronous="normal", busy_timeout=0.3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store, and what its views show."""
    folder = tmp_path_factory.mktemp("whole")

    async def build():
        async with open_data_provider(settings_of(folder)) as provider:
            views = await views_of(provider, await fill(provider))
            shown = {name: await read(provider, view, 1 << 22) for name, view in views.items()}
        return views, shown

    views, shown = asyncio.run(build())
    assert all(lines and not damaged for lines, _, damaged in shown.values())
    return folder, views, shown


@pytest.mark.fuzz
@pytest.mark.parametrize("damage", DAMAGES_OF_FILES)
async def test_no_damaged_file_is_read_as_if_it_were_whole(whole, tmp_path, damage):
    """P9: what an export shows is all there was, or it says that something is wrong."""
    folder, views, shown = whole
    intact = (folder / "helios.db").read_bytes()
    for run in range(RUNS):
        seed = f"{damage.__name__}-{run}"
        rng = random.Random(seed)
        content = bytearray(intact)
        damage(content, rng)
        (tmp_path / "helios.db").write_bytes(content)

        silent = await unnoticed(
            open_data_provider(settings_of(tmp_path)), views, shown, rng.choice((1 << 22, 20_000))
        )

        assert (seed, silent) == (seed, [])
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"helios.db{suffix}").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole_jobs(tmp_path_factory):
    """A file of exports without resources."""
    folder = tmp_path_factory.mktemp("jobs")

    async def build():
        async with open_job_store(settings_of(folder)) as store:
            await fill_jobs(store)

    asyncio.run(build())
    return folder / "helios.db"


@pytest.mark.fuzz
@pytest.mark.parametrize("damage", DAMAGES_OF_FILES)
async def test_no_export_in_a_damaged_file_is_complete_and_short(whole_jobs, tmp_path, damage):
    """J15, J20: what is complete has all parts and notes, or it says that some are missing."""
    intact = whole_jobs.read_bytes()
    for run in range(RUNS):
        seed = f"{damage.__name__}-{run}"
        content = bytearray(intact)
        damage(content, random.Random(seed))

        assert (seed, await short_in(tmp_path, content)) == (seed, [])


@pytest.mark.fuzz
async def test_no_export_is_complete_and_short_whatever_a_table_or_index_lacks(
    whole_jobs, tmp_path
):
    """J15, J20: each of them in turn, while all the others are as they were written."""
    intact = whole_jobs.read_bytes()
    with closing(sqlite3.connect(whole_jobs)) as connection:
        pages = connection.execute(
            "SELECT s.name, d.pageno FROM sqlite_schema AS s JOIN dbstat AS d ON d.name = s.name"
        ).fetchall()
    pages_of = defaultdict(list)
    for name, page in pages:
        pages_of[name].append((page - 1) * PAGE_BYTES)
    tried = set()
    for name, places in pages_of.items():
        for run in range(RUNS // 2):
            seed = f"{name}-{run}"
            rng = random.Random(seed)
            content = bytearray(intact)
            for place in places:
                lose_entries(content, place, rng)
            if content == intact:
                break
            tried.add(name)

            assert (seed, await short_in(tmp_path, content)) == (seed, [])
    assert tried >= {"turns", "shards_open", "parts_by_name", "jobs_active", "jobs_listed"}


async def short_in(folder, content):
    """Return which exports of a file are complete and lack something, without a word about it."""
    (folder / "helios.db").write_bytes(content)
    try:
        return await short(open_job_store(settings_of(folder)))
    finally:
        for suffix in ("-wal", "-shm"):
            (folder / f"helios.db{suffix}").unlink(missing_ok=True)


TAMPERING = {
    "rows that are gone": "DELETE FROM versions WHERE seq % 50 = 7",
    "a type that is gone": "DELETE FROM versions WHERE collection = 1",
    "the collection of a type that is gone": "DELETE FROM collections WHERE collection = 2",
    "an extent that is gone": "DELETE FROM extents WHERE extent & 268435455 = 0",
    "contents in each other's place": """
        UPDATE versions
        SET content = other.content, line_hash = other.line_hash, size = other.size
        FROM versions AS other
        WHERE (versions.id, other.id) IN (('p1', 'p61'), ('p61', 'p1'))
          AND versions.collection = other.collection AND versions.version_id = 1
          AND other.version_id = 1""",
    "a version that ended before it did": "UPDATE versions SET until_stamp = since_stamp + 1"
    " WHERE id = 'p100'",
    "an old version that is current again": f"UPDATE versions SET until_stamp = {(1 << 63) - 1}"
    " WHERE id = 'p3' AND version_id = 1",
    "an old version of what is filtered that is current again": "UPDATE versions"
    f" SET until_stamp = {(1 << 63) - 1} WHERE id = 'm7' AND version_id = 1",
    "a version that is not begun yet": f"UPDATE versions SET since_stamp = {(1 << 62)}"
    " WHERE id = 'p100'",
    "a version in no compartment": "UPDATE versions SET patients = '' WHERE id = 'o100'",
    "a deletion that is gone": "DELETE FROM versions WHERE deleted AND id = 'o45'",
    "a compartment without its versions": "DELETE FROM compartments WHERE patient = 'p6'",
    "compartments of one type that are gone": "DELETE FROM compartments WHERE collection = 2"
    " AND patient = 'p9'",
    "one entry of a compartment that is gone": "DELETE FROM compartments WHERE seq = ("
    "SELECT seq FROM versions WHERE id = 'q300')",
    "an entry of a compartment that was of another": "UPDATE compartments SET patient = 'p301'"
    " WHERE seq = (SELECT seq FROM versions WHERE id = 'q300')",
    "an entry of a compartment of nothing": "UPDATE compartments SET seq = seq + 1"
    " WHERE seq = (SELECT max(seq) FROM compartments WHERE patient = 'p300')",
    "compartments and sums of a patient that are gone": "DELETE FROM compartment_sums"
    " WHERE patient = 'p6'; DELETE FROM compartments WHERE patient = 'p6'",
    "counts that say there is nothing": "UPDATE extents SET live = 0, compartment_live = 0",
    "counts that say there is less": "UPDATE extents SET appended = appended - 1",
}


@pytest.mark.parametrize("name", TAMPERING)
@pytest.mark.parametrize("batch_bytes", [1 << 22, 20_000])
async def test_what_was_changed_behind_the_back_is_noticed(whole, tmp_path, name, batch_bytes):
    """P9: whoever did it, and whether or not SQLite finds the file in order."""
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db")) as raw, raw:
        for statement in TAMPERING[name].split(";"):
            assert raw.execute(statement).rowcount

    assert (
        await unnoticed(open_data_provider(settings_of(tmp_path)), views, shown, batch_bytes) == []
    )


OF_INDEX = {
    "postings that are gone": "DELETE FROM postings WHERE term % 3 = 0",
    "one posting that is gone": "DELETE FROM postings WHERE more IS NOT NULL AND term = ("
    "SELECT term FROM postings GROUP BY term ORDER BY count(*) DESC LIMIT 1)",
    "no posting left": "DELETE FROM postings",
    "terms that are others": "UPDATE postings SET term = term + 1",
    "places that are others": "UPDATE postings SET more = zeroblob(length(more))",
    "versions that could be read": "DELETE FROM postings WHERE term = 0",
    "spans that are gone": "DELETE FROM spans WHERE place % 7 = 3",
    "no span left": "DELETE FROM spans",
    "spans of another time": "UPDATE spans SET low = low - 3000000000000000 WHERE place % 7 = 3",
    "spans of each other": "UPDATE OR REPLACE spans SET place = place / 2 * 2",
    "sums that are gone": "DELETE FROM index_sums WHERE bucket % 2 = 0",
    "sums that are others": "UPDATE index_sums SET sum = sum + 1",
    "sums of sums that are gone": "UPDATE extents SET index_sum = 0",
}


OF_COMPARTMENTS = {
    "sums that are gone": "DELETE FROM compartment_sums WHERE patient = 'p6'",
    "sums that are all gone": "DELETE FROM compartment_sums",
    "sums of one block that are gone": "DELETE FROM compartment_sums"
    " WHERE (patient, block) IN (SELECT 'p9', max(block) FROM compartment_sums)",
    "sums that are others": "UPDATE compartment_sums SET sum = sum + 1",
    "sums of each other": "UPDATE OR REPLACE compartment_sums SET patient = 'p6'"
    " WHERE patient = 'p9'",
    "compartments that are gone": "DELETE FROM compartments WHERE patient = 'p9'",
    "compartments of each other": "UPDATE compartments SET patient = 'p6' WHERE patient = 'p7'",
}


@pytest.mark.parametrize("name", OF_COMPARTMENTS)
async def test_compartments_and_sums_that_differ_cost_no_resource(whole, tmp_path, name):
    """P4, P9: what a cohort has is then read from the versions, which have sums of their own."""
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db")) as raw, raw:
        assert raw.execute(OF_COMPARTMENTS[name]).rowcount

    async with open_data_provider(settings_of(tmp_path)) as provider:
        for key, view in views.items():
            assert await read(provider, view, 20_000) == shown[key]


@pytest.fixture
async def large(settings, write, monkeypatch):
    """A store of 40 extents a type, in which each patient has something in two blocks."""
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_ROWS", 10)
    await write(*(corpus.patient(f"p{n}") for n in range(200)))
    await write(*(corpus.observation(f"o{n}", f"p{n}") for n in range(200)))
    await write(*(corpus.observation(f"q{n}", f"p{n}") for n in range(200)))
    return settings


LOST = {
    "all of a patient": "DELETE FROM compartments WHERE patient = 'p7'",
    "all of a patient, sums as well": "DELETE FROM compartment_sums WHERE patient = 'p7';"
    "DELETE FROM compartments WHERE patient = 'p7'",
    "all of a type": "DELETE FROM compartments WHERE collection = 2",
    "one entry": "DELETE FROM compartments WHERE seq = (SELECT max(seq) FROM compartments"
    " WHERE patient = 'p7')",
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("members", [{"p7"}, {f"p{n}" for n in range(0, 200, 7)}])
async def test_what_compartments_lack_is_noticed_in_stores_of_any_size(
    large, provider, raw, name, members
):
    """P4, P9: it costs by the cohort, not by the store."""
    now = await provider.transaction_time()
    view = corpus.view(now, corpus.request(level=Level.GROUP), patients=members)
    shown = await read(provider, view, 1 << 20)
    assert len(shown[0]) == 3 * len(members)
    assert raw.execute("SELECT count(*) FROM extents").fetchone()[0] == 60

    raw.executescript(LOST[name])

    assert await read(provider, view, 1 << 20) == shown


async def test_a_version_of_a_cohort_that_is_altered_is_noticed_in_a_large_store(
    large, provider, raw
):
    now = await provider.transaction_time()
    view = corpus.view(now, corpus.request(level=Level.GROUP), patients={"p7"})
    raw.execute("UPDATE versions SET until_stamp = since_stamp + 1 WHERE id = 'o7'")

    [damaged] = (await read(provider, view, 1 << 20))[2]

    assert (damaged.resource_type, damaged.id) == ("Observation", "(unknown)")


async def test_a_sound_cohort_is_read_without_going_through_the_extents(
    large, provider, monkeypatch
):
    now = await provider.transaction_time()
    view = corpus.view(now, corpus.request(level=Level.GROUP), patients={"p7"})
    monkeypatch.setattr(Extent, "count_of_damaged", None)

    assert len((await read(provider, view, 1 << 20))[0]) == 3


async def test_deletions_of_a_damaged_cohort_are_not_told(large, provider, write, delete, raw):
    """P9: a client would keep what is gone."""
    before = await provider.transaction_time()
    await write(delete(corpus.observation("o7", "p7")))
    now = await provider.transaction_time()
    view = corpus.view(now, corpus.request(level=Level.GROUP, since=before), patients={"p7"})
    assert (await read(provider, view, 1 << 20))[1] == ["Observation/o7"]
    raw.execute("DELETE FROM versions WHERE deleted")

    with pytest.raises(BackendError, match="deletions of Observation may be missing"):
        await read(provider, view, 1 << 20)


@pytest.fixture(scope="module")
def searched(whole):
    """What searches find in the store."""
    folder, views, shown = whole

    async def search():
        async with open_data_provider(settings_of(folder)) as provider:
            return {name: await read(provider, each, 0) for name, each in SEARCHED.items()}

    found = asyncio.run(search())
    assert all(lines for lines, _, _ in found.values())
    return folder, views | SEARCHED, shown | found


@pytest.mark.parametrize("name", OF_INDEX)
async def test_what_the_search_index_lacks_is_noticed(searched, tmp_path, name):
    """P5, P9: an export does without it and a search fails; neither shows less."""
    folder, views, shown = searched
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db")) as raw, raw:
        changed = raw.execute(OF_INDEX[name]).rowcount
        assert changed or name == "versions that could be read"

    assert await unnoticed(open_data_provider(settings_of(tmp_path)), views, shown, 20_000) == []
    async with open_data_provider(settings_of(tmp_path)) as provider:
        for key, view in views.items():
            if key not in SEARCHED:
                assert await read(provider, view, 20_000) == shown[key]


async def test_stores_of_earlier_versions_are_read_without_a_word(whole, tmp_path):
    """Their extents have counts and no sums."""
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db")) as raw, raw:
        raw.execute(
            "UPDATE extents SET live_hash = NULL, compartment_hash = NULL, row_sum = NULL,"
            " check_sum = NULL"
        )

    async with open_data_provider(settings_of(tmp_path)) as provider:
        await provider.write(
            corpus.TENANT, corpus.VERSION, [Put(resource=corpus.patient("later"))]
        )
        for name, view in views.items():
            assert await read(provider, view, 1 << 22) == shown[name]
        later = replace(views["system"], transaction_time=await provider.transaction_time())
        lines, _, damaged = await read(provider, later, 1 << 22)
        assert (len(lines), damaged) == (len(shown["system"][0]) + 1, [])


WITHOUT_SUMS = (
    "UPDATE extents SET live_hash = NULL, compartment_hash = NULL, row_sum = NULL,"
    " check_sum = NULL"
)


async def test_a_migration_adds_the_sums_of_earlier_versions(whole, tmp_path):
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db", isolation_level=None)) as raw:
        before = raw.execute("SELECT * FROM extents ORDER BY extent").fetchall()
        raw.execute(WITHOUT_SUMS)

        await migrate(settings_of(tmp_path))

        assert raw.execute("SELECT * FROM extents ORDER BY extent").fetchall() == before
        raw.execute(TAMPERING["a version that is not begun yet"])
    assert await unnoticed(open_data_provider(settings_of(tmp_path)), views, shown, 1 << 22) == []


async def test_a_migration_confirms_no_damage(whole, tmp_path):
    """What was lost before there were sums is not taken for all there was."""
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db", isolation_level=None)) as raw:
        raw.execute(WITHOUT_SUMS)
        raw.execute(TAMPERING["rows that are gone"])

    await migrate(settings_of(tmp_path))

    assert await unnoticed(open_data_provider(settings_of(tmp_path)), views, shown, 1 << 22) == []


@pytest.mark.parametrize("lost", [None, "rows that are gone"])
async def test_a_migration_sums_what_patients_have(whole, tmp_path, lost):
    """What is lost already is not taken for all there was, whosever it was."""
    folder, views, shown = whole
    shutil.copy(folder / "helios.db", tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db", isolation_level=None)) as raw:
        before = raw.execute("SELECT * FROM compartment_sums").fetchall()
        raw.execute("DROP TABLE compartment_sums")
        raw.execute("PRAGMA user_version = 11")
        if lost:
            raw.execute(
                "DELETE FROM compartments WHERE seq IN"
                " (SELECT seq FROM versions WHERE seq % 50 = 7)"
            )
            raw.execute(TAMPERING[lost])

        await migrate(settings_of(tmp_path))

        after = raw.execute("SELECT * FROM compartment_sums").fetchall()
        assert (after == before) is (lost is None)
    silent = await unnoticed(open_data_provider(settings_of(tmp_path)), views, shown, 1 << 22)
    assert silent == []


@pytest.mark.parametrize(
    ("table", "ask"),
    [
        ("turns", lambda store: store.claim("worker", lease_for=MINUTE, max_attempts=3)),
        ("workers", lambda store: store.workforce()),
    ],
)
async def test_no_job_is_blamed_for_a_damaged_table_that_all_share(
    whole_jobs, tmp_path, table, ask
):
    content = bytearray(whole_jobs.read_bytes())
    with closing(sqlite3.connect(whole_jobs)) as connection:
        pages = connection.execute("SELECT pageno FROM dbstat WHERE name = ?", [table])
        for (page,) in pages.fetchall():
            content[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = b"\xff" * PAGE_BYTES
    (tmp_path / "helios.db").write_bytes(content)

    async with open_job_store(settings_of(tmp_path)) as store:
        with pytest.raises(BackendError, match=rf"its table {table}, .*; run PRAGMA"):
            await ask(store)

        assert not store.unreadable


async def test_turns_go_on_after_a_count_that_cannot_grow(whole_jobs, tmp_path):
    shutil.copy(whole_jobs, tmp_path / "helios.db")
    with closing(sqlite3.connect(tmp_path / "helios.db")) as connection, connection:
        connection.execute("UPDATE turns SET served = ?", [2**63 - 1])

    async with open_job_store(settings_of(tmp_path)) as store:
        for _ in range(3):
            assert await store.claim("worker", lease_for=MINUTE, max_attempts=3)

        assert not store.unreadable
