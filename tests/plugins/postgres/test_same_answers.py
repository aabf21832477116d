"""What is loaded into SQLite and into PostgreSQL leaves both alike."""

import re
from pathlib import Path

import pytest

from helios_core import Delete, Level
from helios_core.fhir import FHIRVersion, load_definitions
from helios_core.loading.load import load
from helios_core.testing import corpus, take_snapshot
from helios_postgres import open_data_provider
from helios_sqlite import SQLiteSettings
from helios_sqlite import open_data_provider as open_sqlite

BUNDLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "synthea-r4" / "bundles"
STAMP = re.compile(rb'"lastUpdated":"[^"]*"')
TYPES = tuple(sorted(load_definitions(FHIRVersion.R4).root_elements))

pytestmark = pytest.mark.skipif(
    not BUNDLES.is_dir(), reason="the real bundles are not in ../shared/data"
)


@pytest.fixture
async def providers(settings, tmp_path):
    """Both, with the same bundles in them."""
    sqlite = SQLiteSettings(data_dir=str(tmp_path), synchronous="normal")
    async with open_data_provider(settings) as ours, open_sqlite(sqlite) as theirs:
        for provider in (ours, theirs):
            summary = await load(
                [BUNDLES], provider, tenant=corpus.TENANT, fhir_version=corpus.VERSION
            )
            assert summary.bad == 0
        yield ours, theirs


async def exported(provider, at=None, **wanted):
    """Return lines without their instants, and what is deleted."""
    patients = wanted.pop("patients", None)
    asked = corpus.request(types=TYPES, **wanted)
    of = corpus.view(at or await provider.transaction_time(), asked, patients=patients)
    snapshot = await take_snapshot(provider, of, shard_bytes=4 << 20)
    assert not snapshot.damaged
    return sorted(STAMP.sub(b"", line) for line in snapshot.lines), snapshot.deleted


async def ids_of(provider, resource_type):
    now = corpus.view(await provider.transaction_time(), corpus.request(types=(resource_type,)))
    return [name.partition("/")[2] for name in (await take_snapshot(provider, now)).names]


async def test_the_real_bundles_leave_both_line_by_line_alike(providers):
    """At each level, then with deletions since, and as they were before these."""
    ours, theirs = providers
    patients = (await ids_of(theirs, "Patient"))[::3]
    before = [await each.transaction_time() for each in providers]
    everything = await exported(ours)
    assert len(everything[0]) > 10_000
    assert everything == await exported(theirs)
    for wanted in (
        {"level": Level.PATIENT},
        {"level": Level.GROUP, "patients": patients},
        {"level": Level.GROUP, "patients": [*patients, *(f"none-{n}" for n in range(20_000))]},
    ):
        assert await exported(ours, **wanted) == await exported(theirs, **wanted)

    gone = [Delete(resource_type="Encounter", id=each) for each in await ids_of(ours, "Encounter")]
    for provider in providers:
        await provider.write(corpus.TENANT, corpus.VERSION, gone[::2])

    since = [await exported(each, since=at) for each, at in zip(providers, before, strict=True)]
    assert since[0] == since[1]
    assert len(since[0][1]) == len(gone[::2])
    past = [await exported(each, at=at) for each, at in zip(providers, before, strict=True)]
    assert past == [everything, everything]
