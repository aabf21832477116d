"""What a worker that was killed in the middle of a transaction has left is in nobody's way."""

from datetime import timedelta

from helios_core.testing import corpus
from helios_mongodb import open_job_store

MINUTE = timedelta(minutes=1)


async def test_a_shard_that_a_killed_worker_holds_is_passed_over(settings, raw):
    """J2: the others are claimed at once, and this one when the server has ended the rest."""
    async with open_job_store(settings) as store, raw.client.start_session() as session:
        await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
        await session.start_transaction()
        first = {"number": 0}
        await raw.shards.update_one(first, {"$set": {"done": True}}, session=session)

        other = await store.claim("worker", lease_for=MINUTE, max_attempts=9)
        nothing = await store.claim("worker", lease_for=MINUTE, max_attempts=9)
        await session.abort_transaction()
        left = await store.claim("worker", lease_for=MINUTE, max_attempts=9)

    assert (other.shard.number, nothing, left.shard.number) == (1, None, 0)
