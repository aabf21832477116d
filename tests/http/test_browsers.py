"""What browsers look at: origins, caches, media types."""

import json

import pytest

from helios_core.config.settings import Settings, read_settings
from tests.http.conftest import ASYNC

APP = "https://app.example.org"
PATIENT = {"resourceType": "Patient", "id": "p1"}


@pytest.fixture
async def open_to_app(open_site):
    site = await open_site(Settings(cors_allowed_origins=(APP,)))
    await site.put(PATIENT)
    return site.client


PREFLIGHT = {
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "authorization, prefer, x-tenant-id",
}


@pytest.mark.parametrize("path", ["/$export", "/Patient", "/export-status/x", "/metadata"])
async def test_a_page_of_an_allowed_origin_may_ask(open_to_app, path):
    response = await open_to_app.options(path, headers=PREFLIGHT | {"Origin": APP})

    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == APP
    allowed = response.headers["access-control-allow-headers"].lower()
    assert {"authorization", "prefer", "x-tenant-id"} <= set(allowed.split(", "))


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.org.evil",
        "http://app.example.org",
        "null",
        "https://app.example.org:444",
    ],
)
async def test_a_page_of_another_origin_may_not(open_to_app, origin):
    preflight = await open_to_app.options("/Patient", headers=PREFLIGHT | {"Origin": origin})
    simple = await open_to_app.get("/Patient/p1", headers={"Origin": origin})

    assert preflight.status_code == 400
    for response in (preflight, simple):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", ["/Patient", "/", "/$export", "/Patient/$export"])
async def test_a_page_changes_nothing_by_what_browsers_send_unasked(
    open_to_app, path, content_type
):
    """Of these requests browsers only hide the response from a page of another origin."""
    transaction = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"request": {"method": "DELETE", "url": "Patient/p1"}}],
    }
    body = json.dumps(transaction if path == "/" else {"resourceType": "Patient"}).encode()
    headers = {"Origin": "https://evil.example"}
    headers |= {"Content-Type": content_type} if content_type else {}

    response = await open_to_app.post(path, content=body, headers=headers)

    assert response.status_code in (400, 415)
    found = await open_to_app.get("/Patient?_summary=count")
    assert found.json()["total"] == 1
    assert (await open_to_app.get("/export-status")).json()["export"] == []


async def test_a_client_that_is_no_page_may_leave_the_content_type_out(open_to_app):
    response = await open_to_app.post("/Patient", content=b'{"resourceType": "Patient"}')

    assert response.status_code == 201


async def test_a_page_may_read_where_its_export_is(open_to_app):
    response = await open_to_app.get("/$export", headers=ASYNC | {"Origin": APP})

    assert response.headers["access-control-allow-origin"] == APP
    assert "Content-Location" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in response.headers


async def test_a_page_may_read_errors(open_to_app):
    response = await open_to_app.get("/Patient/absent", headers={"Origin": APP})

    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == APP


async def test_no_page_may_ask_unless_it_is_set(site):
    await site.put(PATIENT)

    response = await site.client.get("/Patient/p1", headers={"Origin": APP})

    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origin", ["app.example.org", "https://app.example.org/", "https://*.example.org", "null", "x"]
)
def test_a_malformed_origin_is_reported(origin):
    _, problems = read_settings({"HFS_CORS_ALLOWED_ORIGINS": origin})

    assert "HFS_CORS_ALLOWED_ORIGINS" in "".join(problems)


async def test_no_cache_keeps_what_is_about_patients(site):
    await site.put(PATIENT)
    location = await site.kick_off()
    await site.finish(location)
    manifest = await site.client.get(location)
    urls = [
        "/Patient/p1",
        "/Patient",
        "/Patient/p1/_history",
        "/Patient/absent",
        location,
        manifest.json()["output"][0]["url"],
    ]

    for url in urls:
        assert (await site.client.get(url)).headers["cache-control"] == "no-store", url
