import asyncio
from datetime import timedelta

from helios_core.memory import MemoryJobStore
from helios_core.testing import corpus
from tests.pace import scaled
from tests.testing.on_memory import OnMemoryJobs


class TestMemoryJobStore(OnMemoryJobs):
    pass


async def test_news_wakes_a_worker_that_waits():
    store = MemoryJobStore()
    waiting = asyncio.create_task(store.wait_for_work(timedelta(hours=1)))
    await asyncio.sleep(0)

    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)

    async with asyncio.timeout(scaled(10)):
        await waiting


async def test_the_next_phase_wakes_a_worker_that_waits():
    store = MemoryJobStore()
    await store.add(corpus.job("job"), corpus.shards(2, phases=(0, 1)), max_active=1)
    lease = await store.claim("worker", lease_for=timedelta(hours=1), max_attempts=1)
    waiting = asyncio.create_task(store.wait_for_work(timedelta(hours=1)))
    await asyncio.sleep(0)

    await store.complete(lease, [])

    async with asyncio.timeout(scaled(10)):
        await waiting
