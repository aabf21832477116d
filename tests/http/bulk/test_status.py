import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from helios_core.config.settings import Settings
from helios_core.errors import BackendUnavailable
from helios_core.fhir.instants import parse_instant
from helios_core.http.bulk.status import next_poll_seconds
from helios_core.memory import MemoryOutputStore
from helios_core.model.jobs import JobProgress

PATIENT = {"resourceType": "Patient", "id": "p1"}


class Stubborn(MemoryOutputStore):
    """Cannot remove anything."""

    async def delete(self, tenant, job_id):
        raise BackendUnavailable("the disk is away")


class Full(MemoryOutputStore):
    """Has no room for anything."""

    async def put(self, key, chunks):
        raise BackendUnavailable("There is no room left for output.")


async def test_a_running_export_answers_202_with_progress_and_a_number_of_seconds(site):
    """B2-ST-02, B2-ST-03, B2-ST-04, TR-31, TR-33, RC-08, RC-09, RC-10"""
    await site.backends.job_store.beat("worker", lasts=timedelta(hours=1))
    await site.put(PATIENT)
    location = await site.kick_off()

    response = await site.client.get(location)

    assert response.status_code == 202
    assert response.headers["retry-after"] == "1"
    assert "content-type" not in response.headers
    assert re.fullmatch(r"\d+ % \([\d,]+ of [\d,]+ resources\)", response.headers["x-progress"])
    assert response.content == b""


async def test_a_finished_export_answers_with_its_manifest(open_site):
    """
    B2-ST-12, B2-ST-13, B2-ST-14, B2-MF-01, B2-MF-06, B2-MF-11, B2-MF-17, TR-39, TR-41, RC-11,
    RV-35
    """
    site = await open_site(Settings(bulk_export_output_ttl=timedelta(hours=2)))
    await site.put(PATIENT)
    before = datetime.now(UTC)
    location = await site.kick_off("/$export?_type=Patient")
    await site.finish(location)

    response = await site.client.get(location, headers={"Accept": "application/json"})

    manifest = response.json()
    job_id = location.rsplit("/", 1)[1]
    expires = parsedate_to_datetime(response.headers["expires"])
    assert response.headers["content-type"] == "application/json"
    assert manifest.keys() == {
        *("transactionTime", "request", "requiresAccessToken"),
        *("output", "deleted", "error", "extension"),
    }
    assert before <= parse_instant(manifest["transactionTime"]) <= datetime.now(UTC)
    assert manifest["requiresAccessToken"] is False
    assert manifest["output"] == [
        {
            "type": "Patient",
            "url": f"http://fhir.example/export-file/{job_id}/Patient-1-1.ndjson",
            "count": 1,
        }
    ]
    assert (manifest["deleted"], manifest["error"]) == ([], [])
    assert timedelta(hours=1, minutes=59) < expires - before < timedelta(hours=2, minutes=1)
    assert response.headers["expires"].endswith("GMT")


async def test_an_empty_export_has_empty_lists(site):
    """B2-MF-07"""
    manifest = await site.manifest()

    assert manifest["output"] == []


async def test_deletions_since_the_last_export_are_listed(site):
    """B2-MF-13, B2-MF-14, B2-MF-16, RC-16, RV-50"""
    await site.put(PATIENT)
    since = (await site.manifest())["transactionTime"]
    await site.delete("Patient", "p1")

    manifest = await site.manifest(f"/$export?_since={since}")

    [deleted] = manifest["deleted"]
    bundle = (await site.client.get(deleted["url"])).json()
    assert deleted["type"] == "Bundle"
    assert bundle["entry"][0]["request"] == {"method": "DELETE", "url": "Patient/p1"}


async def test_a_failed_export_says_why_again_and_again(open_site, outcome):
    """B2-ST-07, B2-ST-08, B2-ST-09, TR-36"""
    site = await open_site(output_store=Full())
    await site.put(PATIENT)
    location = await site.kick_off()
    await site.finish(location)

    first, second = [await site.client.get(location) for _ in range(2)]

    issue = outcome(first, 500, "processing")
    assert "no room" in issue["diagnostics"]
    assert second.content == first.content


async def test_a_deleted_export_is_gone_at_once_and_its_files_with_it(site, outcome):
    """B2-DL-01, B2-DL-02, B2-DL-03, B2-DL-04, TR-38, RC-19, RV-30, RV-31, RV-32, RV-43"""
    await site.put(PATIENT)
    location = await site.kick_off()
    await site.finish(location)
    file = (await site.client.get(location)).json()["output"][0]["url"]

    deleted = await site.client.delete(location)

    assert (deleted.status_code, deleted.content) == (202, b"")
    outcome(await site.client.get(location), 404, "not-found")
    outcome(await site.client.delete(location), 404, "not-found")
    outcome(await site.client.get(file), 404, "not-found")
    assert [job async for job in site.backends.output_store.jobs()] == []


