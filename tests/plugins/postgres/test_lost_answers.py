"""What is committed although its answer was lost is neither done twice nor taken for undone."""

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from helios_core import JobStatus, LeaseLost, Secret, TooManyExports
from helios_core.testing import corpus
from helios_postgres import PostgresSettings, open_job_store
from tests.services import through

MINUTE = timedelta(minutes=1)


class Thief:
    """Stands before a server, and cuts the connection on which the next COMMIT comes."""

    def __init__(self, address):
        self.address = address
        self.steals = None
        """What it waits for: 'question' is before the server got it, 'answer' is after it did."""
        self.stolen = 0
        self.passes = asyncio.Event()
        """Whether anything that is asked comes to the server."""
        self.passes.set()

    @asynccontextmanager
    async def opened(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader, writer):
        if isinstance(self.address, str):
            upstream, up = await asyncio.open_unix_connection(self.address)
        else:
            upstream, up = await asyncio.open_connection(*self.address)
        answering = asyncio.ensure_future(self._pass(upstream, writer))
        try:
            with suppress(OSError):
                while chunk := await reader.read(65536):
                    if self.steals and b"COMMIT" in chunk:
                        await self._steal(up, chunk, upstream, answering)
                        return
                    await self.passes.wait()
                    up.write(chunk)
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            for each in (up, writer):
                each.transport.abort()

    async def _steal(self, up, chunk, upstream, answering):
        steals, self.steals = self.steals, None
        self.stolen += 1
        if steals == "answer":
            answering.cancel()
            await asyncio.wait([answering])
            up.write(chunk)
            assert b"COMMIT" in await upstream.read(65536)

    async def _pass(self, source, target):
        with suppress(OSError):
            while chunk := await source.read(65536):
                target.write(chunk)
            target.close()


@pytest.fixture
async def thief(postgres_server):
    return Thief(postgres_server.address())


@pytest.fixture
async def robbed(settings, thief):
    """A store whose answers may be stolen, and that waits for them as long as it takes."""
    async with thief.opened() as port:
        url = Secret(through(settings.database_url.reveal(), port))
        behind = PostgresSettings(
            database_url=url, schema=settings.schema, connect_timeout=timedelta(hours=1)
        )
        async with open_job_store(behind) as store:
            yield store


async def claim(store):
    return await store.claim("worker", lease_for=MINUTE, max_attempts=3)


@pytest.mark.parametrize("stolen", ["question", "answer"])
async def test_a_completion_whose_commit_got_lost_is_done_once(robbed, store, thief, stolen):
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    lease = await claim(robbed)
    thief.steals = stolen

    status = await robbed.complete(lease, [corpus.part(lease)], notes=b"noted")

    assert thief.stolen == 1
    assert status is JobStatus.COMPLETE
    assert await store.parts(corpus.TENANT, "job") == [corpus.part(lease)]
    with pytest.raises(LeaseLost):
        await robbed.complete(lease, [corpus.part(lease)])


@pytest.mark.parametrize("stolen", ["question", "answer"])
async def test_a_completion_that_got_lost_in_the_middle_of_a_job_is_done_once(
    robbed, store, thief, stolen
):
    await store.add(corpus.job("job"), corpus.shards(2), max_active=1)
    lease = await claim(robbed)
    thief.steals = stolen

    status = await robbed.complete(lease, [corpus.part(lease)])

    assert thief.stolen == 1
    assert status is JobStatus.IN_PROGRESS
    assert (await claim(store)).shard.number == 1
    assert await claim(store) is None


async def test_a_completion_that_got_lost_and_came_too_late_is_refused(robbed, store, thief, raw):
    await store.add(corpus.job("job"), corpus.shards(1), max_active=1)
    old = await claim(robbed)
    await raw.execute("UPDATE shards SET available_at = '-infinity'")
    thief.steals = "question"

    completing = asyncio.ensure_future(robbed.complete(old, [corpus.part(old)]))
    while not thief.stolen:
        await asyncio.sleep(0.001)
    # The question is not asked again before another worker has the shard, and that one passes
    # over it until the server notices that the connection was cut.
    thief.passes.clear()
    while (new := await claim(store)) is None:
        await asyncio.sleep(0.001)
    thief.passes.set()

    assert new.token > old.token
    with pytest.raises(LeaseLost):
        await completing
    assert await store.parts(corpus.TENANT, "job") == []


@pytest.mark.parametrize("stolen", ["question", "answer"])
async def test_a_job_whose_commit_got_lost_is_there_once(robbed, store, thief, stolen):
    thief.steals = stolen

    added = await robbed.add(corpus.job("job"), corpus.shards(2), max_active=1)

    assert thief.stolen == 1
    assert added == await store.get(corpus.TENANT, "job")
    assert (await store.progress(corpus.TENANT, "job")).shards_total == 2
    with pytest.raises(TooManyExports):
        await robbed.add(corpus.job("another"), [], max_active=1)
