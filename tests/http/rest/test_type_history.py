"""Histories of types and of everything on the wire."""

import pytest

PATIENT = {"resourceType": "Patient", "id": "p"}
OBSERVATION = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "x"}}
HISTORIES = ["/_history", "/Patient/_history", "/Group/_history", "/Observation/_history"]


@pytest.fixture
async def stored(site):
    await site.put(PATIENT)
    await site.put(OBSERVATION)
    await site.put(PATIENT | {"active": True})
    await site.delete("Observation", "o")
    return site


async def pages(client, path):
    """Follow the links of a history."""
    found, url = [], path
    while url:
        response = await client.get(url)
        assert response.status_code == 200, response.text
        found.append(response.json())
        url = next((each["url"] for each in found[-1]["link"] if each["relation"] == "next"), None)
    return found


@pytest.mark.parametrize("count", [1, 3, 50])
async def test_a_history_of_everything_is_a_valid_bundle(stored, count):
    """FHIR R4, bundle.html: bdl-3, bdl-4, bdl-8; and the instant up to which it is complete."""
    found = await pages(stored.client, f"/_history?_count={count}")

    entries = [entry for bundle in found for entry in bundle.get("entry", ())]
    assert [
        (each["request"]["method"], each["request"]["url"], each["response"]["status"])
        for each in entries
    ] == [
        ("DELETE", "Observation/o", "204 No Content"),
        ("PUT", "Patient/p", "200 OK"),
        ("PUT", "Observation/o", "201 Created"),
        ("PUT", "Patient/p", "201 Created"),
    ]
    assert {each["fullUrl"].rpartition("/")[2] for each in entries} == {"o", "p"}
    assert ["resource" in each for each in entries] == [False, True, True, True]
    assert {bundle["type"] for bundle in found} == {"history"}
    [complete_to] = {bundle["meta"]["lastUpdated"] for bundle in found}
    assert all(each["response"]["lastModified"] <= complete_to for each in entries)


async def test_a_client_that_asks_again_since_a_bundle_sees_what_came_later(stored):
    [bundle] = await pages(stored.client, "/Patient/_history")
    await stored.put(PATIENT | {"active": False})

    since = bundle["meta"]["lastUpdated"]
    [later] = await pages(stored.client, f"/Patient/_history?_since={since}")

    assert [each["resource"]["meta"]["versionId"] for each in later["entry"]] == ["3"]
    assert f"_since={since.replace(':', '%3A')}" in later["link"][0]["url"]


@pytest.mark.parametrize("path", HISTORIES)
async def test_head_is_get_without_a_body(stored, path):
    head, got = await stored.client.head(path), await stored.client.get(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", [*HISTORIES, "/Patient/p/_history"])
@pytest.mark.parametrize(
    "query",
    ["_since=yesterday", "_at=x", "_count=0", "_list=List/x", "_since=2026-01-01T00:00:00Z&" * 2],
)
async def test_a_bad_parameter_of_a_history_is_refused(stored, outcome, path, query):
    outcome(await stored.client.get(f"{path}?{query}"), 400)


@pytest.mark.parametrize("after", ["x", "1.x", "1.at:1:", "99999999999999999999.at:1:1", "%00"])
async def test_a_page_that_no_history_gave_is_refused(stored, outcome, after):
    outcome(await stored.client.get(f"/_history?_after={after}"), 400)


async def test_the_history_of_a_type_that_does_not_exist_is_not_found(client, outcome):
    outcome(await client.get("/Patiant/_history"), 404, "not-found")


@pytest.mark.parametrize("type_", ["batch", "transaction"])
async def test_histories_are_read_in_bundles(stored, type_):
    urls = ["_history", "Patient/_history?_count=1", "Patient/p/_history?_at=1999"]
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    bundle = {"resourceType": "Bundle", "type": type_, "entry": entries}

    response = await stored.client.post("/", json=bundle)

    whole, page, none = [entry["resource"] for entry in response.json()["entry"]]
    assert [len(each.get("entry", ())) for each in (whole, page, none)] == [4, 1, 0]
    assert [link["relation"] for link in page["link"]] == ["self", "next"]
    assert len(await pages(stored.client, page["link"][1]["url"])) == 1
    assert none["link"][0]["url"].endswith("/Patient/p/_history?_count=50&_at=1999")


async def test_what_is_read_in_a_bundle_has_its_full_url(stored):
    entries = [{"request": {"method": "GET", "url": "Patient/p"}}]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}

    [entry] = (await stored.client.post("/", json=bundle)).json()["entry"]

    assert entry["fullUrl"].endswith("/Patient/p")


async def test_metadata_lists_histories(client):
    [rest] = (await client.get("/metadata")).json()["rest"]

    assert {"code": "history-system"} in rest["interaction"]
    assert all({"code": "history-type"} in each["interaction"] for each in rest["resource"])
