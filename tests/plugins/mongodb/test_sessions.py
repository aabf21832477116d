"""What a process that is gone has left open is ended by others; whoever is alive loses nothing."""

import asyncio
from datetime import timedelta

import pytest
from pymongo.errors import OperationFailure

from helios_core.testing import corpus, write
from helios_mongodb import open_data_provider, open_job_store, sessions
from helios_mongodb.waits import IN_THE_PAST
from tests.pace import scaled

MINUTE = timedelta(minutes=1)
NO_SUCH_TRANSACTION = 251


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    monkeypatch.setattr(sessions, "LEASE", timedelta(milliseconds=200))


@pytest.fixture
async def gone(settings, raw):
    """The transaction of a process that was killed, and that had registered its session."""
    async with open_data_provider(settings) as provider, open_job_store(settings) as store:
        await write(provider, corpus.patient("p1"))
        await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    async with raw.client.start_session() as session:
        await session.start_transaction()
        for name in ("clocks", "shards"):
            await raw[name].update_many({}, {"$set": {"touched": 0}}, session=session)
        lease = {"sessions": [session.session_id["id"]], "at": IN_THE_PAST, "wait": 0}
        await raw.writers.insert_one({"_id": "gone"} | lease)
        yield session
        with pytest.raises(OperationFailure) as ended:
            await session.commit_transaction()
        assert ended.value.code == NO_SUCH_TRANSACTION


async def until(found):
    async with asyncio.timeout(scaled(20)):
        while not await found():
            await asyncio.sleep(0.05)


async def test_a_write_outlasts_the_transaction_of_a_process_that_is_gone(settings, gone, raw):
    async with open_data_provider(settings) as provider:
        await write(provider, corpus.patient("p2"))

    assert await raw.versions.count_documents({}) == 2


async def test_a_shard_that_a_process_was_about_to_claim_is_claimed(settings, gone):
    """J3: nobody waits for the server to end the transaction of a worker that was killed."""
    async with open_job_store(settings) as store:

        async def claimed():
            return await store.claim("worker", lease_for=MINUTE, max_attempts=3)

        await until(claimed)


async def test_a_process_that_was_only_slow_begins_its_write_anew(settings, raw):
    """Its session is ended in the middle of a transaction, as by another process."""
    async with open_data_provider(settings) as provider:
        await write(provider, corpus.patient("p1"))
        database, tries = provider._database, 0

        async def work(session):
            nonlocal tries
            tries += 1
            await database["records"].insert_one({"_id": tries}, session=session)
            if tries == 1:
                await raw.client.admin.command("killSessions", [session.session_id])

        await database.write(work)

    assert tries > 1
    assert [each["_id"] async for each in raw.records.find({})] == [tries]


async def test_the_lease_is_renewed_while_a_write_goes_on(settings, raw):
    async with open_data_provider(settings) as provider:

        async def work(session):
            lease = await raw.writers.find_one({})

            async def renewed():
                return await raw.writers.find_one({"at": {"$gt": lease["at"]}})

            await until(renewed)
            await provider._database["records"].insert_one({"_id": "r"}, session=session)

        await provider._database.write(work)

    assert await raw.records.count_documents({}) == 1


async def test_a_process_that_ends_leaves_no_sessions(settings, raw):
    async with open_data_provider(settings) as provider:
        await write(provider, corpus.patient("p1"))
        assert await raw.writers.count_documents({}) == 1

    assert await raw.writers.count_documents({}) == 0
