"""
Tables that were changed behind the back: none is read as if it were whole.

HFS_TEST_FUZZ_RUNS is how many damaged files are tried of each kind.
"""

import asyncio
import os
import random
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helios_core import COLLECTION_BITS, BackendError, Delete, Level, Secret
from helios_core.testing import corpus, write
from helios_postgres import (
    PostgresSettings,
    integrity,
    migrate,
    open_data_provider,
    open_job_store,
)
from tests.damage import (
    PAGE_BYTES,
    SEARCHED,
    complete_next,
    fill,
    fill_jobs,
    read,
    short,
    unnoticed,
    views_of,
)
from tests.plugins.postgres.connecting import connected
from tests.services import absent

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "1"))

OF_PATIENTS = (
    f"seq >> {COLLECTION_BITS} = (SELECT collection FROM collections"
    " WHERE resource_type = 'Patient')"
)
UNTENDED = "UPDATE pg_index SET indisready = {}, indisvalid = {} WHERE indexrelid = '{}'::regclass"


def lacking(index, change):
    """Let an index miss a change, as one that is corrupt does."""
    return [
        UNTENDED.format("false", "false", index),
        *change,
        UNTENDED.format("true", "true", index),
    ]


def again(table, condition):
    """Move rows of a table to where an index does not know them."""
    return [
        f"CREATE TEMP TABLE kept AS SELECT * FROM {table} WHERE {condition}",
        f"DELETE FROM {table} WHERE {condition}",
        f"INSERT INTO {table} SELECT * FROM kept",
    ]


TAMPERING = {
    "rows that are gone": ["DELETE FROM versions WHERE seq % 50 = 7"],
    "a type that is gone": [f"DELETE FROM versions WHERE {OF_PATIENTS}"],
    "an extent that is gone": [
        "DELETE FROM extents WHERE extent = (SELECT min(extent) FROM extents)"
    ],
    "tallies that are gone": ["DELETE FROM tallies"],
    "an ending that is gone": ["DELETE FROM endings WHERE id = 'p3'"],
    "an ending of what is filtered that is gone": ["DELETE FROM endings WHERE id = 'm7'"],
    "an ending too many": [
        f"""INSERT INTO endings SELECT seq, since_stamp + 1, 1, version_id, id FROM versions
        WHERE id = 'p100' AND {OF_PATIENTS}"""
    ],
    "one content twice": [
        """UPDATE versions SET content = o.content, line_hash = o.line_hash, size = o.size
        FROM versions o WHERE versions.id = 'p101' AND o.id = 'p102'"""
    ],
    "a version that is not begun yet": [
        "UPDATE versions SET since_stamp = 1 << 40 WHERE id = 'p100'",
    ],
    "a version in no compartment": ["UPDATE versions SET patients = '' WHERE id = 'o100'"],
    "a deletion that is gone": ["DELETE FROM versions WHERE deleted AND id = 'o45'"],
    "a compartment without its versions": ["DELETE FROM compartments WHERE patient = 'p6'"],
    "one entry of a compartment that is gone": [
        "DELETE FROM compartments WHERE seq = (SELECT seq FROM versions WHERE id = 'q300')"
    ],
    "an entry of a compartment that was of another": [
        """UPDATE compartments SET patient = 'p301'
        WHERE seq = (SELECT seq FROM versions WHERE id = 'q300')"""
    ],
    "compartments and sums of a patient that are gone": [
        "DELETE FROM compartment_sums WHERE patient = 'p6'",
        "DELETE FROM compartments WHERE patient = 'p6'",
    ],
    "counts that say there is nothing": ["UPDATE extents SET begun = 0, compartment_begun = 0"],
    "stamps that say it is later": ["UPDATE extents SET first_stamp = first_stamp + (1 << 50)"],
    "an index that lacks versions": lacking("versions_pkey", again("versions", "seq % 50 = 7")),
    "an index that lacks endings": lacking("endings_pkey", again("endings", "id = 'p3'")),
    "an index that lacks extents": lacking("extents_pkey", again("extents", "true")),
    "an index that lacks compartments": lacking(
        "compartments_pkey", again("compartments", "patient = 'p6'")
    ),
    "an index that lacks a collection": lacking(
        "collections_tenant_fhir_version_resource_type_key",
        ["UPDATE collections SET fhir_version = fhir_version WHERE resource_type = 'Patient'"],
    ),
}


@pytest.fixture(scope="module")
def filled(postgres_server):
    """A store, and what its views show."""
    with postgres_server.database(migrated=True) as url:

        async def build():
            async with open_data_provider(PostgresSettings(database_url=Secret(url))) as provider:
                views = await views_of(provider, await fill(provider))
                shown = {
                    name: await read(provider, view, 1 << 22)
                    for name, view in (views | SEARCHED).items()
                }
            return views, shown

        views, shown = asyncio.run(build())
        assert all(lines and not damaged for lines, _, damaged in shown.values())
        yield url, views, shown


