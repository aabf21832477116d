"""Health checks of plugins decide with the backends whether the server is ready."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import structlog

from helios_core.errors import BackendUnavailable
from helios_core.storage.backends import OpenedHealthChecks
from tests.pace import scaled

PATHS = ("/health", "/_readiness")


async def well():
    pass


def checks(plugin="demo", time_limit=timedelta(seconds=30), **named):
    return OpenedHealthChecks(plugin=plugin, checks=named, time_limit=time_limit)


@pytest.mark.parametrize("path", PATHS)
async def test_checks_that_pass_are_listed_with_their_plugin(open_site, path):
    site = await open_site(health_checks=(checks(fine=well), checks("other", also=well)))

    response = await site.client.get(path)

    assert (response.status_code, response.json()) == (
        200,
        {"status": "ok", "checks": ["demo/fine", "other/also"]},
    )


def raising(error):
    async def check():
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("password hush"), ""),
        (BackendUnavailable("the queue is down"), "the queue is down"),
        (SystemExit(1), ""),
        (KeyboardInterrupt(), ""),
        (asyncio.CancelledError(), ""),
        (TimeoutError(), ""),
    ],
)
async def test_a_check_that_raises_is_named_without_its_reason(open_site, outcome, error, reason):
    site = await open_site(health_checks=(checks(fine=well, queue=raising(error)),))

    for path in PATHS:
        with structlog.testing.capture_logs() as lines:
            response = await site.client.get(path)

        issue = outcome(response, 503, "transient")
        assert issue["diagnostics"] == (
            "These health checks fail: demo/queue. The reasons are in the log."
        )
        assert response.headers["retry-after"] == "5"
        [line] = [line for line in lines if line["event"] == "check.failed"]
        assert (line["check"], line["reason"]) == ("demo/queue", reason)
        assert "hush" not in str(lines)
    assert (await site.client.get("/_liveness")).status_code == 200


async def test_a_check_that_hangs_fails_in_time_and_the_others_are_told(open_site, outcome):
    async def hang():
        await asyncio.Event().wait()

    short = timedelta(milliseconds=1)
    site = await open_site(health_checks=(checks(slow=hang, time_limit=short), checks(ok=well)))

    issue = outcome(await site.client.get("/health"), 503)

    assert "demo/slow" in issue["diagnostics"]
    assert "demo/ok" not in issue["diagnostics"]


async def test_a_check_that_ignores_its_cancellation_runs_only_once(open_site, outcome):
    release, runs = asyncio.Event(), []

    async def stubborn():
        runs.append(1)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    short = timedelta(milliseconds=1)
    site = await open_site(health_checks=(checks(slow=stubborn, time_limit=short),))

    for _ in range(3):
        outcome(await site.client.get("/health"), 503)
    assert len(runs) == 1
    release.set()
    while (await site.client.get("/health")).status_code != 200:
        await asyncio.sleep(0.001)


async def test_however_many_ask_a_check_runs_once_at_a_time(open_site):
    entered, release, runs = asyncio.Event(), asyncio.Event(), []

    async def slow():
        runs.append(1)
        entered.set()
        await release.wait()

    site = await open_site(health_checks=(checks(slow=slow),))
    asking = [asyncio.ensure_future(site.client.get("/health")) for _ in range(5)]
    await asyncio.wait_for(entered.wait(), scaled(20))
    for _ in range(10):
        await asyncio.sleep(0)
    release.set()

    assert {(await each).status_code for each in asking} == {200}
    assert len(runs) <= 2


@pytest.mark.parametrize("path", PATHS)
async def test_exports_that_wait_for_a_worker_are_a_degraded_server(open_site, path):
    site = await open_site()
    await site.put({"resourceType": "Patient", "id": "p1"})
    await site.kick_off()

    response = await site.client.get(path)

    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    [problem] = response.json()["problems"]
    assert "no worker is running" in problem
    await site.backends.job_store.beat("worker", lasts=timedelta(hours=1))
    assert (await site.client.get(path)).json() == {"status": "ok"}


@pytest.mark.parametrize("path", PATHS)
async def test_exports_that_wait_for_a_backend_are_a_degraded_server(open_site, path):
    site = await open_site()
    await site.put({"resourceType": "Patient", "id": "p1"})
    await site.kick_off()
    await postpone(site.backends.job_store, "the bucket cannot be reached")

    response = await site.client.get(path)

    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    [problem] = response.json()["problems"]
    assert problem == "Exports wait for a backend (1): the bucket cannot be reached"


async def postpone(job_store, reason):
    """Let the next shard wait for a backend, under a worker that is alive."""
    hour = timedelta(hours=1)
    await job_store.beat("worker", lasts=hour)
    lease = await job_store.claim("worker", lease_for=hour, max_attempts=1)
    assert await job_store.postpone(lease, reason, retry_after=hour, patience=hour)


@pytest.mark.parametrize("path", ["/_liveness", "/health", "/Patient/1"])
async def test_requests_that_need_no_thread_do_not_wait_for_one(open_site, path):
    site = await open_site()
    released = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        try:
            busy = asyncio.get_running_loop().run_in_executor(None, released.wait)
            response = await asyncio.wait_for(site.client.get(path), scaled(60))
        finally:
            released.set()
        await busy

    assert response.status_code in {200, 404}
