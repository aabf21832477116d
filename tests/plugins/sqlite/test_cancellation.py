"""Callers of the job store that are cancelled, at every statement and at any moment."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest

from helios_core import HeliosError, JobStatus
from helios_core.testing import corpus
from helios_sqlite import open_job_store
from tests.pace import scaled

MINUTE = timedelta(minutes=1)
STATE = [
    "SELECT id, status, completed_at IS NULL, failure FROM jobs ORDER BY 1",
    """
    SELECT number, done, available_at IS NULL, worker, token, attempts, resources_done
    FROM shards ORDER BY job, 1
    """,
    "SELECT shard, number FROM parts ORDER BY job, 1, 2",
]
TENANT = corpus.TENANT
CALLS = {
    "add": lambda store, _: store.add(corpus.job("new"), corpus.shards(3), max_active=9),
    "get": lambda store, _: store.get(TENANT, "job"),
    "progress": lambda store, _: store.progress(TENANT, "job"),
    "parts": lambda store, _: store.parts(TENANT, "job"),
    "claim": lambda store, _: claim(store, "another"),
    "renew": lambda store, lease: store.renew(lease, lease_for=MINUTE, resources_done=1),
    "complete": lambda store, lease: store.complete(lease, [corpus.part(lease)]),
    "fail": lambda store, lease: store.fail(lease, "reason", max_attempts=1, retry_after=MINUTE),
    "release": lambda store, lease: store.release(lease),
    "cancel": lambda store, _: store.cancel(TENANT, "job"),
    "removable": lambda store, _: store.removable(completed_before=MINUTE, limit=9),
    "delete": lambda store, _: store.delete(TENANT, "job"),
    "exists": lambda store, _: store.exists(TENANT, "job"),
}


@pytest.fixture
def new_threads():
    """Those begun since, but for the event loop's own, which stay to be used again."""
    before = set(threading.enumerate())

    def new_threads():
        begun = set(threading.enumerate()) - before
        return [each for each in begun if not each.name.startswith("asyncio_")]

    return new_threads


async def claim(store, worker="worker"):
    return await store.claim(worker, lease_for=MINUTE, max_attempts=3)


async def begin_afresh(store):
    """One job, with one shard free and one held."""
    for name in ("job", "new"):
        await store.delete(TENANT, name)
    await store.add(corpus.job("job"), corpus.shards(2), max_active=9)
    return await claim(store)


def state_of(raw):
    return [raw.execute(query).fetchall() for query in STATE]


def holds_nothing(raw):
    """Neither the write lock, nor a snapshot that keeps the log from being emptied."""
    raw.execute("PRAGMA busy_timeout = 0")
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("ROLLBACK")
    return raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


class Canceller:
    """Cancels a call when its nth statement starts, and again at each one after that.

    Those statements are slow, so that a call that does not wait for them is gone before them.
    """

    def __init__(self, store, raw):
        self._connection = store._database._connection
        self._raw = raw
        self._loop = asyncio.get_running_loop()

    async def at_statement(self, number, call):
        """Whether there was an nth statement."""
        calling = asyncio.ensure_future(call)
        seen = []

        def traced(statement):
            seen.append(statement)
            if len(seen) >= number:
                self._loop.call_soon_threadsafe(calling.cancel)
                time.sleep(0.002)

        await self._connection.set_trace_callback(traced)
        await asyncio.wait([calling])
        assert holds_nothing(self._raw)
        await self._connection.set_trace_callback(None)
        assert calling.cancelled() == (len(seen) >= number)
        return calling.cancelled()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_cancelled_at_any_statement_is_whole_or_absent(store, raw, call):
    canceller = Canceller(store, raw)
    lease = await begin_afresh(store)
    before = state_of(raw)
    await call(store, lease)
    done = state_of(raw)

    number, cancelled, outcomes = 1, True, []
    while cancelled:
        lease = await begin_afresh(store)
        cancelled = await canceller.at_statement(number, call(store, lease))
        outcomes.append(state_of(raw))
        number += 1

    assert number > 2
    assert all(outcome in (before, done) for outcome in outcomes)
    assert outcomes[0] == before
    assert outcomes[-1] == done
    assert await goes_on_working(store)


async def test_callers_cancelled_at_any_moment_leave_the_store_working(store, raw):
    chance = random.Random(11)
    fates, errors = Counter(), []
    # Whether a call is over before it is cancelled depends on the machine; both has to happen.
    for number in itertools.count():
        if number >= 60 and len(fates) == 2:
            break
        assert number < 600, "all have the same fate"
        began = time.monotonic()
        lease = await begin_afresh(store)
        # Four calls of this machine, so that some of the five are over by then.
        at_most = time.monotonic() - began
        calls = [
            asyncio.ensure_future(call(store, lease))
            for call in chance.sample(list(CALLS.values()), 5)
        ]
        for calling in calls:
            await asyncio.sleep(chance.uniform(0, at_most / 4))
            calling.cancel()
        await asyncio.wait(calls)
        fates.update(calling.cancelled() for calling in calls)
        errors += [each.exception() for each in calls if not each.cancelled() and each.exception()]
        assert holds_nothing(raw)

    assert all(isinstance(error, HeliosError) for error in errors)
    assert await goes_on_working(store)


async def test_a_caller_cancelled_while_another_process_writes_goes_at_once(store, raw):
    """Otherwise it would wait as long as the other process writes, for an hour."""
    await begin_afresh(store)
    raw.execute("BEGIN IMMEDIATE")
    for wait in (0, 0.0005, 0.001, 0.002, 0.005):
        calling = asyncio.ensure_future(store.cancel(TENANT, "job"))
        await asyncio.sleep(wait)
        calling.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(calling, scaled(20))
    raw.execute("ROLLBACK")

    assert holds_nothing(raw)
    assert await goes_on_working(store)


async def test_an_opening_that_is_cancelled_leaves_no_thread_and_no_lock(
    settings, raw, new_threads
):
    for wait in (0, 0.0003, 0.001, 0.003, 0.01):
        opening = asyncio.ensure_future(open_and_get(settings))
        await asyncio.sleep(wait)
        opening.cancel()
        await asyncio.wait([opening])

        assert new_threads() == []
        assert holds_nothing(raw)


async def test_an_opening_that_fails_leaves_no_thread(settings, new_threads):
    settings.path.write_bytes(b"not a database at all" * 100)

    with pytest.raises(HeliosError):
        await open_and_get(settings)

    assert new_threads() == []


async def test_a_closed_store_leaves_no_thread(settings, new_threads):
    async with open_job_store(settings) as store:
        await store.exists(TENANT, "job")
        assert len(new_threads()) == 1

    assert new_threads() == []


async def open_and_get(settings):
    async with open_job_store(settings) as store:
        await store.exists(TENANT, "job")


async def goes_on_working(store):
    lease = await begin_afresh(store)
    await store.complete(lease, [corpus.part(lease)])
    rest = await claim(store)
    await store.complete(rest, [corpus.part(rest)])
    job = await store.get(TENANT, "job")
    return job.status is JobStatus.COMPLETE
