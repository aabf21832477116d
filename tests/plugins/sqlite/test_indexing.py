"""The search index: exact where it is sound, made anew where it is old, done without if broken."""

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import xxhash

from helios_core import BackendUnavailable, Level, Put, SchemaOutdated, SortOrder
from helios_core.fhir import TERMS_VERSION, FHIRVersion, parse_resource, terms_of
from helios_core.testing import SEARCHES, corpus, measurements
from helios_sqlite import candidates, indexing, migrate, narrowing, open_data_provider, searching
from helios_sqlite.connections import PAGE_BYTES
from tests.indexed import pages_are_exact, sifted, sifting_is_exact

EXAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "spec-examples"


def put(*resources):
    return [Put(resource=each) for each in resources]


@pytest.mark.parametrize(
    "alternatives",
    [
        [[("status", "final")]],
        [[("code", "https://codes.example.org|weight,pulse")]],
        [[("subject", "Patient/p1")]],
        [[("date", "2020-02-28")]],
        [[("date", "ge2020-02"), ("status", "final"), ("subject", "p1,p3")]],
        [[("_id", "m3,m5"), ("_lastUpdated", "ge2020")], [("date", "lt2020")]],
    ],
    ids=str,
)
async def test_the_index_gives_nothing_but_what_matches(provider, write, alternatives):
    """P5: a search for one resource in a hundred reads one in a hundred."""
    await write(*measurements())

    found = await sifted(provider, alternatives)

    assert found.candidates == found.expected


async def test_an_unchanged_resource_is_indexed_once(provider, write, raw):
    await write(*measurements(10))
    before = raw.execute("SELECT count(*) FROM spans").fetchone()

    await write(*measurements(10))

    assert raw.execute("SELECT count(*) FROM spans").fetchone() == before == (10,)


async def test_a_transaction_writes_one_row_for_a_term(provider, write, raw):
    await write(
        *(
            corpus.measurement(f"m{n}", "p1", status="final", code="a", day="2020")
            for n in range(50)
        )
    )

    rows = raw.execute("SELECT place, length(more) FROM postings").fetchall()

    assert set(rows) == {(0, 98)}


async def test_a_term_is_found_in_many_extents(provider, write, monkeypatch):
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_ROWS", 3)
    monkeypatch.setattr(candidates, "EXTENTS_AT_ONCE", 4)
    monkeypatch.setattr(candidates, "PICKED_AT_ONCE", 7)
    monkeypatch.setattr(narrowing, "CANDIDATES_AT_ONCE", 5)
    for start in range(0, 90, 15):
        await write(*measurements(90)[start : start + 15])

    await sifting_is_exact(provider)


@pytest.mark.parametrize("order", [*SortOrder])
@pytest.mark.parametrize("few", [0, 5, 1000])
async def test_pages_agree_however_many_candidates_there_are(
    provider, write, monkeypatch, order, few
):
    monkeypatch.setattr("helios_sqlite.extents.EXTENT_ROWS", 3)
    monkeypatch.setattr(searching, "SORTED_AT_ONCE", few)
    for start in range(0, 60, 20):
        await write(*measurements()[start : start + 20])
    await pages_are_exact(provider, order)


async def test_places_are_packed_as_they_were(provider):
    places = [1, 255, 256, 4095]

    assert indexing.unpacked(indexing.packed(places)) == tuple(places)


@pytest.fixture
async def outdated(settings, raw):
    """A store whose index was made by other rules."""
    async with open_data_provider(settings) as provider:
        await provider.write(corpus.TENANT, corpus.VERSION, put(*measurements()))
    raw.execute("UPDATE search_index SET terms_version = ?", (TERMS_VERSION - 1,))
    raw.execute("UPDATE postings SET term = term / 2")
    raw.execute("UPDATE spans SET low = low / 2")


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


async def test_what_is_damaged_when_it_is_indexed_is_a_candidate_of_every_search(
    outdated, settings, raw
):
    """P6: it may have been anything."""
    raw.execute("UPDATE versions SET content = CAST('canary' AS BLOB) WHERE id = 'm7'")
    await migrate(settings)

    async with open_data_provider(settings) as provider:
        for pair in (("code", "height"), ("date", "1999"), ("_id", "m3")):
            found = await sifted(provider, [[pair]])
            assert [each.id for each in found.damaged] == ["m7"]


@pytest.mark.parametrize("table", ["postings", "spans"])
@pytest.mark.parametrize("level", [Level.SYSTEM, Level.GROUP])
async def test_a_broken_index_is_done_without(settings, table, level):
    """P5, P6: everything is read, as if there were no index."""
    async with open_data_provider(settings) as provider:
        await provider.write(
            corpus.TENANT, corpus.VERSION, put(*measurements(), corpus.patient("p1"))
        )
    with closing(sqlite3.connect(settings.path)) as connection:
        [page] = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    with settings.path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xff" * 100)

    async with open_data_provider(settings) as provider:
        found = await sifted(
            provider,
            [[("date", "2020"), ("status", "final")]],
            export_request=corpus.request(level=level),
            patients=None if level is Level.SYSTEM else ("p1", "p2"),
        )

    assert found.candidates == found.lines
    assert found.matches == found.expected != []


async def test_other_errors_of_the_index_are_not_taken_for_damage(provider, write, raw):
    await write(*measurements(5))
    raw.execute("ALTER TABLE postings RENAME TO elsewhere")

    with pytest.raises(BackendUnavailable, match="SQLITE_ERROR"):
        await sifted(provider, [[("status", "final")]])


@pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="the specification's examples are not in ../shared/data"
)
def test_what_is_indexed_changes_only_with_its_version():
    """Raise TERMS_VERSION with every change that this finds: stores then index anew."""
    digest = xxhash.xxh3_64()
    for version in (FHIRVersion.R4, FHIRVersion.R4B, FHIRVersion.R5):
        lines = gzip.decompress((EXAMPLES / f"{version}.ndjson.gz").read_bytes()).splitlines()
        for line in lines:
            resource = parse_resource(line, version)
            terms = terms_of(line, version, resource.resource_type)
            assert terms == resource.terms
            digest.update(f"{sorted(terms.terms)} {sorted(terms.spans)}\n".encode())

    assert (TERMS_VERSION, digest.hexdigest()) == (1, "748b2999818e6cd3")
