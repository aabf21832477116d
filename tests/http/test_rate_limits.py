import asyncio
import time
from datetime import timedelta

import httpx
import pytest

from helios_core.client.export import export
from helios_core.client.kickoff import ClientRequest
from helios_core.config.settings import Settings
from helios_core.http.app import create_app
from helios_core.http.rate_limits import MAX_CLIENTS, RateLimiter, TooManyRequests, address_group

ASYNC = {"Prefer": "respond-async"}
PATIENT = {"resourceType": "Patient", "id": "p1"}
STRICT = Settings(bulk_export_polls_per_minute=6, bulk_export_max_refused_polls=5)


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limiter(clock):
    """A limit of ten at once and one more every second."""
    return RateLimiter(60, "requests", clock=clock)


def accepted(limiter, client="a", *, times=1000):
    """Request until it is refused; return how many were accepted, and the Retry-After."""
    for count in range(times):
        try:
            limiter.acquire(client)
        except TooManyRequests as refusal:
            return count, int(refusal.headers["Retry-After"])
    return times, 0


def test_a_sixth_of_a_minute_may_come_at_once(limiter):
    assert accepted(limiter) == (10, 1)


def test_who_waits_as_long_as_required_is_accepted_every_time(limiter, clock):
    accepted(limiter)

    for _ in range(200):
        count, wait = accepted(limiter)
        assert count <= 1
        clock.now += wait
        assert accepted(limiter, times=1) == (1, 0)


def test_a_refusal_does_not_count(limiter, clock):
    accepted(limiter)
    for _ in range(100):
        assert accepted(limiter) == (0, 1)

    clock.now += 1

    assert accepted(limiter) == (1, 1)


def test_a_steady_client_at_the_rate_is_never_refused(limiter, clock):
    for _ in range(1000):
        assert accepted(limiter, times=1) == (1, 0)
        clock.now += 1


def test_an_idle_minute_brings_no_more_than_what_may_come_at_once(limiter, clock):
    accepted(limiter)

    clock.now += 3600

    assert accepted(limiter) == (10, 1)


def test_clients_do_not_count_for_each_other(limiter):
    accepted(limiter, "a")

    assert accepted(limiter, "b") == (10, 1)


def test_refusals_in_a_row_are_counted(limiter, clock):
    accepted(limiter)
    accepted(limiter)
    assert limiter.refusals("a") == 2

    clock.now += 1
    limiter.acquire("a")

    assert (limiter.refusals("a"), limiter.refusals("b")) == (0, 0)


def test_a_rate_below_one_in_ten_seconds_still_accepts_one(clock):
    limiter = RateLimiter(1, "requests", clock=clock)

    assert accepted(limiter) == (1, 60)


def test_zero_is_without_a_limit(clock):
    assert accepted(RateLimiter(0, "requests", clock=clock)) == (1000, 0)


def test_memory_does_not_grow_with_the_clients(limiter):
    for number in range(MAX_CLIENTS + 100):
        limiter.acquire(number)

    assert len(limiter._clients) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_client_is_its_network(host, client):
    assert address_group(host) == client


async def burst(client, method, url, *, times, **options):
    """Send requests at once, and return the responses by status."""
    sent = (client.request(method, url, **options) for _ in range(times))
    responses = {}
    for response in await asyncio.gather(*sent):
        responses.setdefault(response.status_code, []).append(response)
    return responses


async def test_fifty_polls_at_once_are_too_many(site, outcome):
    """B2-ST-05, B2-SEC-10, B2-ST-08, RC-09"""
    await site.put(PATIENT)
    location = await site.kick_off()

    began = time.monotonic()
    responses = await burst(site.client, "GET", location, times=50)

    assert 20 <= len(responses[202]) <= 20 + 2 * (time.monotonic() - began)
    assert responses.keys() == {202, 429}
    refused = responses[429][-1]
    assert "wait" in outcome(refused, 429, "throttled")["diagnostics"]
    assert refused.headers["retry-after"] == "1"
    assert (await site.client.get("/metadata")).status_code == 200


async def test_a_refused_poll_takes_nothing_from_the_export(site):
    """B2-ST-05"""
    await site.put(PATIENT)
    location = await site.kick_off("/$export?_type=Patient")
    await burst(site.client, "GET", location, times=500)

    await site.finish(location)

    await asyncio.sleep(1)
    manifest = (await site.client.get(location)).json()
    assert [file["count"] for file in manifest["output"]] == [1]


async def test_exports_and_pages_are_watched_side_by_side(site):
    """B2-ST-05"""
    await site.put(PATIENT)
    first, second = await site.kick_off(), await site.kick_off()

    await burst(site.client, "GET", first, times=50)

    assert (await site.client.get(second)).status_code == 202
    assert (await site.client.get(f"{first}?page=2")).status_code == 202