@pytest.fixture
def whole(filled, postgres_server):
    """A copy of the store of this test's own."""
    like, views, shown = filled
    with postgres_server.database(like=like) as url:
        yield PostgresSettings(database_url=Secret(url)), dict(views), shown


@pytest.mark.service
@pytest.mark.parametrize("name", TAMPERING)
async def test_what_was_changed_behind_the_back_is_noticed(whole, name):
    """P9: whoever did it, and whether or not PostgreSQL finds its tables in order."""
    settings, views, shown = whole
    async with connected(settings) as connection:
        for statement in TAMPERING[name]:
            await connection.execute(statement)

    for batch_bytes in (1 << 22, 20_000):
        opened = open_data_provider(settings)
        assert await unnoticed(opened, views, shown, batch_bytes) == []


@pytest.fixture(scope="module")
def filled_jobs(postgres_server):
    """Exports, none of which was damaged."""
    with postgres_server.database(migrated=True) as url:

        async def build():
            async with open_job_store(PostgresSettings(database_url=Secret(url))) as store:
                await fill_jobs(store)

        asyncio.run(build())
        yield url


def header_zeroed(page, rng):
    """Make a page one that PostgreSQL refuses."""
    page[:HEADER_BYTES] = bytes(HEADER_BYTES)


def zeroed(page, rng):
    """Make a page one that PostgreSQL takes for a new one."""
    page[:] = bytes(len(page))


