import asyncio
from datetime import timedelta

import msgspec
import pytest

from helios_core.export.pipeline.shard_export import PartLimits
from helios_core.export.worker import WorkerOptions, run_worker
from helios_core.memory import MemoryOutputStore
from tests.pace import scaled

PARTIAL = "/$export?allowPartialManifests=true"
PAGES = ("transactionTime", "request", "requiresAccessToken")


class Gate(MemoryOutputStore):
    """Stores a part only when a test says so."""

    def __init__(self):
        super().__init__()
        self._passes = asyncio.Semaphore(0)

    async def put(self, key, chunks):
        await self._passes.acquire()
        return await super().put(key, chunks)

    def let(self, parts):
        for _ in range(parts):
            self._passes.release()


class Running:
    """An export at work, and what a client sees of it."""

    def __init__(self, site, location):
        self.site = site
        self.location = location

    async def poll(self, page=None):
        return await self.site.client.get(
            f"{self.location}?page={page}" if page else self.location
        )

    async def published(self, parts):
        """Let that many parts through in all, and wait until they are published."""
        there = len(await self.site.backends.job_store.parts("default", self.job_id))
        self.site.backends.output_store.let(parts - there)
        async with asyncio.timeout(scaled(10)):
            while len(await self.site.backends.job_store.parts("default", self.job_id)) < parts:
                await asyncio.sleep(0.002)

    @property
    def job_id(self):
        return self.location.rsplit("/", 1)[1]


@pytest.fixture
async def running(open_site):
    """Start exports whose every resource is a part of its own, five to a shard."""
    site = await open_site(output_store=Gate())
    stop = asyncio.Event()
    options = WorkerOptions(
        idle=timedelta(milliseconds=2), limits=PartLimits(part_rows=1, batch_rows=1)
    )

    async def running(types, path=PARTIAL, headers=None):
        await site.put(
            *({"resourceType": name, "id": f"r{n}"} for name in types for n in range(5))
        )
        group.create_task(run_worker("tester", site.backends, options, stop=stop))
        separator = "&" if "?" in path else "?"
        location = await site.kick_off(
            f"{path}{separator}_type={','.join(types)}", headers=headers or {}
        )
        return Running(site, location)

    async with asyncio.TaskGroup() as group:
        try:
            yield running
        finally:
            stop.set()


def names(manifest):
    return [file["url"].rsplit("/", 1)[1] for file in manifest["output"]]


TYPES = ("Device", "Group", "Location", "Organization", "Patient")


async def test_pages_are_shown_while_the_export_runs_and_never_change(running):
    """B3-21, B3-22, B3-23, B3-24, B3-25, RC-12, RV-38"""
    export = await running(TYPES)

    nothing = await export.poll()
    await export.published(5)
    half = await export.poll()
    await export.published(10)
    full = await export.poll()
    await export.published(15)
    linked, second = await export.poll(), await export.poll(2)
    export.site.backends.output_store.let(10)
    await finished(export)
    pages = [await export.poll(page) for page in (1, 2, 3)]

    for early in (nothing, half, second):
        assert (early.status_code, early.content) == (202, b"")
    for early in (full, linked):
        assert early.status_code == 202
        assert early.headers["content-type"] == "application/json"
        assert int(early.headers["retry-after"]) >= 1
    assert "link" not in full.json()
    next_page = [{"relation": "next", "url": f"{export.location}?page=2"}]
    assert linked.json() == full.json() | {"link": next_page} == pages[0].json()
    assert [page.status_code for page in pages] == [200, 200, 200]
    manifests = [page.json() for page in pages]
    assert [len(names(manifest)) for manifest in manifests] == [10, 10, 5]
    assert len({name for manifest in manifests for name in names(manifest)}) == 25
    assert ["link" in manifest for manifest in manifests] == [True, True, False]
    for member in (*PAGES, "error"):
        assert [manifest[member] for manifest in manifests] == [manifests[0][member]] * 3
    assert "extension" not in manifests[0]


async def finished(export):
    async with asyncio.timeout(scaled(10)):
        while (await export.site.backends.job_store.get("default", export.job_id)).status.active:
            await asyncio.sleep(0.002)


async def test_what_is_listed_can_be_downloaded_at_once_and_stays_as_it_is(running):
    """B3-22, B3-23"""
    export = await running(TYPES)
    await export.published(10)
    [url, *_] = [file["url"] for file in (await export.poll()).json()["output"]]

    early = await export.site.client.get(url)
    export.site.backends.output_store.let(15)
    await finished(export)
    late = await export.site.client.get(url)

    assert early.status_code == 200
    assert early.content == late.content
    assert {"etag", "last-modified"} <= early.headers.keys()
    assert all(early.headers[name] == late.headers[name] for name in ("etag", "last-modified"))


