import asyncio
import logging
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from helios_core import BackendUnavailable, JobStatus
from helios_core.testing import corpus
from helios_postgres import open_job_store
from tests.pace import scaled

HOUR = timedelta(hours=1)
NOW = timedelta(0)


@pytest.fixture
async def other(settings):
    """The store as another process has it open."""
    async with open_job_store(settings) as other:
        await heard_nothing_more(other)
        yield other


async def heard_nothing_more(store):
    """Wait until the store listens, and forget that it began to."""
    await asyncio.wait_for(store.wait_for_work(HOUR), scaled(10))
    assert await claim(store) is None


async def claim(store, *, max_attempts=3):
    return await store.claim("worker", lease_for=HOUR, max_attempts=max_attempts)


async def add(store, job_id="job", shards=1, *, phases=(), max_active=1000):
    planned = corpus.shards(shards, phases=phases)
    return await store.add(corpus.job(job_id), planned, max_active=max_active)


async def test_a_job_added_wakes_who_waits_in_another_process(store, other):
    waiting = asyncio.ensure_future(other.wait_for_work(HOUR))
    await asyncio.sleep(0)

    await add(store)

    await asyncio.wait_for(waiting, scaled(5))


async def test_a_job_added_between_looking_and_waiting_is_not_slept_over(store, other):
    assert await claim(other) is None
    await add(store)

    await asyncio.wait_for(other.wait_for_work(HOUR), scaled(5))


async def test_a_shard_handed_back_wakes_who_waits(store, other):
    await add(store)
    lease = await claim(store)
    await heard_nothing_more(other)

    await store.release(lease)

    await asyncio.wait_for(other.wait_for_work(HOUR), scaled(5))


async def test_a_shard_that_failed_without_a_pause_wakes_who_waits(store, other):
    await add(store)
    lease = await claim(store)
    await heard_nothing_more(other)

    await store.fail(lease, "why", max_attempts=3, retry_after=NOW)

    await asyncio.wait_for(other.wait_for_work(HOUR), scaled(5))


async def test_the_next_phase_wakes_who_waits(store, other):
    await add(store, shards=3, phases=(0, 0, 1))
    one, two = await claim(store), await claim(store)
    await heard_nothing_more(other)
    waiting = asyncio.ensure_future(other.wait_for_work(HOUR))

    await store.complete(one, [])
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await store.complete(two, [])

    await asyncio.wait_for(waiting, scaled(5))


async def test_waiting_without_work_ends_in_time(other):
    await asyncio.wait_for(other.wait_for_work(timedelta(milliseconds=20)), scaled(5))


async def test_who_waits_asks_the_database_nothing(other, raw):
    async def statements():
        """Which session has asked something last, and when."""
        return await raw.fetch(
            "SELECT pid, query_start FROM pg_stat_activity"
            " WHERE application_name = 'helios' AND datname = current_database() ORDER BY pid"
        )

    assert await claim(other) is None
    await heard_no_more_than(other, timedelta(seconds=0.1))
    before = await statements()

    await heard_no_more_than(other, timedelta(seconds=2))

    assert before
    assert await statements() == before


async def heard_no_more_than(store, at_most):
    waiting = asyncio.ensure_future(store.wait_for_work(HOUR))
    await asyncio.wait([waiting], timeout=at_most.total_seconds())
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_listener_that_is_cut_off_listens_again(store, other, raw):
    await heard_nothing_more(store)
    with structlog.testing.capture_logs() as logs:
        ended = await raw.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
        )
        # It wakes who waits as soon as it listens again, since it may have missed something.
        await asyncio.wait_for(other.wait_for_work(HOUR), scaled(10))
        await heard_no_more_than_now(other)
        await add(store)
        await asyncio.wait_for(other.wait_for_work(HOUR), scaled(5))
        await asyncio.wait_for(store.wait_for_work(HOUR), scaled(10))

    assert ended == 2
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["listener.lost"] * 2


async def heard_no_more_than_now(store):
    assert await claim(store) is None


async def test_a_store_works_on_after_its_server_was_restarted(
    store, settings, postgres_server, raw
):
    if not postgres_server.restartable:
        pytest.skip("a server that was given is not ours to restart")
    await add(store, shards=2)
    lease = await claim(store)

    await asyncio.to_thread(postgres_server.restart)

    await store.complete(lease, [corpus.part(lease)])
    assert (await claim(store)).shard.number == 1


async def test_a_server_that_is_down_is_told_as_unavailable(store, postgres_server):
    if not postgres_server.restartable:
        pytest.skip("a server that was given is not ours to stop")
    await add(store)
    postgres_server.server.stop()
    try:
        for call in (
            claim(store),
            store.get(corpus.TENANT, "job"),
            store.removable(completed_before=NOW, limit=1),
        ):
            with pytest.raises(BackendUnavailable, match="try again later"):
                await call
    finally:
        postgres_server.server.ensure_postgres_running()

    assert await claim(store) is not None


async def test_instants_are_those_of_the_database(store, raw):
    before = await raw.fetchval("SELECT clock_timestamp()")
    added = await add(store, shards=0)

    assert before <= added.created_at <= added.completed_at
    assert added.completed_at <= await raw.fetchval("SELECT clock_timestamp()")
    assert added.created_at.tzinfo is UTC
    assert abs(datetime.now(UTC) - added.created_at) < HOUR


async def test_deleting_a_job_leaves_no_row_behind(store, raw):
    await add(store, shards=2)
    lease = await claim(store)
    await store.complete(lease, [corpus.part(lease)], notes=b"noted")

    await store.delete(corpus.TENANT, "job")

    for table in ("jobs", "shards", "parts", "notes"):
        assert await raw.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_two_tenants_may_use_one_job_id(store):
    for tenant in (corpus.TENANT, corpus.OTHER_TENANT):
        await store.add(corpus.job("job", tenant=tenant), corpus.shards(1), max_active=1)

    await store.cancel(corpus.TENANT, "job")

    assert (await store.get(corpus.OTHER_TENANT, "job")).status.active


async def test_recent_jobs_are_told_the_latest_first(store):
    for name in ("one", "two", "three"):
        await add(store, name)
        lease = await claim(store)
        assert await store.complete(lease, []) is JobStatus.COMPLETE

    assert [job.id for job in await store.recent(corpus.TENANT, limit=2)] == ["three", "two"]


async def test_notes_are_read_one_shard_at_a_time(store, raw):
    await add(store, shards=3)
    for number in range(3):
        await store.complete(await claim(store), [], notes=b"%d" % number)
    notes = store.notes(corpus.TENANT, "job")

    async with aclosing(notes):
        assert await anext(notes) == b"0"
        await raw.execute("UPDATE notes SET notes = '9' WHERE shard = 1")
        assert await anext(notes) == b"9"


async def test_the_identity_is_that_of_the_schema(store, other):
    assert store.identity == other.identity


async def test_the_address_is_in_no_log_line(settings, caplog):
    caplog.set_level(logging.DEBUG)
    secret = settings.database_url.reveal()

    async with open_job_store(settings) as store:
        await add(store)

    assert secret not in caplog.text
    assert secret not in repr(settings)
