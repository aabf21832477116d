"""Exports that wait because nobody works, or because nobody can read them."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from helios_core.errors import BackendError, TooManyExports
from helios_core.export.oversight import problems, watch_workforce
from helios_core.export.worker import Worker, WorkerOptions
from helios_core.model.jobs import JobQuery, Workforce
from tests.export.worker.hospital import patient
from tests.pace import scaled

MOMENT = timedelta(milliseconds=2)
LONG = timedelta(hours=1)


async def until(condition):
    async with asyncio.timeout(scaled(60)):
        while not await condition():
            await asyncio.sleep(0.002)


async def test_a_worker_is_alive_from_its_start_to_its_stop_busy_or_idle(hospital):
    stop = asyncio.Event()
    options = WorkerOptions(lease_for=LONG, heartbeat=MOMENT)

    async def works():
        return await hospital.job_store.workforce() == Workforce(alive=1, waiting=0)

    async with asyncio.TaskGroup() as group:
        group.create_task(Worker("w", hospital.backends, options, stop=stop).run())
        await until(works)
        hospital.job_store._alive.clear()
        await until(works)
        stop.set()

    assert (await hospital.job_store.workforce()).alive == 0


async def test_a_worker_that_cannot_retire_stops_all_the_same(hospital):
    async def never(worker):
        await asyncio.Event().wait()

    hospital.job_store.retire = never
    stop = asyncio.Event()
    stop.set()

    async with asyncio.timeout(scaled(60)):
        await Worker("w", hospital.backends, WorkerOptions(), stop=stop).run()


async def test_waiting_without_a_worker_is_logged_once_for_each_change(hospital):
    await hospital.store(patient("p1"))
    stop = asyncio.Event()

    async def logged(event, times):
        return [line["event"] for line in lines].count(event) == times

    with capture_logs() as lines:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch_workforce(hospital.job_store, interval=MOMENT, stop=stop))
            await hospital.kick_off()
            await until(lambda: logged("workers.missing", 1))
            await hospital.job_store.beat("w", lasts=LONG)
            await until(lambda: logged("workers.present", 1))
            await hospital.job_store.retire("w")
            await until(lambda: logged("workers.missing", 2))
            stop.set()

    assert [line["waiting"] for line in lines if line["event"] == "workers.missing"] == [1, 1]


async def test_nobody_is_said_to_work_when_the_waiting_exports_are_gone(hospital):
    await hospital.store(patient("p1"))
    job, stop = await hospital.kick_off(), asyncio.Event()
    counted, workforce = list[Workforce](), hospital.job_store.workforce

    async def noted():
        counted.append(await workforce())
        return counted[-1]

    async def has_looked_since():
        return counted[-1:] == [Workforce(alive=0, waiting=0)] and len(counted) > 2

    async def missing():
        return "workers.missing" in [line["event"] for line in lines]

    hospital.job_store.workforce = noted
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch_workforce(hospital.job_store, interval=MOMENT, stop=stop))
            await until(missing)
            await hospital.job_store.cancel(job.tenant, job.id)
            await until(has_looked_since)
            stop.set()

    assert [line["event"] for line in lines] == ["workers.missing"]


async def test_the_watch_outlives_a_job_store_that_fails(hospital):
    await hospital.store(patient("p1"))
    sound, left = hospital.job_store.workforce, [BackendError("away"), ValueError("Jane-Canary")]

    async def failing():
        if left:
            raise left.pop()
        return await sound()

    stop = asyncio.Event()
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as group:
            await hospital.kick_off()
            hospital.job_store.workforce = failing
            group.create_task(watch_workforce(hospital.job_store, interval=MOMENT, stop=stop))

            async def logged():
                return "workers.missing" in [line["event"] for line in lines]

            await until(logged)
            stop.set()

    assert "Jane-Canary" not in str(lines)


async def test_problems_are_sentences_without_ids(hospital):
    await hospital.store(patient("p1"))
    assert await problems(hospital.job_store) == []
    job = await hospital.kick_off()
    hospital.job_store._entries[job.tenant, job.id].accepted = b"{"
    await hospital.job_store.jobs(JobQuery(), limit=9)

    waiting, unreadable = await problems(hospital.job_store)

    assert "helios worker" in waiting
    assert "(1; see `helios jobs list`)" in unreadable
    assert job.id not in unreadable
    await hospital.job_store.delete(job.tenant, job.id)
    assert await problems(hospital.job_store) == []


@pytest.mark.parametrize("alive", [True, False])
async def test_whoever_meets_the_cap_reads_whether_somebody_works(hospital, alive):
    await hospital.store(patient("p1"))
    if alive:
        await hospital.job_store.beat("w", lasts=LONG)
    for _ in range(4):
        await hospital.kick_off()

    with pytest.raises(TooManyExports) as refused:
        await hospital.kick_off()

    assert ("no worker is running" in str(refused.value)) is not alive
