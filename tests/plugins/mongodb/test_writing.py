"""What is particular about writing to MongoDB."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from helios_core import Put, StoreBusy, VersionConflict
from helios_core.fhir import to_stamp
from helios_core.loading.load import LoadPhase, load
from helios_core.testing import corpus, take_snapshot, view_everything, write
from helios_mongodb import open_data_provider


async def test_a_resource_larger_than_a_document_is_stored_and_exported(provider, raw):
    large = corpus.patient("large", note="x" * (50 << 20))
    await write(provider, large, corpus.patient("small"))

    snapshot = await take_snapshot(provider, await view_everything(provider))

    assert snapshot.names == ["Patient/large", "Patient/small"]
    stored = await provider.get(corpus.type_key("Patient").resource("large"))
    assert len(stored.content) > 50 << 20
    assert await raw.chunks.count_documents({}) == 7


async def test_a_write_that_fails_leaves_nothing(provider, raw):
    with pytest.raises(VersionConflict):
        await write(provider, corpus.patient("p1"), Put(resource=corpus.patient("p2"), if_match=7))

    assert await raw.versions.count_documents({}) == 0


@pytest.fixture
async def impatient(settings):
    """A provider that repeats a write only for a moment, and waits for answers as ever."""
    async with open_data_provider(settings) as provider:
        shorter = msgspec.structs.replace(settings, timeout=timedelta(seconds=0.2))
        provider._database.settings = shorter
        yield provider


@pytest.fixture
async def gone(provider, raw):
    """The transaction of a writer that was killed in the middle of it."""
    await write(provider, corpus.patient("p1"))
    async with raw.client.start_session() as session:
        await session.start_transaction()
        change = {"$inc": {"stamp": 1}}
        await raw.clocks.update_one({"_id": corpus.TENANT}, change, session=session)
        yield session


async def test_a_write_says_what_is_in_its_way(impatient, gone, raw):
    with pytest.raises(StoreBusy, match="transactionLifetimeLimitSeconds"):
        await write(impatient, corpus.patient("p2"))

    await gone.abort_transaction()
    assert await raw.versions.count_documents({}) == 1


async def test_what_is_in_the_way_does_not_keep_a_process_from_starting(impatient, gone, raw):
    """A kick-off came first, for which the tenant's clock has yet to be advanced."""
    await raw.clocks.update_one({"_id": ""}, {"$inc": {"stamp": 1 << 40}})

    with pytest.raises(StoreBusy):
        await write(impatient, corpus.patient("p2"))

    await gone.abort_transaction()
    [applied] = await write(impatient, corpus.patient("p2"))
    everybody = await raw.clocks.find_one({"_id": ""})
    assert to_stamp(applied.last_updated) > everybody["stamp"]


async def test_a_load_outlasts_the_transaction_of_a_writer_that_is_gone(
    impatient, gone, raw, tmp_path
):
    path = tmp_path / "patients.ndjson"
    path.write_text('{"resourceType":"Patient","id":"p2"}\n')

    ends = []

    def end(progress):
        if progress.phase is LoadPhase.WAITING and not ends:
            ends.append(asyncio.create_task(gone.abort_transaction()))

    summary = await load(
        [path],
        impatient,
        tenant=corpus.TENANT,
        fhir_version=corpus.VERSION,
        on_progress=end,
    )

    assert summary.created == 1
