"""Tables that were changed behind the back: none is read as if it were whole."""

import pytest

from helios_core import COLLECTION_BITS
from helios_postgres import migrate, open_data_provider
from tests.damage import SEARCHED, fill, read, unnoticed, views_of
from tests.plugins.postgres.connecting import connected

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


@pytest.mark.service
@pytest.mark.parametrize("name", TAMPERING)
async def test_what_was_changed_behind_the_back_is_noticed(settings, name):
    """P9: whoever did it, and whether or not PostgreSQL finds its tables in order."""
    async with open_data_provider(settings) as provider:
        views = await views_of(provider, await fill(provider))
        shown = {key: await read(provider, view, 1 << 22) for key, view in views.items()}
        assert all(lines and not damaged for lines, _, damaged in shown.values())
    async with connected(settings) as connection:
        for statement in TAMPERING[name]:
            await connection.execute(statement)

    for batch_bytes in (1 << 22, 20_000):
        opened = open_data_provider(settings)
        assert await unnoticed(opened, views, shown, batch_bytes) == []


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
async def test_what_the_search_index_lacks_is_noticed(settings, name):
    """P5, P9: an export does without it and a search fails; neither shows less."""
    async with open_data_provider(settings) as provider:
        views = await views_of(provider, await fill(provider)) | SEARCHED
        shown = {key: await read(provider, view, 1 << 22) for key, view in views.items()}
        assert all(lines and not damaged for lines, _, damaged in shown.values())
    async with connected(settings) as connection:
        assert not (await connection.execute(OF_INDEX[name])).endswith(" 0")

    assert await unnoticed(open_data_provider(settings), views, shown, 20_000) == []
    async with open_data_provider(settings) as provider:
        for key, view in views.items():
            if key not in SEARCHED:
                assert await read(provider, view, 20_000) == shown[key]


@pytest.mark.service
async def test_a_migration_adds_the_sums_of_earlier_versions(settings):
    """Tallies of endings from before had none either."""
    async with open_data_provider(settings) as provider:
        views = await views_of(provider, await fill(provider))
        shown = {key: await read(provider, view, 1 << 22) for key, view in views.items()}
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
