import asyncio
from datetime import timedelta

import msgspec
import pytest

from helios_core.config.settings import Settings

PARAMETERS = {
    "resourceType": "Parameters",
    "parameter": [{"name": "_type", "valueString": "Patient"}],
}
LEASE = timedelta(seconds=1)
PATHS = ["/$export", "/Patient/$export", "/Group/g1/$export"]


@pytest.fixture
async def group(site):
    await site.put(
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Patient", "id": "p2"},
        {"resourceType": "Observation", "id": "o1", "subject": {"reference": "Patient/p1"}},
        {"resourceType": "Group", "id": "g1", "member": [{"entity": {"reference": "Patient/p1"}}]},
    )


@pytest.mark.parametrize("path", [*PATHS, *(path.replace("$", "%24") for path in PATHS)])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_every_level_has_a_route_for_get_and_post(site, group, path, method):
    """B2-KO-01, B2-KO-02, B2-KO-05, B2-KO-06, B2-KO-07, B2-KO-17, B2-KO-18, B2-KO-19, TR-06"""
    options = {"json": PARAMETERS} if method == "POST" else {}

    response = await site.client.request(
        method, path, headers={"Prefer": "respond-async"}, **options
    )

    assert response.status_code == 202
    assert response.headers["content-location"].startswith("http://fhir.example/export-status/")
    assert response.content == b""


async def test_each_level_exports_what_it_is_about(site, group):
    """B2-KO-08, B2-KO-09"""
    system = await site.manifest("/$export")
    patients = await site.manifest("/Patient/$export")
    members = await site.manifest("/Group/g1/$export")

    def counts(manifest):
        return {file["type"]: file["count"] for file in manifest["output"]}

    assert counts(system) == {"Group": 1, "Observation": 1, "Patient": 2}
    assert counts(patients)["Patient"] == 2
    assert counts(members)["Patient"] == 1


async def test_without_prefer_nothing_is_started(client, outcome):
    """B2-KO-16, TR-02, RV-10"""
    outcome(await client.get("/$export"), 400, "invalid")


async def test_several_prefer_lines_count_together(client):
    """TR-01"""
    headers = [("Prefer", "handling=lenient"), ("Prefer", "Respond-Async; wait=10")]

    response = await client.get("/$export?bogus=1", headers=headers)

    assert response.status_code == 202


async def test_a_missing_group_is_reported_before_there_is_a_job(client, outcome):
    """B2-KO-20, TR-29"""
    response = await client.get("/Group/none/$export", headers={"Prefer": "respond-async"})

    outcome(response, 404, "not-found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH"])
@pytest.mark.parametrize("path", PATHS)
async def test_no_other_method_starts_an_export(site, group, outcome, method, path):
    """B2-KO-20, TR-06"""
    response = await site.client.request(method, path, headers={"Prefer": "respond-async"})

    assert response.status_code == 405
    assert "GET" in response.headers["allow"]
    assert await site.backends.job_store.claim("w", lease_for=LEASE, max_attempts=3) is None


async def test_the_cap_answers_429_until_an_export_is_deleted(open_site, outcome):
    """B2-KO-22, RC-07"""
    site = await open_site(Settings(bulk_export_max_concurrent_per_tenant=1))
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off()

    refused = await site.client.get("/$export", headers={"Prefer": "respond-async"})
    await site.client.delete(location)
    again = await site.client.get("/$export", headers={"Prefer": "respond-async"})

    outcome(refused, 429, "throttled")
    assert int(refused.headers["retry-after"]) > 0
    assert again.status_code == 202


@pytest.mark.parametrize(
    "target",
    [
        "/$export",
        "/%24export?_type=Patient%2CObservation",
        "/$export?_since=2020-01-01T00%3a00:00%2B01:00&_type=Patient&_type=Observation",
        "/$export?_type=Patient&_outputFormat=application/fhir+ndjson",
        "/Patient/%24export?_type=%50atient",
    ],
)
async def test_the_manifest_repeats_the_request_byte_by_byte(live, target):
    """B2-MF-03, TR-42"""
    site = await live()
    host = str(site.client.base_url).rstrip("/")

    reader_url = await raw_kick_off(site, target)

    await site.finish(reader_url)
    manifest = (await site.client.get(reader_url)).json()
    assert manifest["request"] == host + target


async def raw_kick_off(site, target):
    """Send a request line as it is, past any client that would tidy it up."""
    port = site.client.base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Prefer: respond-async\r\nConnection: close\r\n\r\n"
    )
    writer.write(request.encode())
    response = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    assert response.startswith("HTTP/1.1 202"), response
    [location] = [
        line.partition(": ")[2]
        for line in response.split("\r\n")
        if line.lower().startswith("content-location")
    ]
    return location


async def test_the_request_of_a_post_is_its_url_without_the_body(site, group):
    """B2-MF-04"""
    manifest = await site.manifest("/Patient/$export", method="POST", json=PARAMETERS)

    assert manifest["request"] == "http://fhir.example/Patient/$export"
    assert [file["type"] for file in manifest["output"]] == ["Patient"]


async def test_a_configured_base_url_is_in_every_address(open_site):
    """B2-KO-18, B2-MF-11, TR-30"""
    site = await open_site(Settings(base_url="https://public.example/fhir/"))
    await site.put({"resourceType": "Patient", "id": "p1"})

    location = await site.kick_off("/$export?_type=Patient")
    await site.finish(location)
    manifest = (await site.client.get(location.removeprefix("https://public.example/fhir"))).json()

    assert location.startswith("https://public.example/fhir/export-status/")
    assert manifest["request"] == "https://public.example/fhir/$export?_type=Patient"
    assert manifest["output"][0]["url"].startswith("https://public.example/fhir/export-file/")


async def test_lenient_handling_reports_what_was_ignored(site, group):
    """B2-MF-18, B2-MF-19, B2-MF-20, TR-10"""
    manifest = await site.manifest(
        "/$export?bogus=1", headers={"Prefer": "respond-async, handling=lenient"}
    )

    [error] = manifest["error"]
    lines = (await site.client.get(error["url"])).text.splitlines()
    assert error["type"] == "OperationOutcome"
    assert "bogus" in msgspec.json.decode(lines[0])["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"", "application/fhir+json", 400),
        (b"{}", "application/json", 400),
        (b'{"resourceType":"Patient"}', "application/fhir+json; charset=utf-8", 400),
        (b"<Parameters/>", "application/fhir+xml", 415),
        (b"_type=Patient", "application/x-www-form-urlencoded", 415),
        (b'{"resourceType":"Parameters"}', "application/json; charset=latin-1", 415),
    ],
)
async def test_a_post_that_is_no_parameters_resource_is_refused(
    client, outcome, body, media_type, status
):
    """B2-KO-20, TR-12, RV-19"""
    headers = {"Prefer": "respond-async", "Content-Type": media_type}

    outcome(await client.post("/$export", content=body, headers=headers), status)


async def test_switched_off_exports_answer_501_everywhere(open_site, outcome):
    site = await open_site(Settings(bulk_export_enabled=False))

    for path in [*PATHS, "/export-status", "/export-status/x", "/export-file/x/y"]:
        outcome(await site.client.get(path), 501, "not-supported")
    metadata = (await site.client.get("/metadata")).json()
    assert "instantiates" not in metadata
    assert "operation" not in metadata["rest"][0]