@pytest.mark.parametrize("state", ["running", "complete", "failed", "partial"])
async def test_page_numbers_are_no_way_around_the_limit(open_site, state):
    """B2-ST-05: a page that is not there is a poll like any other."""
    site = await open_site(Settings(bulk_export_polls_per_minute=12))
    await site.put(PATIENT)
    query = "&allowPartialManifests=true" if state == "partial" else ""
    location = await site.kick_off(f"/$export?_type=Patient{query}")
    if state == "complete":
        await site.finish(location)
    elif state == "failed":
        store = site.backends.job_store
        lease = await store.claim("w", lease_for=timedelta(minutes=1), max_attempts=1)
        await store.fail(lease, "broken", max_attempts=1, retry_after=timedelta(0))

    urls = [f"{location}?page={number}" for number in range(2, 102)]
    began = time.monotonic()
    statuses = [(await site.client.get(url)).status_code for url in urls]

    accepted_polls = len(statuses) - statuses.count(429)
    assert 2 <= accepted_polls <= 2 + (time.monotonic() - began) / 5


async def test_pages_that_are_there_are_fetched_at_once(open_site):
    """B3-25: each has a limit of its own."""
    site = await open_site(Settings(bulk_export_polls_per_minute=6))
    for number in range(60):
        await site.put({"resourceType": "Patient", "id": f"p{number}"})
    location = await site.kick_off("/$export?_type=Patient&allowPartialManifests=true")
    await site.finish(location, part_rows=1)

    responses = [await site.client.get(f"{location}?page={n}") for n in (2, 3, 4, 5, 6)]

    assert [response.status_code for response in responses] == [200] * 5


async def test_clients_at_other_addresses_are_not_held_up(open_site, backends):
    """B2-ST-05"""
    site = await open_site()
    await site.put(PATIENT)
    location = await site.kick_off()
    await burst(site.client, "GET", location, times=50)

    transport = httpx.ASGITransport(create_app(Settings(), backends), client=("192.0.2.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://fhir.example") as other:
        assert (await other.get(location)).status_code == 202


async def test_a_burst_of_kick_offs_is_refused_and_leaves_nothing(open_site, backends, outcome):
    """B2-SEC-10"""
    site = await open_site(
        Settings(bulk_export_kickoffs_per_minute=60, bulk_export_max_concurrent_per_tenant=1000)
    )

    began = time.monotonic()
    responses = await burst(site.client, "GET", "/$export", times=60, headers=ASYNC)

    assert 10 <= len(responses[202]) <= 10 + (time.monotonic() - began)
    assert responses.keys() == {202, 429}
    outcome(responses[429][0], 429, "throttled")
    assert responses[429][0].headers["retry-after"] == "1"
    assert len(backends.job_store._entries) == len(responses[202])
    other = {**ASYNC, "X-Tenant-ID": "other"}
    assert (await site.client.get("/$export", headers=other)).status_code == 202


async def test_refused_kick_offs_and_dry_runs_count_too(open_site):
    """B2-SEC-10"""
    site = await open_site(Settings(bulk_export_kickoffs_per_minute=6))

    tenants = ({**ASYNC, "X-Tenant-ID": "a"}, {**ASYNC, "X-Tenant-ID": "b"})
    paths = ("/$export?bogus=1", "/$export?_dryRun=true")

    for path, headers in zip(paths, tenants, strict=True):
        responses = await burst(site.client, "GET", path, times=3, headers=headers)
        assert (len(responses[429]), len(responses)) == (2, 2)


async def test_abuse_ends_an_export_where_the_operator_says_so(open_site, backends, outcome):
    """B2-ST-06"""
    site = await open_site(STRICT)
    await site.put(PATIENT)
    location = await site.kick_off()

    responses = await burst(site.client, "GET", location, times=6)

    assert (len(responses[202]), len(responses[429])) == (1, 5)
    assert "ended" in outcome(responses[429][-1], 429, "throttled")["diagnostics"]
    outcome(await site.client.get(f"{location}?page=2"), 404, "not-found")
    assert not backends.job_store._entries


async def test_abuse_does_not_end_an_export_that_is_complete(open_site):
    """B2-ST-06"""
    site = await open_site(STRICT)
    location = await site.kick_off("/$export?_type=Patient")
    await site.finish(location)

    responses = await burst(site.client, "GET", location, times=60)

    assert (len(responses[200]), len(responses[429])) == (1, 59)
    assert (await site.client.get(f"{location}?page=1")).status_code == 429
    assert (await site.backends.job_store.get("default", location.rsplit("/", 1)[1])).completed_at


async def test_without_limits_nobody_is_refused(open_site):
    site = await open_site(
        Settings(bulk_export_kickoffs_per_minute=0, bulk_export_polls_per_minute=0)
    )
    await site.put(PATIENT)
    location = await site.kick_off()

    assert (await burst(site.client, "GET", location, times=200)).keys() == {202}


async def test_our_client_waits_as_long_as_required(live, tmp_path):
    """B2-ST-05, RC-07"""
    site = await live(Settings(bulk_export_polls_per_minute=30))
    await site.put(PATIENT)
    address = str(site.client.base_url).rstrip("/")
    impatient = asyncio.create_task(
        export(ClientRequest(base_url=address, types=("Patient",)), tmp_path / "files")
    )
    while not (jobs := list(site.backends.job_store._entries)):
        await asyncio.sleep(0.01)
    job_id = jobs[0][1] if isinstance(jobs[0], tuple) else jobs[0]
    await burst(site.client, "GET", f"/export-status/{job_id}", times=50)

    await site.finish(f"/export-status/{job_id}")

    assert (await impatient).files[0].lines == 1
