"""Background loops outlive whatever a backend raises."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from helios_core.errors import ConfigurationError, InvalidResource, UnreadableJob
from helios_core.export.expiry import Lifetimes, sweep, sweep_periodically
from helios_core.memory import MemoryJobStore, MemoryOutputStore
from helios_core.model.jobs import JobStatus
from helios_core.storage.isolation import contained
from tests.export.worker.hospital import patient

RAISED = [
    ValueError("Jane-Canary"),
    RecursionError(),
    MemoryError(),
    asyncio.CancelledError(),
    SystemExit(3),
    StopAsyncIteration(),
    ConfigurationError("a table is missing"),
    InvalidResource("a row has no id"),
    UnreadableJob("a row is damaged"),
]


def failing(store_class, method, error):
    """A store whose method raises at its first call."""
    store = store_class()
    sound, left = getattr(store, method), [error]

    async def fail_first(*arguments, **named):
        if left:
            raise left.pop()
        return await sound(*arguments, **named)

    setattr(store, method, fail_first)
    return store


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "method", ["claim", "wait_for_work", "complete", "is_held", "fail", "release"]
)
async def test_a_worker_outlives_what_a_job_store_raises(hospital, method, error):
    hospital.job_store = failing(MemoryJobStore, method, error)
    await hospital.store(patient("p1"))
    job = await hospital.kick_off()

    with capture_logs() as lines:
        working = asyncio.ensure_future(hospital.work(job, workers=1))
        while not working.done() and "shard.abandoned" not in [line["event"] for line in lines]:
            await asyncio.sleep(0.005)
        if not working.done():  # the shard stays with a worker that cannot report it
            hospital.job_store._entries[job.tenant, job.id].work[0].free_at = None

    assert (await working).status in (JobStatus.COMPLETE, JobStatus.ERROR)
    # Of an exception the log has no message, see tests/config/test_logs.py.
    assert "Canary" not in str([{**line, "exc_info": None} for line in lines])


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_sweep_outlives_what_a_backend_raises_and_removes_the_rest(hospital, error):
    hospital.output_store = failing(MemoryOutputStore, "delete", error)
    await hospital.store(patient("p1"))
    for _ in range(3):
        await hospital.work(await hospital.kick_off())

    with capture_logs() as lines:
        assert await sweep(hospital.backends, output_ttl=timedelta(0)) == 2
    assert await sweep(hospital.backends, output_ttl=timedelta(0)) == 1

    assert [line["event"] for line in lines].count("job.removal_failed") == 1


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["removable", "end_untouched", "jobs"])
async def test_the_sweeper_goes_on_after_a_sweep_that_failed(hospital, method, error):
    hospital.job_store = failing(MemoryJobStore, method, error)
    await hospital.store(patient("p1"))
    job = await hospital.work(await hospital.kick_off())
    stop = asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(
            sweep_periodically(
                hospital.backends,
                lifetimes=Lifetimes(output=timedelta(0)),
                interval=timedelta(milliseconds=1),
                stop=stop,
            )
        )
        while await hospital.job_store.exists(job.tenant, job.id):
            await asyncio.sleep(0.001)
        stop.set()


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_worker_goes_on_when_it_cannot_say_that_it_is_alive(hospital, error):
    hospital.job_store = failing(MemoryJobStore, "beat", error)
    await hospital.store(patient("p1"))

    with capture_logs() as lines:
        job = await hospital.work(await hospital.kick_off(), workers=1)

    assert job.status is JobStatus.COMPLETE
    assert [line["event"] for line in lines].count("heartbeat.failed") == 1
    assert "Jane-Canary" not in str(lines)


async def test_only_the_cancellation_of_the_task_itself_ends_it():
    async def wait():
        with contained():
            await asyncio.sleep(600)

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