def entries_gone(page, rng):
    """Take one entry, half of them or all from a page."""
    end = int.from_bytes(page[12:14], "little")
    entries = (end - HEADER_BYTES) // 4
    if entries > 0:
        kept = rng.choice((0, entries // 2, entries - 1))
        page[12:14] = (HEADER_BYTES + 4 * kept).to_bytes(2, "little")


PAGE_DAMAGES = [header_zeroed, zeroed, entries_gone]
HEADER_BYTES = 24
OF_RESOURCES = (
    *("versions", "endings", "extents", "tallies", "compartments", "collections"),
    *("versions_pkey", "endings_pkey", "endings_by_id", "extents_pkey", "postings"),
)
OF_JOBS = (
    *("jobs", "shards", "parts", "notes", "turns", "jobs_active", "jobs_tenant_id_key"),
    *("shards_pkey", "shards_open", "parts_pkey", "notes_pkey"),
)


async def file_of(like, url, relation):
    """Return the path of the file of a relation in a database, asked where it is copied from."""
    name = urlsplit(url).path.removeprefix("/")
    async with connected(PostgresSettings(database_url=Secret(like))) as connection:
        folder = await connection.fetchval("SHOW data_directory")
        database = await connection.fetchval(
            "SELECT oid FROM pg_database WHERE datname = $1", name
        )
        number = await connection.fetchval(
            "SELECT pg_relation_filenode($1::text::regclass)", relation
        )
    return Path(folder, "base", str(database), str(number))


def damage_file(path, damage, rng):
    """Damage a page of a file, or all."""
    content = path.read_bytes()
    pages = [
        bytearray(content[start : start + PAGE_BYTES])
        for start in range(0, len(content), PAGE_BYTES)
    ]
    for page in rng.choice((pages, [rng.choice(pages)])):
        damage(page, rng)
    path.write_bytes(b"".join(pages))


@pytest.fixture
def copies(postgres_server):
    """Provide copies of a database with damage to a relation, which no session has read yet."""
    if not postgres_server.restartable:
        absent("the files of HFS_TEST_POSTGRES_URL are not ours to damage", obtainable=False)

    def copies(like, relation, damage):
        for run in range(RUNS):
            seed = f"{relation}-{damage.__name__}-{run}"
            with postgres_server.database(like=like) as url:
                path = asyncio.run(file_of(like, url, relation))
                damage_file(path, damage, random.Random(seed))
                yield seed, PostgresSettings(database_url=Secret(url))

    return copies


@pytest.mark.in_turn
@pytest.mark.service
@pytest.mark.fuzz
@pytest.mark.parametrize("damage", PAGE_DAMAGES)
@pytest.mark.parametrize("relation", OF_RESOURCES)
def test_no_damaged_page_is_read_as_if_it_were_whole(filled, copies, relation, damage):
    """P9: what an export shows is all there was, or it says that something is wrong."""
    like, views, shown = filled
    for seed, settings in copies(like, relation, damage):
        silent = asyncio.run(unnoticed(open_data_provider(settings), views, shown, 1 << 22))

        assert (seed, silent) == (seed, [])


@pytest.mark.in_turn
@pytest.mark.service
@pytest.mark.fuzz
@pytest.mark.parametrize("damage", PAGE_DAMAGES)
@pytest.mark.parametrize("relation", OF_JOBS)
def test_no_export_on_a_damaged_page_is_complete_and_short(filled_jobs, copies, relation, damage):
    """J15, J20: what is complete has all parts and notes, or it says that some are missing."""
    for seed, settings in copies(filled_jobs, relation, damage):
        silent = asyncio.run(short(open_job_store(settings)))

        assert (seed, silent) == (seed, [])


@pytest.mark.service
@pytest.mark.parametrize("relation", ["turns", "turns_pkey"])
def test_no_job_is_blamed_for_a_damaged_table_that_all_share(filled_jobs, copies, relation):
    async def claim(settings):
        async with open_job_store(settings) as store:
            with pytest.raises(BackendError, match=r"the table turns, .* TRUNCATE"):
                await complete_next(store)
            assert not store.unreadable
            async with connected(settings) as connection:
                await connection.execute("TRUNCATE turns")
            assert await complete_next(store)

    for _, settings in copies(filled_jobs, relation, header_zeroed):
        asyncio.run(claim(settings))


OF_COMPARTMENTS = {
    "all of a patient": ["DELETE FROM compartments WHERE patient = 'p7'"],
    "one entry": [
        """DELETE FROM compartments
        WHERE seq = (SELECT max(seq) FROM compartments WHERE patient = 'p7')"""
    ],
    "entries that an index lacks": lacking(
        "compartments_pkey", again("compartments", "patient = 'p7'")
    ),
    "sums": ["DELETE FROM compartment_sums WHERE patient = 'p7'"],
    "one sum": [
        """DELETE FROM compartment_sums WHERE patient = 'p7'
        AND block = (SELECT max(block) FROM compartment_sums WHERE patient = 'p7')"""
    ],
    "sums that an index lacks": lacking(
        "compartment_sums_by_patient", again("compartment_sums", "patient = 'p7'")
    ),
    "sums and entries": [
        "DELETE FROM compartment_sums WHERE patient = 'p7'",
        "DELETE FROM compartments WHERE patient = 'p7'",
    ],
    "sums of each other": [
        """UPDATE compartment_sums SET patient = 'p' || 15 - substr(patient, 2)::integer
        WHERE patient IN ('p7', 'p8')"""
    ],
}
"""What is lost of a patient, or wrong, while all versions are as they were written."""


@pytest.fixture
async def large(settings, monkeypatch):
    """A store of 20 extents a type, in which patients have something in several blocks."""
    monkeypatch.setattr("helios_postgres.extents.EXTENT_ROWS", 20)

    def of(prefix):
        return [corpus.observation(f"{prefix}{n}", f"p{n}") for n in range(200)]

    async with open_data_provider(settings) as provider:
        await write(provider, *(corpus.patient(f"p{n}") for n in range(400)))
        await write(provider, *of("o"))
        await write(provider, *of("q"))
        between = await provider.transaction_time()
        gone = [Delete(resource_type="Observation", id=f"o{n}") for n in (7, 77)]
        await provider.write(corpus.TENANT, corpus.VERSION, gone)
        yield provider, between


def of_members(now, members, since=None):
    return corpus.view(now, corpus.request(level=Level.GROUP, since=since), patients=members)


@pytest.mark.service
@pytest.mark.parametrize("name", OF_COMPARTMENTS)
async def test_what_compartments_lack_costs_no_resource_in_stores_of_any_size(large, raw, name):
    """P4, P9: what a cohort has is then read from the versions, which have sums of their own."""
    provider, between = large
    now = await provider.transaction_time()
    everyone = of_members(now, {f"p{n}" for n in range(0, 200, 7)})
    views = [everyone, of_members(now, {"p7"}), of_members(now, {"p7"}, since=between)]
    shown = [await read(provider, view, 1 << 20) for view in views]
    assert [len(lines) for lines, _, _ in shown] == [29 * 3 - 2, 2, 0]
    assert [gone for _, gone, _ in shown] == [[], [], ["Observation/o7"]]

    for statement in OF_COMPARTMENTS[name]:
        await raw.execute(statement)

    assert [await read(provider, view, 1 << 20) for view in views] == shown


@pytest.mark.service
async def test_a_version_of_a_cohort_that_is_altered_is_noticed_in_a_large_store(large, raw):
    provider, between = large
    now = await provider.transaction_time()
    await raw.execute(
        "INSERT INTO endings SELECT seq, since_stamp + 1, 1, version_id, id FROM versions"
        " WHERE id = 'q7'"
    )

    [damaged] = (await read(provider, of_members(now, {"p7"}), 1 << 20))[2]
    assert (damaged.resource_type, damaged.id) == ("Observation", "(unknown)")
    with pytest.raises(BackendError, match="deletions of Observation may be missing"):
        await read(provider, of_members(now, {"p7"}, since=between), 1 << 20)


@pytest.mark.service
async def test_a_sound_cohort_is_read_without_going_through_the_extents(large, monkeypatch):
    provider, between = large
    now = await provider.transaction_time()
    monkeypatch.setattr(integrity, "_count_of_damaged", None)

    assert len((await read(provider, of_members(now, {"p7"}), 1 << 20))[0]) == 2
    gone = (await read(provider, of_members(now, {"p7"}, since=between), 1 << 20))[1]
    assert gone == ["Observation/o7"]


@pytest.mark.service
async def test_writers_of_one_patient_do_not_wait_for_each_other(large, settings):
    """Each adds rows of its own to what the patient must have."""
    provider, _ = large
    async with open_data_provider(settings) as other, asyncio.TaskGroup() as tasks:
        for n in range(20):
            each = corpus.observation(f"new{n}", "p7")
            tasks.create_task(write((provider, other)[n % 2], each))

    now = await provider.transaction_time()
    lines, _, damaged = await read(provider, of_members(now, {"p7"}), 1 << 20)
    assert (len(lines), damaged) == (22, [])


@pytest.mark.service
@pytest.mark.parametrize("lost", [None, "rows that are gone"])
async def test_a_migration_sums_what_patients_have(whole, lost):
    """What is lost already is not taken for all there was, whosever it was."""
    settings, views, shown = whole
    async with connected(settings) as connection:
        summed = (
            "SELECT patient, block, mod(sum(sum), (1::bigint << 62)::numeric)"
            " FROM compartment_sums GROUP BY patient, block ORDER BY patient, block"
        )
        before = await connection.fetch(summed)
        await connection.execute("DROP TABLE compartment_sums")
        await connection.execute("DELETE FROM schema_version WHERE number > 12")
        if lost:
            await connection.execute(
                "DELETE FROM compartments WHERE seq IN"
                " (SELECT seq FROM versions WHERE seq % 50 = 7)"
            )
            await connection.execute(TAMPERING[lost][0])

        await migrate(settings)

        assert (await connection.fetch(summed) == before) is (lost is None)
    assert await unnoticed(open_data_provider(settings), views, shown, 1 << 22) == []


OF_INDEX = {
    "postings that are gone": "DELETE FROM postings WHERE bucket % 3 = 0",
    "no posting left": "DELETE FROM postings",
    "postings of other buckets": "UPDATE postings SET bucket = (bucket + 1) % 64",
    "recent terms that are gone": "DELETE FROM recent_terms",
    "recent terms that are others": "UPDATE recent_terms SET content = '\\x90'",
    "no span left": "DELETE FROM spans",
    "spans of another time": "UPDATE spans SET low_max = low_max - 3000000000000000",
    "spans at other places": "UPDATE spans SET places = set_byte(places, 1, 77)",
    "sums that are gone": "DELETE FROM index_sums WHERE bucket % 2 = 0",
    "sums that are others": "UPDATE index_sums SET sum = sum + 1",
    "sums of sums that are gone": "UPDATE extents SET index_sum = 0",
    "sums of recent terms that are gone": "UPDATE extents SET recent_sum = 0",
}


@pytest.mark.service
@pytest.mark.parametrize("name", OF_INDEX)
async def test_what_the_search_index_lacks_is_noticed(whole, name):
    """P5, P9: an export does without it and a search fails; neither shows less."""
    settings, views, shown = whole
    views |= SEARCHED
    async with connected(settings) as connection:
        assert not (await connection.execute(OF_INDEX[name])).endswith(" 0")

    assert await unnoticed(open_data_provider(settings), views, shown, 20_000) == []
    async with open_data_provider(settings) as provider:
        for key, view in views.items():
            if key not in SEARCHED:
                assert await read(provider, view, 20_000) == shown[key]


@pytest.mark.service
async def test_a_migration_adds_the_sums_of_earlier_versions(whole):
    """Tallies of endings from before had none either."""
    settings, views, shown = whole
    async with connected(settings) as connection:
        before = await connection.fetch("SELECT extent, check_sum FROM extents ORDER BY extent")
        await connection.execute(
            "UPDATE extents SET begun_hash = NULL, compartment_hash = NULL, row_sum = NULL,"
            " check_sum = NULL"
        )
        await connection.execute(
            "UPDATE tallies SET ended_hash = 0, compartment_hash = 0, row_sum = ended"
        )

        await migrate(settings)

        after = await connection.fetch("SELECT extent, check_sum FROM extents ORDER BY extent")
        assert after == before
        async with open_data_provider(settings) as provider:
            for key, view in views.items():
                assert await read(provider, view, 1 << 22) == shown[key]
        await connection.execute(TAMPERING["a version that is not begun yet"][0])
    assert await unnoticed(open_data_provider(settings), views, shown, 1 << 22) == []
