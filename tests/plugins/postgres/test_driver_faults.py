"""Whatever the driver raises, wherever: a BackendError, nothing half done, and it works again."""

import asyncio
from datetime import timedelta

import asyncpg
import asyncpg.connection
import asyncpg.pool
import pytest

from helios_core import BackendError, Put
from helios_core.fhir import parse_resource
from helios_core.testing import corpus

MINUTE = timedelta(minutes=1)

RAISED = [
    asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
    asyncpg.InterfaceError("connection has been released back to the pool"),
    asyncpg.InternalClientError("got result for unknown protocol state 3"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.AdminShutdownError("terminating connection"),
    asyncpg.UniqueViolationError("canary"),
    asyncpg.InFailedSQLTransactionError("canary"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True>"),
    asyncio.InvalidStateError("invalid state"),
    ConnectionResetError("canary"),
    TimeoutError(),
]


class Faults:
    """Fails at one call into the driver, counted from 1; 0 is at none."""

    def __init__(self):
        self.left = 0
        self.error = None

    def call(self):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.fixture
def faults(monkeypatch):
    faults = Faults()

    def before(owner, name):
        sound = getattr(owner, name)

        async def call(*arguments, **named):
            faults.call()
            return await sound(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    def checked(connection, sound=asyncpg.connection.Connection._check_open):
        faults.call()
        sound(connection)

    # What every statement and every transaction begins with.
    monkeypatch.setattr(asyncpg.connection.Connection, "_check_open", checked)
    before(asyncpg.pool.Pool, "_acquire")
    before(asyncpg.pool.Pool, "release")
    return faults


def patient(number):
    body = b'{"resourceType":"Patient","id":"p%d"}' % number
    return Put(resource=parse_resource(body, corpus.VERSION))


async def fails_everywhere(faults, error, operation, check):
    """Fail at each call into the driver in turn, until none is left to fail."""
    place, texts = 0, list[str]()
    while True:
        place += 1
        faults.error, faults.left = error, place
        failed = False
        try:
            await operation()
        except BackendError as caught:
            failed = True
            texts.append(str(caught))
        reached, faults.left = faults.left <= 0, 0
        await check(failed=failed)
        if not reached:
            assert "canary" not in "".join(texts)
            return


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_a_write_fails_whole_wherever_the_driver_fails(faults, provider, error):
    number = 0

    async def write():
        nonlocal number
        number += 2
        await provider.write(corpus.TENANT, corpus.VERSION, [patient(number), patient(number + 1)])

    async def check(*, failed):
        stored = [
            await provider.get(corpus.type_key("Patient").resource(f"p{n}"))
            for n in (number, number + 1)
        ]
        assert (stored[0] is None) == (stored[1] is None)
        assert failed or stored[0] is not None

    await fails_everywhere(faults, error, write, check)


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_reading_works_again_wherever_the_driver_failed(faults, provider, error):
    await provider.write(corpus.TENANT, corpus.VERSION, [patient(n) for n in range(20)])
    view = corpus.view(await provider.transaction_time(), corpus.request(types=["Patient"]))

    async def read():
        assert await provider.get(corpus.type_key("Patient").resource("p1")) is not None
        [shard] = await provider.plan(view, shard_bytes=1_000_000)
        batches = provider.read(view, shard, batch_bytes=1_000_000)
        return sum([len(batch.lines) + len(batch.damaged) async for batch in batches])

    async def check(*, failed):
        del failed
        assert await read() == 20

    await fails_everywhere(faults, error, read, check)


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_a_job_is_whole_wherever_the_driver_fails(faults, store, error):
    number = 0

    async def live():
        nonlocal number
        number += 1
        await store.add(corpus.job(f"job-{number}"), corpus.shards(1), max_active=100_000)
        lease = await store.claim("worker", lease_for=MINUTE, max_attempts=3)
        await store.renew(lease, lease_for=MINUTE, resources_done=1)
        await store.complete(lease, [])
        await store.removable(completed_before=MINUTE, limit=5)
        await store.cancel(corpus.TENANT, f"job-{number}")
        await store.delete(corpus.TENANT, f"job-{number}")

    async def check(*, failed):
        del failed
        while (lease := await store.claim("other", lease_for=MINUTE, max_attempts=3)) is not None:
            await store.complete(lease, [])

    await fails_everywhere(faults, error, live, check)
