import asyncio
from datetime import timedelta

import pytest

from helios_core import BackendError, BackendUnavailable
from helios_core.testing import corpus
from helios_sqlite import open_job_store
from tests.pace import scaled

HOUR = timedelta(hours=1)


async def claim(store):
    return await store.claim("worker", lease_for=HOUR, max_attempts=3)


async def test_the_identity_survives_a_restart_and_a_move(settings):
    async with open_job_store(settings) as store:
        before = store.identity
    moved = settings.path.rename(settings.path.with_name("moved.db"))

    async with open_job_store(type(settings)(database_url=str(moved))) as store:
        assert store.identity == before
    async with open_job_store(settings) as store:
        assert store.identity != before


async def test_a_worker_with_nothing_to_do_takes_no_lock(store, raw):
    raw.execute("BEGIN IMMEDIATE")

    assert await claim(store) is None


async def test_a_claim_waits_for_another_process_but_not_for_ever(store, impatient, raw):
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    async with open_job_store(impatient) as hasty:
        raw.execute("BEGIN IMMEDIATE")

        with pytest.raises(BackendUnavailable):
            await claim(hasty)

        raw.execute("ROLLBACK")
    assert await claim(store) is not None


async def test_reading_goes_on_while_a_claim_waits_for_another_process(store, raw):
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    raw.execute("BEGIN IMMEDIATE")
    claiming = asyncio.ensure_future(claim(store))

    for _ in range(20):
        assert (await store.get(corpus.TENANT, "job")).status.active
        await asyncio.sleep(0.001)

    assert not claiming.done()
    raw.execute("ROLLBACK")
    assert await claiming is not None


async def test_what_stops_a_transaction_half_begun_is_waited_for(store, raw):
    raw.execute("BEGIN IMMEDIATE")

    async def begin():
        async with store._database.transaction(("BEGIN", "DELETE FROM turns")):
            return "begun"

    beginning = asyncio.ensure_future(begin())
    await asyncio.sleep(0.02)
    assert not beginning.done()
    raw.execute("ROLLBACK")

    assert await beginning == "begun"


async def test_a_job_added_wakes_who_waits(store):
    waiting = asyncio.ensure_future(store.wait_for_work(HOUR))
    await asyncio.sleep(0)

    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)

    await asyncio.wait_for(waiting, scaled(5))


async def test_a_job_added_between_looking_and_waiting_is_not_slept_over(store):
    assert await claim(store) is None
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)

    await asyncio.wait_for(store.wait_for_work(HOUR), scaled(5))


async def test_a_shard_handed_back_wakes_who_waits(store):
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    lease = await claim(store)
    assert await claim(store) is None

    await store.release(lease)

    await asyncio.wait_for(store.wait_for_work(HOUR), scaled(5))


async def test_the_next_phase_wakes_who_waits(store):
    await store.add(corpus.job("job"), corpus.shards(2, phases=(0, 1)), max_active=1)
    lease = await claim(store)
    assert await claim(store) is None

    await store.complete(lease, [])

    await asyncio.wait_for(store.wait_for_work(HOUR), scaled(5))


async def test_a_job_that_another_process_added_wakes_who_waits(store, settings):
    assert await claim(store) is None

    async with open_job_store(settings) as other:
        await other.add(corpus.job("job"), corpus.shards(1), max_active=1)

    await asyncio.wait_for(store.wait_for_work(HOUR), scaled(5))
    assert await claim(store) is not None


async def test_who_waits_is_left_alone_while_nobody_writes(store):
    assert await claim(store) is None

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.wait_for_work(HOUR), 0.2)


async def test_waiting_without_work_ends_in_time(store):
    await claim(store)

    await asyncio.wait_for(store.wait_for_work(timedelta(milliseconds=20)), scaled(5))


async def test_deleting_a_job_leaves_no_row_behind(store, raw):
    await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
    lease = await claim(store)
    await store.complete(lease, [corpus.part(lease)])

    await store.delete(corpus.TENANT, "job")

    for table in ("jobs", "shards", "parts"):
        assert raw.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_two_tenants_may_use_one_job_id(store):
    for tenant in (corpus.TENANT, corpus.OTHER_TENANT):
        await store.add(corpus.job("job", tenant=tenant), corpus.shards(1), max_active=1)

    await store.cancel(corpus.TENANT, "job")

    assert (await store.get(corpus.OTHER_TENANT, "job")).status.active


async def test_parts_that_are_gone_are_noticed(store, raw):
    """A manifest without them would have a proof that adds up."""
    await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
    for _ in range(2):
        lease = await claim(store)
        await store.complete(lease, [corpus.part(lease)])
    assert len(await store.parts(corpus.TENANT, "job")) == 2
    raw.execute("DELETE FROM parts WHERE shard = 0")

    with pytest.raises(BackendError, match="missing"):
        await store.parts(corpus.TENANT, "job")
