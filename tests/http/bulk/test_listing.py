"""The list of a caller's exports."""

from urllib.parse import urlsplit

import msgspec
import pytest

from helios_core.config.settings import Settings
from helios_core.model.jobs import JobStatus
from helios_core.testing import corpus
from tests.tokens import StaticVerifier, bearer, principal

PATIENT = {"resourceType": "Patient", "id": "p1"}


def ids(page):
    return [export["url"].rsplit("/", 1)[1] for export in page["export"]]


async def add(site, job_id, *, tenant="default", owner=None):
    job = msgspec.structs.replace(corpus.job(job_id, tenant=tenant), owner=owner)
    await site.backends.job_store.add(job, corpus.shards(1), max_active=1000)


async def test_an_address_that_was_lost_is_found_again(site):
    """LS-01"""
    await site.put(PATIENT)
    complete = await site.kick_off("/$export?_type=Patient")
    await site.finish(complete)
    running = await site.kick_off("/Patient/$export")

    response = await site.client.get("/export-status")

    assert response.headers["content-type"] == "application/json"
    first, second = response.json()["export"]
    assert (first["url"], second["url"]) == (running, complete)
    assert (first["status"], first["progress"]) == ("accepted", 0)
    assert first["request"] == "http://fhir.example/Patient/$export"
    assert second["status"] == "complete"
    assert second["started"] <= second["ended"] < second["expires"]
    assert "progress" not in second
    manifest = (await site.client.get(second["url"])).json()
    assert manifest["transactionTime"] == second["transactionTime"]


async def test_pages_lead_from_one_to_the_next_until_the_end(site):
    """LS-02"""
    for number in range(7):
        await add(site, f"job-{number}")
    path, pages = "/export-status?_count=3", []

    while path:
        page = (await site.client.get(path)).json()
        pages.append(ids(page))
        path = page["link"][0]["url"] if "link" in page else None
        assert path is None or page["link"][0]["relation"] == "next"

    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(name for page in pages for name in page) == [
        f"job-{number}" for number in range(7)
    ]


async def test_exports_of_other_tenants_and_owners_are_not_listed(site):
    """LS-03"""
    await add(site, "own")
    await add(site, "foreign", tenant="other")
    await add(site, "owned", owner="https://issuer.example client")

    assert ids((await site.client.get("/export-status")).json()) == ["own"]
    other = await site.client.get("/export-status", headers={"X-Tenant-ID": "other"})
    assert ids(other.json()) == ["foreign"]


async def test_a_page_of_one_tenant_shows_nothing_of_another(site):
    for name in ("a", "b"):
        await add(site, name)
        await add(site, name, tenant="other")
    first = (await site.client.get("/export-status?_count=1")).json()
    following = urlsplit(first["link"][0]["url"])

    page = await site.client.get(
        f"{following.path}?{following.query}", headers={"X-Tenant-ID": "third"}
    )

    assert page.json() == {"export": []}


async def test_exports_that_were_ended_are_gone_and_failed_ones_say_why(site):
    """LS-04"""
    await add(site, "cancelled")
    await add(site, "failed")
    await site.client.delete("/export-status/cancelled")
    site.backends.job_store._entries["default", "failed"].end(
        JobStatus.ERROR, corpus.AN_INSTANT, failure="the disk is full"
    )

    [failed] = (await site.client.get("/export-status")).json()["export"]

    assert (failed["status"], failed["error"]) == ("error", "the disk is full")


async def test_an_export_that_cannot_be_read_is_listed_with_the_reason(site):
    """LS-05"""
    await add(site, "spoilt")
    site.backends.job_store._entries["default", "spoilt"].accepted = b"{"

    [spoilt] = (await site.client.get("/export-status")).json()["export"]

    assert "cannot read" in spoilt["error"]
    assert "request" not in spoilt


@pytest.mark.parametrize(
    "query",
    [
        *("_count=0", "_count=x", "_count=-1", "_count=100000", "_count=1&_count=2", "_count="),
        *("after=x", "after=", "after=W10", "after=%C3%BC", "after=a%0A", "after=x&after=y"),
        *("page=2", "status=complete"),
    ],
)
async def test_a_bad_page_is_refused(site, outcome, query):
    outcome(await site.client.get(f"/export-status?{query}"), 400)


async def test_a_page_is_never_longer_than_the_limit(site):
    for number in range(201):
        await add(site, f"job-{number}")

    page = (await site.client.get("/export-status?_count=99999")).json()

    assert len(page["export"]) == 200
    assert "_count=200" in page["link"][0]["url"]


async def test_who_asks_for_the_list_too_often_is_refused(open_site, outcome):
    site = await open_site(Settings(bulk_export_polls_per_minute=6))

    assert (await site.client.get("/export-status")).status_code == 200
    outcome(await site.client.get("/export-status"), 429, "throttled")


@pytest.fixture
async def guarded(open_site):
    """A site on which two clients have exports, one of them with a narrower token, too."""
    verifier = StaticVerifier(
        {
            "all": principal("mine", "system/*.rs"),
            "patients": principal("mine", "system/Patient.rs"),
            "other": principal("other", "system/*.rs"),
        }
    )
    site = await open_site(token_verifier=verifier)
    for name, owner in (("mine", "mine"), ("other", "other"), ("nobody", None)):
        await add(site, name, owner=owner and principal(owner).owner)
    return site


async def test_a_client_sees_its_own_exports_only(guarded):
    """LS-03"""
    listed = {}
    for token in ("all", "other"):
        listed[token] = ids(
            (await guarded.client.get("/export-status", headers=bearer(token))).json()
        )

    assert listed == {"all": ["mine"], "other": ["other"]}
    assert (await guarded.client.get("/export-status")).status_code == 401


async def test_an_export_that_the_scopes_of_a_token_do_not_cover_is_not_listed(guarded):
    page = await guarded.client.get("/export-status", headers=bearer("patients"))

    assert page.json() == {"export": []}


async def test_what_an_unreadable_export_shows_is_shown_to_no_client(guarded):
    guarded.backends.job_store._entries["default", "mine"].accepted = b"{"

    page = await guarded.client.get("/export-status", headers=bearer("all"))

    assert page.json() == {"export": []}
