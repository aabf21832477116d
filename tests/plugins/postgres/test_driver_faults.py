"""Whatever the driver raises, wherever: a BackendError, nothing half done, and it works again."""

import asyncio
from functools import partial

import asyncpg
import asyncpg.connection
import asyncpg.pool
import pytest

from tests.plugins.driver_faults import (
    Faults,
    jobs_stay_whole,
    reading_works_again,
    writes_fail_whole,
)

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


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_a_write_fails_whole_wherever_the_driver_fails(faults, provider, error):
    await writes_fail_whole(provider, partial(faults.fail_everywhere, error))


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_reading_works_again_wherever_the_driver_failed(faults, provider, error):
    await reading_works_again(provider, partial(faults.fail_everywhere, error))


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_a_job_is_whole_wherever_the_driver_fails(faults, store, error):
    await jobs_stay_whole(store, partial(faults.fail_everywhere, error))