async def test_without_the_parameter_nothing_is_shown_before_the_end(running):
    """B3-26, TR-45: one manifest, no link, and nothing to download early."""
    export = await running(TYPES, "/$export")
    await export.published(10)

    early = await export.poll()
    file = await export.site.client.get(f"/export-file/{export.job_id}/Device-1-1.ndjson")
    export.site.backends.output_store.let(15)
    await finished(export)
    manifest = (await export.poll()).json()

    assert (early.status_code, early.content) == (202, b"")
    assert file.status_code == 404
    assert len(names(manifest)) == 25
    assert "link" not in manifest


async def test_pages_end_where_the_files_end(running):
    """B3-25: a full last page has no link, and there is no page behind it."""
    export = await running(TYPES[:2])
    export.site.backends.output_store.let(10)
    await finished(export)

    first, beyond = await export.poll(), await export.poll(2)

    assert "link" not in first.json()
    assert len(names(first.json())) == 10
    assert beyond.status_code == 404
    assert beyond.json()["resourceType"] == "OperationOutcome"


async def test_an_empty_export_has_one_empty_page(site):
    """B3-21"""
    manifest = await site.manifest(PARTIAL)

    assert manifest["output"] == []
    assert "link" not in manifest


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.0", "", "01", "1&page=2", "9" * 12])
async def test_a_page_that_is_no_number_is_refused(site, outcome, page):
    location = await site.kick_off(PARTIAL)

    outcome(await site.client.get(f"{location}?page={page}"), 400, "value")


@pytest.mark.parametrize("value", ["maybe", "True", ""])
async def test_a_client_must_say_true_or_false(client, outcome, value):
    """B3-21"""
    response = await client.get(
        f"/$export?allowPartialManifests={value}", headers={"Prefer": "respond-async"}
    )

    outcome(response, 400, "value")


async def test_every_file_of_a_page_has_its_own_proof(site):
    """B3-24: what is equal on all pages cannot tell what is only known in the end."""
    await site.put({"resourceType": "Patient", "id": "p1"})

    manifest = await site.manifest(PARTIAL)

    [file] = manifest["output"]
    proof = file["extension"]["urn:helios:completeness"]
    content = (await site.client.get(file["url"])).content
    assert proof.keys() == {"count", "bytes", "digest"}
    assert (proof["count"], proof["bytes"]) == (1, len(content))


SEPARATE = {"Prefer": "respond-async, separate-export-status"}


async def test_a_kick_off_says_which_preferences_were_applied(client):
    """B3-02"""
    separate = await client.get("/$export", headers=SEPARATE)
    plain = await client.get("/$export", headers={"Prefer": "respond-async"})

    assert separate.headers["preference-applied"] == "respond-async, separate-export-status"
    assert "preference-applied" not in plain.headers


async def test_a_separate_status_is_sent_in_a_header(site):
    """B3-03: the status of a response is that of the poll."""
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off(headers=SEPARATE)

    running = await site.client.get(location)
    await site.finish(location)
    complete = await site.client.get(location)

    assert (running.status_code, running.content) == (200, b"")
    assert running.headers["x-export-status"] == "202 Accepted"
    assert {"retry-after", "x-progress"} <= running.headers.keys()
    assert (complete.status_code, complete.headers["x-export-status"]) == (200, "200 OK")
    assert complete.json()["output"][0]["type"] == "Patient"


async def test_a_failure_is_sent_in_a_header_too(site):
    """B3-03"""
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off(headers=SEPARATE)
    entry = site.backends.job_store._entries["default", location.rsplit("/", 1)[1]]
    failed = msgspec.structs.replace(entry.job, status="error", failure="The disk is full.")
    entry.job = msgspec.convert(msgspec.to_builtins(failed), type(failed))

    response = await site.client.get(location)

    assert response.status_code == 200
    assert response.headers["x-export-status"] == "500 Internal Server Error"
    assert response.headers["content-type"].startswith("application/fhir+json")
    assert "The disk is full." in response.json()["issue"][0]["diagnostics"]


async def test_a_poll_of_what_is_not_there_fails_itself(site, outcome):
    """B3-03"""
    location = await site.kick_off(headers=SEPARATE)
    await site.client.delete(location)

    response = await site.client.get(location)

    outcome(response, 404)
    assert "x-export-status" not in response.headers


async def test_without_the_preference_the_status_is_that_of_the_export(site):
    """B3-04, TR-45"""
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off()

    running = await site.client.get(location)
    await site.finish(location)
    complete = await site.client.get(location)

    assert [running.status_code, complete.status_code] == [202, 200]
    assert all("x-export-status" not in each.headers for each in (running, complete))


async def test_partial_manifests_come_with_a_separate_status(running):
    """B3-03, B3-22"""
    export = await running(TYPES[:3], headers=SEPARATE)
    await export.published(10)

    early = await export.poll()
    export.site.backends.output_store.let(5)
    await finished(export)

    assert (early.status_code, early.headers["x-export-status"]) == (200, "202 Accepted")
    assert len(names(early.json())) == 10
