import asyncio
import time
from datetime import timedelta

import pytest

from helios_core.errors import BackendUnavailable
from helios_core.memory import MemoryDataProvider, MemoryOutputStore
from helios_core.model.jobs import Lease
from helios_core.testing import corpus
from helios_core.testing.data_provider.contract import delete, view_everything, write
from helios_core.testing.faults import FaultyDataProvider, FaultyOutputStore
from helios_core.testing.snapshots import take_snapshot
from tests.pace import scaled

LEASE = Lease(
    job=corpus.job("job"), shard=corpus.shards(1)[0], token=1, worker="worker", attempt=1
)
KEY = corpus.part(LEASE).key


async def chunks(*sizes):
    for size in sizes:
        yield b"x" * size


@pytest.fixture
async def provider():
    provider = MemoryDataProvider()
    await write(provider, *(corpus.patient(f"p{number}") for number in range(6)))
    return provider


async def test_a_put_breaks_off_as_often_as_asked_and_leaves_nothing():
    store = FaultyOutputStore(MemoryOutputStore(), fail_after_bytes=15, times=2)

    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            await store.put(KEY, chunks(10, 10))
        assert [job async for job in store.jobs()] == []
    stored = await store.put(KEY, chunks(10, 10))

    assert stored.size == 20
    assert b"".join([chunk async for chunk in store.read(KEY)]) == b"x" * 20


async def test_a_put_of_no_more_than_that_many_bytes_goes_well():
    store = FaultyOutputStore(MemoryOutputStore(), fail_after_bytes=20)

    await store.put(KEY, chunks(10, 10))

    assert store.fault.remaining == 1


async def test_a_put_fails_with_the_error_asked_for():
    store = FaultyOutputStore(MemoryOutputStore(), fail_after_bytes=0, error=TimeoutError())

    with pytest.raises(TimeoutError):
        await store.put(KEY, chunks(10))


async def test_what_is_not_put_goes_through():
    store = FaultyOutputStore(MemoryOutputStore())
    await store.bind("owner")
    await store.put(KEY, chunks(10))

    await store.discard(KEY)
    await store.put(KEY, chunks(10))
    await store.delete(KEY.tenant, KEY.job_id)

    assert [job async for job in store.jobs()] == []


async def test_a_read_breaks_off_as_often_as_asked(provider):
    faulty = FaultyDataProvider(provider, fail_after_batches=2, times=1)
    everything = await view_everything(faulty)

    with pytest.raises(BackendUnavailable):
        await take_snapshot(faulty, everything, batch_bytes=1)

    again = await take_snapshot(faulty, everything, batch_bytes=1)
    assert again == await take_snapshot(provider, everything, batch_bytes=1)


async def test_deletions_go_through(provider):
    faulty = FaultyDataProvider(provider)
    since = await faulty.transaction_time()
    await write(provider, delete(corpus.patient("p1")))

    view = corpus.view(await faulty.transaction_time(), corpus.request(since=since))

    assert (await take_snapshot(faulty, view)).deleted == ["Patient/p1"]
    deleted = await faulty.get(corpus.type_key("Patient").resource("p1"))
    assert deleted.content is None


async def test_each_batch_takes_as_long_as_asked(provider):
    faulty = FaultyDataProvider(provider, delay=timedelta(milliseconds=20))
    everything = await view_everything(faulty)
    started = time.monotonic()

    async with asyncio.timeout(scaled(10)):
        await take_snapshot(faulty, everything, batch_bytes=1)

    assert time.monotonic() - started >= 6 * 0.02
