"""Whatever the driver raises, wherever: a BackendError, nothing half done, and it works again."""

import asyncio
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from itertools import count

import bson.errors
import pymongo.errors
import pytest
from pymongo import common
from pymongo.asynchronous.pool import AsyncConnection

from helios_core import BackendError, JobNotFound, LeaseLost, Secret
from helios_core.testing import corpus, take_snapshot, view_everything
from helios_mongodb import MongoSettings, open_job_store
from tests.plugins.driver_faults import end_whole_job, reading_works_again, writes_fail_whole

MINUTE = timedelta(minutes=1)


def labelled(label):
    return pymongo.errors.OperationFailure("canary", 251, {"errorLabels": [label]})


RAISED = [
    pymongo.errors.AutoReconnect("canary"),
    pymongo.errors.NetworkTimeout("canary"),
    pymongo.errors.NotPrimaryError("canary", {"code": 10107}),
    pymongo.errors.ServerSelectionTimeoutError("canary"),
    pymongo.errors.WaitQueueTimeoutError("canary"),
    pymongo.errors.ExecutionTimeout("canary", 50),
    pymongo.errors.CursorNotFound("canary", 43),
    pymongo.errors.DuplicateKeyError("canary", 11000),
    pymongo.errors.WriteConcernError("canary", 64),
    pymongo.errors.BulkWriteError(
        {"writeErrors": [{"code": 112, "errmsg": "canary"}], "writeConcernErrors": []}
    ),
    pymongo.errors.InvalidOperation("canary"),
    pymongo.errors.ProtocolError("canary"),
    pymongo.errors.ConfigurationError("canary"),
    pymongo.errors.DocumentTooLarge("canary"),
    labelled("TransientTransactionError"),
    labelled("UnknownTransactionCommitResult"),
    pymongo.errors.OperationFailure("canary", 13),
    bson.errors.InvalidBSON("canary"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True>"),
    asyncio.InvalidStateError("invalid state"),
    ConnectionResetError("canary"),
    TimeoutError("canary"),
    EOFError("canary"),
]

armed = ContextVar("armed", default=False)
"""Whether a call into the driver is one of the test, and not of the driver's monitors."""


class Faults:
    """Fails at one message, counted from 1, before it is sent or after it was answered."""

    def __init__(self):
        self.left = 0
        self.error = None
        self.when = "before"

    def meets(self, when):
        if self.when != when or not armed.get():
            return False
        self.left -= 1
        return self.left == 0

    async def fails_everywhere(self, when, errors, operation, check):
        """Fail at each message in turn, until none is left to fail."""
        texts = list[str]()
        for place in count(1):
            self.error = errors[place % len(errors)]
            self.when, self.left = when, place
            failed, token = False, armed.set(True)
            try:
                await operation()
            except BackendError as caught:
                failed = True
                texts.append(str(caught))
            finally:
                armed.reset(token)
            reached, self.left = self.left <= 0, 0
            await check(failed=failed)
            if not reached:
                assert place > 3
                assert "canary" not in "".join(texts)
                return


@pytest.fixture
def empty_settings(mongodb_server, mongodb_database):
    """Settings with which the driver soon looks again at a server that it holds to be lost."""
    url = f"{mongodb_server.url}&heartbeatFrequencyMS=50"
    return MongoSettings(database_url=Secret(url), database=mongodb_database)


@pytest.fixture
def faults(monkeypatch):
    faults = Faults()
    send, receive = AsyncConnection.send_message, AsyncConnection.receive_message

    async def sent(connection, *arguments):
        if faults.meets("before"):
            raise faults.error
        await send(connection, *arguments)

    async def received(connection, *arguments):
        answer = await receive(connection, *arguments)
        if faults.meets("after"):
            raise faults.error
        return answer

    # After a fault the driver waits for the end of this before it looks at the server again.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.05)
    monkeypatch.setattr(AsyncConnection, "send_message", sent)
    monkeypatch.setattr(AsyncConnection, "receive_message", received)
    return faults


def turned(errors, by):
    return [*errors[by:], *errors[:by]]


moments = pytest.mark.parametrize("when", ["before", "after"])
turns = pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=pytest.mark.in_turn) for n in range(6, len(RAISED), 6))]
)
"""At each place a part of the errors is raised, and on other days others."""


@moments
@turns
async def test_a_write_fails_whole_wherever_the_driver_fails(faults, provider, when, turn):
    await writes_fail_whole(provider, partial(faults.fails_everywhere, when, turned(RAISED, turn)))

    snapshot = await take_snapshot(provider, await view_everything(provider))
    assert snapshot.damaged == []


@moments
@turns
async def test_reading_works_again_wherever_the_driver_failed(faults, provider, when, turn):
    await reading_works_again(
        provider, partial(faults.fails_everywhere, when, turned(RAISED, turn))
    )


@moments
@turns
async def test_a_job_is_whole_wherever_the_driver_fails(faults, settings, when, turn):
    number = 0
    async with open_job_store(settings) as store:

        async def live():
            nonlocal number
            number += 1
            name = f"job-{number}"
            try:
                await store.add(corpus.job(name), corpus.shards(2), max_active=100_000)
                lease = await store.claim("worker", lease_for=MINUTE, max_attempts=3)
                assert lease is not None
                await store.renew(lease, lease_for=MINUTE, resources_done=1)
                await store.complete(lease, [corpus.part(lease)], notes=b"noted")
                await store.cancel(corpus.TENANT, name)
                await store.delete(corpus.TENANT, name)
            except (JobNotFound, LeaseLost) as error:
                # What the driver repeats by itself may have been done by the first message.
                if is_undone(faults.error):
                    raise BackendError("done, and reported as undone") from error
                raise

        async def check(*, failed):
            await end_whole_job(store, f"job-{number}", failed=failed)

        await faults.fails_everywhere(when, turned(RAISED, turn), live, check)


def is_undone(error):
    """Whether an error says that a transaction was not committed, so that it is begun again."""
    transient = getattr(error, "has_error_label", lambda _: False)("TransientTransactionError")
    return transient or isinstance(error, pymongo.errors.DuplicateKeyError)