async def test_a_running_export_can_be_deleted(site, outcome):
    """B2-DL-01, B2-DL-02, TR-37, RV-30"""
    await site.put(PATIENT)
    location = await site.kick_off()

    assert (await site.client.delete(location)).status_code == 202

    outcome(await site.client.get(location), 404)


async def test_files_that_cannot_be_removed_are_left_to_the_sweeper(open_site, outcome):
    site = await open_site(output_store=Stubborn())
    await site.put(PATIENT)
    location = await site.kick_off()
    await site.finish(location)

    deleted = await site.client.delete(location)

    assert deleted.status_code == 202
    outcome(await site.client.get(location), 404)
    assert await site.backends.job_store.removable(completed_before=timedelta(days=1), limit=9)


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
async def test_another_tenant_sees_no_export(site, method):
    location = await site.kick_off()

    response = await site.client.request(method, location, headers={"X-Tenant-ID": "other"})

    assert response.status_code == 404


async def test_an_unknown_export_is_an_outcome(client, outcome):
    """B2-DL-04, RV-31"""
    outcome(await client.get("/export-status/none"), 404, "not-found")
    outcome(await client.delete("/export-status/none"), 404, "not-found")


@pytest.mark.parametrize(
    ("done", "total", "age", "seconds"),
    [
        (0, 100, 0, 1),
        (0, 100, 3.5, 4),
        (50, 100, 10, 10),
        (90, 100, 9, 1),
        (10, 100, 20, 20),
        (1, 1000, 600, 30),
        (200, 100, 50, 1),
        (0, 0, 0, 1),
    ],
)
def test_the_wait_follows_the_rest_of_the_work_and_the_age(done, total, age, seconds):
    """TR-31, RC-09"""
    progress = JobProgress(
        resources_done=done, resources_total=total, shards_done=0, shards_total=1
    )

    assert next_poll_seconds(progress, age=timedelta(seconds=age)) == seconds


async def test_progress_is_short_ascii_and_below_100_percent(open_site):
    """B2-ST-04, TR-34"""
    site = await open_site()
    await site.put(PATIENT)
    location = await site.kick_off()

    async def progress(_tenant, _job_id):
        return JobProgress(
            resources_done=300_000, resources_total=290_000, shards_done=1, shards_total=2
        )

    site.backends.job_store.progress = progress

    text = (await site.client.get(location)).headers["x-progress"]
    assert text == "99 % (300,000 of 300,000 resources); waiting, no worker is running"
    await site.backends.job_store.beat("worker", lasts=timedelta(hours=1))
    text = (await site.client.get(location)).headers["x-progress"]
    assert text == "99 % (300,000 of 300,000 resources)"


async def test_progress_says_what_an_export_waits_for(open_site):
    """B2-ST-04"""
    site = await open_site()
    await site.put(PATIENT)
    location = await site.kick_off()
    begun = "0 % (0 of 1 resources); waiting, "

    for reason, shown in (
        ("the output bucket cannot be reached", "the output bucket cannot be reached"),
        ("bücket\r\nX-Evil: 1", "b?cket??X-Evil: 1"),
        ("far " * 50, ("far " * 50)[: 97 - len(begun)].rstrip() + "..."),
    ):
        await postpone_next(site.backends.job_store, reason)
        text = (await site.client.get(location)).headers["x-progress"]
        assert text == begun + shown
        assert len(text) <= 100


async def postpone_next(job_store, reason):
    """Let the next shard wait for a backend, under a worker that is alive."""
    hour, at_once = timedelta(hours=1), timedelta(0)
    await job_store.beat("worker", lasts=hour)
    lease = await job_store.claim("worker", lease_for=hour, max_attempts=1)
    assert await job_store.postpone(lease, reason, retry_after=at_once, patience=hour)


async def test_observers_are_told_of_an_export_that_its_client_ends(open_site):
    announced = []
    site = await open_site(announce=announced.append)
    await site.put(PATIENT)
    location = await site.kick_off()

    await site.client.delete(location)

    assert [job.status for job in announced] == ["accepted", "cancelled"]
    assert location.endswith(announced[1].id)


async def test_observers_are_told_of_an_export_that_is_ended_for_polling(open_site):
    announced = []
    limits = Settings(bulk_export_polls_per_minute=6, bulk_export_max_refused_polls=2)
    site = await open_site(limits, announce=announced.append)
    await site.put(PATIENT)
    location = await site.kick_off()

    for _ in range(4):
        await site.client.get(location)

    assert [job.status for job in announced] == ["accepted", "cancelled"]
