"""Connections that are cut at any moment: nothing acknowledged is lost, nothing is done twice."""

import asyncio
import random
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic

import pytest
import structlog

from helios_core import BackendUnavailable, LeaseLost, Secret, SupportsHistory
from helios_core.testing import corpus, take_snapshot, view_everything, write
from helios_mongodb import MongoSettings, listening, open_data_provider, open_job_store
from tests.pace import scaled
from tests.proxies import Proxy

MINUTE = timedelta(minutes=1)
WRITES = 15
JOBS = 10


@pytest.fixture
def proxy(mongodb_server):
    with Proxy(mongodb_server.address()) as proxy:
        yield proxy


@pytest.fixture
def behind(settings, proxy):
    """Settings that reach the same database by way of the proxy."""
    url = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&heartbeatFrequencyMS=500"
    return MongoSettings(
        database_url=Secret(url),
        database=settings.database,
        connect_timeout=timedelta(seconds=2),
    )


pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed"),
]


class Cutter:
    """Cuts all connections once in each operation, at any moment of it."""

    def __init__(self, proxy):
        self._proxy = proxy
        self._chance = random.Random(1)
        self._longest = 0.0

    @contextmanager
    def cutting(self):
        """Cut within the time that earlier operations took; the first one is spared."""
        loop, began = asyncio.get_running_loop(), monotonic()
        handle = None
        if self._longest:
            handle = loop.call_later(self._chance.uniform(0, self._longest), self._proxy.cut)
        try:
            yield
        finally:
            if handle is None:
                self._longest = monotonic() - began
            else:
                handle.cancel()


async def test_writes_over_a_bad_network_are_done_once_or_refused(settings, behind, proxy):
    """P8: a version for each write that was acknowledged, and no second one."""
    acknowledged = set()
    cutter = Cutter(proxy)
    async with open_data_provider(behind) as provider:
        for number in range(WRITES):
            resource = corpus.patient("p", note=str(number))
            with suppress(BackendUnavailable), cutter.cutting():
                applied = await write(provider, resource)
                acknowledged |= {each.version_id for each in applied}

    async with open_data_provider(settings) as provider:
        assert isinstance(provider, SupportsHistory)
        key = corpus.type_key("Patient").resource("p")
        versions = await provider.history(key, count=2 * WRITES)
        numbers = [version.version_id for version in versions]
        snapshot = await take_snapshot(provider, await view_everything(provider))
    assert numbers == sorted(set(numbers), reverse=True)
    assert len({version.content for version in versions}) == len(versions)
    assert acknowledged
    assert acknowledged <= set(numbers)
    assert (snapshot.names, snapshot.damaged) == (["Patient/p"], [])


async def test_jobs_over_a_bad_network_are_done_once(settings, behind, proxy):
    """J4, J5: whoever asks again is not told that another did it."""
    cutter = Cutter(proxy)
    async with open_job_store(behind) as store:
        for number in range(JOBS):
            with suppress(BackendUnavailable), cutter.cutting():
                await store.add(corpus.job(f"job-{number}"), corpus.shards(1), max_active=100)
                lease = await store.claim("worker", lease_for=MINUTE, max_attempts=9)
                assert lease is not None
                try:
                    await store.complete(lease, [corpus.part(lease)], notes=b"noted")
                except LeaseLost:
                    # Only if that which was told to the caller before was a lost answer.
                    pytest.fail("a lost answer is taken for another's work")

    async with open_job_store(settings) as store:
        for number in range(JOBS):
            name = f"job-{number}"
            if await store.exists(corpus.TENANT, name):
                done = (await store.progress(corpus.TENANT, name)).shards_done
                assert len(await store.parts(corpus.TENANT, name)) == done


async def test_a_server_that_is_away_is_heard_again(behind, proxy, monkeypatch):
    monkeypatch.setattr(listening, "RECONNECT", timedelta(milliseconds=50))
    with structlog.testing.capture_logs() as logs:
        async with open_job_store(behind) as store:
            await store.claim("worker", lease_for=MINUTE, max_attempts=9)
            proxy.close()
            while not logs:
                await asyncio.sleep(0.05)
            proxy.open()
            await store.wait_for_work(timedelta(seconds=scaled(20)))
            await store.add(corpus.job("job"), corpus.shards(1), max_active=100)

    assert {line["event"] for line in logs} == {"listener.lost"}


async def test_a_server_that_is_silent_is_an_error_in_time(provider, behind, proxy):
    """Nothing waits without bound for an answer."""
    await write(provider, corpus.patient("p1"))
    enough = timedelta(seconds=scaled(1 / 3))  # to open the stores, as long as it responds
    impatient = MongoSettings(
        database_url=behind.database_url,
        database=behind.database,
        connect_timeout=enough,
        timeout=enough,
    )
    async with open_data_provider(impatient) as reader, open_job_store(impatient) as store:
        proxy.freeze()
        for asked in (
            write(reader, corpus.patient("p2")),
            reader.get(corpus.type_key("Patient").resource("p1")),
            reader.transaction_time(),
            store.claim("worker", lease_for=MINUTE, max_attempts=9),
        ):
            with pytest.raises(BackendUnavailable):
                await asyncio.wait_for(asked, scaled(30))
