import asyncio
import random
import sqlite3
import time

import pytest

from helios_core import COLLECTION_BITS, BackendUnavailable, ChangeResult, Delete, Put
from helios_core.fhir import FOREVER
from helios_core.testing import corpus
from helios_sqlite import open_data_provider
from helios_sqlite.databases import Database

RECOUNT = """
SELECT seq >> 12, count(*), total(size),
  total(until_stamp = ?1 AND NOT deleted),
  total(size * (until_stamp = ?1)),
  total(until_stamp = ?1 AND NOT deleted AND patients <> ''),
  total(size * (until_stamp = ?1 AND patients <> ''))
FROM versions GROUP BY 1 ORDER BY 1
"""
COUNTED = """
SELECT extent, appended, appended_bytes, live, live_bytes, compartment_live, compartment_bytes
FROM extents ORDER BY extent
"""


async def test_the_counts_of_extents_are_those_of_the_versions(write, raw, monkeypatch):
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_ROWS", 16)
    chance = random.Random(7)
    for _ in range(60):
        changes = []
        for number in chance.choices(range(12), k=chance.randint(1, 9)):
            made = chance.choice(
                [
                    corpus.patient(f"p{number}", note=str(chance.random())),
                    corpus.observation(f"o{number}", f"p{number}", note=str(chance.random())),
                    corpus.organization(f"org{number}", note=str(chance.random())),
                ]
            )
            changes.append(
                Delete(resource_type=made.resource_type, id=made.id)
                if chance.random() < 0.3
                else Put(resource=made)
            )
        await write(*changes)

    recounted = raw.execute(RECOUNT, (FOREVER,)).fetchall()

    assert raw.execute(COUNTED).fetchall() == [tuple(map(int, row)) for row in recounted]
    assert len(recounted) > 6


async def test_seqs_ascend_with_stamps_within_a_collection(write, raw, monkeypatch):
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_BYTES", 500)
    for round_ in range(10):
        await write(
            corpus.patient("p1", note=str(round_)), corpus.organization("o", note=str(round_))
        )

    rows = raw.execute("SELECT collection, since_stamp FROM versions ORDER BY seq").fetchall()

    assert rows == sorted(rows)
    assert {seq >> COLLECTION_BITS for (seq,) in raw.execute("SELECT seq FROM versions")} == {
        1,
        2,
    }


async def test_ending_a_version_leaves_its_content_where_it_is(write, raw):
    await write(corpus.patient("p1"))
    before = raw.execute("SELECT length(until_stamp), content FROM versions").fetchall()

    await write(corpus.patient("p1", note="new"))

    ended = raw.execute("SELECT until_stamp, content FROM versions ORDER BY seq").fetchall()[0]
    assert ended[0] < FOREVER
    assert ended[1] == before[0][1]


async def test_an_unchanged_write_touches_nothing(write, raw):
    await write(corpus.patient("p1"))
    before = list(raw.iterdump())

    [applied] = await write(corpus.patient("p1"))

    assert applied.outcome is ChangeResult.UNCHANGED
    assert list(raw.iterdump()) == before


async def test_deleting_what_never_was_leaves_no_trace(write, raw):
    await write(Delete(resource_type="Patient", id="nobody"))

    assert raw.execute("SELECT count(*) FROM collections").fetchone() == (0,)


async def test_a_deletion_stays_in_the_compartments_of_what_it_ended(write, raw, delete):
    resource = corpus.observation("o1", "p1")
    await write(resource)
    await write(delete(resource))

    rows = raw.execute("SELECT patient, count(*) FROM compartments GROUP BY patient").fetchall()

    assert rows == [("p1", 2)]


async def test_stamps_of_two_processes_never_cross(settings):
    stamps = []

    async def work(provider, name):
        for number in range(25):
            put = Put(resource=corpus.patient(f"{name}{number}"))
            [applied] = await provider.write(corpus.TENANT, corpus.VERSION, [put])
            stamps.append(applied.last_updated)
            stamps.append(await provider.transaction_time())

    async with open_data_provider(settings) as one, open_data_provider(settings) as two:
        await asyncio.gather(work(one, "a"), work(two, "b"))
        last = await one.transaction_time()
        put = Put(resource=corpus.patient("last"))
        [applied] = await two.write(corpus.TENANT, corpus.VERSION, [put])

    assert max(stamps) <= last < applied.last_updated


async def test_a_writer_waits_for_another_process(write, raw, monkeypatch):
    raw.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(write(corpus.patient("p1")))
    await asyncio.sleep(0.1)
    assert not writing.done()
    raw.execute("COMMIT")

    [applied] = await writing

    assert applied.outcome is ChangeResult.CREATED


async def test_a_writer_that_waited_too_long_says_so_and_changes_nothing(impatient, raw):
    async with open_data_provider(impatient) as provider:
        raw.execute("BEGIN IMMEDIATE")
        started = time.monotonic()

        with pytest.raises(BackendUnavailable, match="writing"):
            await provider.write(
                corpus.TENANT, corpus.VERSION, [Put(resource=corpus.patient("p1"))]
            )

        assert time.monotonic() - started > 0.25
        raw.execute("ROLLBACK")
    assert raw.execute("SELECT count(*) FROM versions").fetchone() == (0,)


async def test_reading_goes_on_while_another_process_writes(provider, write, raw):
    await write(corpus.patient("p1"))
    raw.execute("BEGIN IMMEDIATE")

    found = await provider.get(corpus.type_key("Patient").resource("p1"))

    assert found is not None


async def test_a_full_disk_is_told_and_changes_nothing(provider, write, raw):
    await write(corpus.patient("p1"))
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    await provider._database.write(sqlite3.Connection.execute, f"PRAGMA max_page_count = {pages}")

    with pytest.raises(BackendUnavailable, match="disk is full"):
        await write(*(corpus.patient(f"p{number}", note="x" * 5000) for number in range(100)))

    await provider._database.write(sqlite3.Connection.execute, "PRAGMA max_page_count = 100000")
    assert raw.execute("SELECT count(*) FROM versions").fetchone() == (1,)
    [applied] = await write(corpus.patient("p2"))
    assert applied.outcome is ChangeResult.CREATED


async def test_writes_that_wait_together_are_all_done(provider):
    async def one(number):
        put = Put(resource=corpus.patient(f"p{number}"))
        return await provider.write(corpus.TENANT, corpus.VERSION, [put])

    applied = await asyncio.gather(*(one(number) for number in range(50)))

    assert len({version.last_updated for [version] in applied}) == 50


async def test_a_cancelled_write_is_whole_or_absent(settings, provider, write, raw):
    writing = asyncio.ensure_future(write(*(corpus.patient(f"p{n}") for n in range(2000))))
    await asyncio.sleep(0.001)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    await write(corpus.patient("after"))

    assert raw.execute("SELECT count(*) FROM versions").fetchone()[0] in {1, 2001}


async def test_a_power_cut_is_survived_by_default(settings):
    async with Database(type(settings)(data_dir=settings.data_dir)).opened() as database:
        level = await database.write(
            lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]
        )

    assert level == 2
