from email.utils import parsedate_to_datetime

import msgspec
import pytest

from helios_core.fhir.instants import parse_instant
from tests.interactions.narrowed import ReadOnly

PATIENT = {"resourceType": "Patient", "id": "p1", "active": True}


async def test_an_update_with_a_new_id_creates(client):
    response = await client.put("/Patient/p1", json=PATIENT)

    stored = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == "http://fhir.example/Patient/p1/_history/1"
    assert response.headers["etag"] == 'W/"1"'
    assert response.headers["content-type"] == "application/fhir+json"
    assert stored["meta"]["versionId"] == "1"
    changed = parse_instant(stored["meta"]["lastUpdated"])
    assert parsedate_to_datetime(response.headers["last-modified"]) == changed.replace(
        microsecond=0
    )


async def test_an_update_makes_a_version_and_the_same_again_none(client):
    await client.put("/Patient/p1", json=PATIENT)

    changed = await client.put("/Patient/p1", json=PATIENT | {"active": False})
    same = await client.put("/Patient/p1", json=PATIENT | {"active": False})

    assert [changed.status_code, same.status_code] == [200, 200]
    assert [changed.headers["etag"], same.headers["etag"]] == ['W/"2"', 'W/"2"']
    assert same.content == changed.content


async def test_what_goes_in_comes_out_byte_by_byte(client):
    body = (
        '{ "resourceType":"Observation", "id":"o1", "valueQuantity":{"value":1.10},\n'
        '  "big":12345678901234567890, "e":1e-7, "note":[{"text":"\\u00e9 é 🩺"}],'
        ' "meta":{"tag":[{"code":"x"}],"versionId":"77"} }'
    ).encode()

    written = await client.put(
        "/Observation/o1", content=body, headers={"Content-Type": "application/json"}
    )
    read = await client.get("/Observation/o1")

    assert read.content == written.content
    for text in (b'"value":1.10', b"12345678901234567890", b"1e-7", "\\u00e9 é 🩺".encode()):
        assert text in read.content
    assert read.json()["meta"]["tag"] == [{"code": "x"}]
    assert read.json()["meta"]["versionId"] == "1"


async def test_a_create_gives_an_id_of_its_own(client):
    first, second = [await client.post("/Patient", json=PATIENT) for _ in range(2)]

    assert [first.status_code, second.status_code] == [201, 201]
    assert len({first.json()["id"], second.json()["id"], "p1"}) == 3
    read = await client.get(first.headers["location"])
    assert read.content == first.content


@pytest.mark.parametrize("path", ["/Patient/none", "/Patient/none/_history", "/Patient/a'b"])
async def test_what_was_never_there_is_404(client, outcome, path):
    outcome(await client.get(path), 404, "not-found")


async def test_a_deleted_resource_is_410_and_can_come_back(client, outcome):
    await client.put("/Patient/p1", json=PATIENT)

    deleted = await client.delete("/Patient/p1")
    gone = await client.get("/Patient/p1")
    again = await client.delete("/Patient/p1")
    back = await client.put("/Patient/p1", json=PATIENT)

    assert (deleted.status_code, deleted.content, deleted.headers["etag"]) == (204, b"", 'W/"2"')
    outcome(gone, 410, "deleted")
    assert again.status_code == 204
    assert back.headers["etag"] == 'W/"3"'


async def test_deleting_what_was_never_there_is_no_error(client):
    assert (await client.delete("/Patient/none")).status_code == 204


async def test_if_match_lets_only_the_current_version_be_changed(client, outcome):
    await client.put("/Patient/p1", json=PATIENT)
    stale, current = {"If-Match": 'W/"7"'}, {"If-Match": 'W/"1"'}

    refused = await client.put("/Patient/p1", json=PATIENT | {"active": False}, headers=stale)
    undeleted = await client.delete("/Patient/p1", headers=stale)
    malformed = await client.put("/Patient/p1", json=PATIENT, headers={"If-Match": "one"})
    changed = await client.put("/Patient/p1", json=PATIENT | {"active": False}, headers=current)

    outcome(refused, 412, "conflict")
    outcome(undeleted, 412, "conflict")
    outcome(malformed, 400, "invalid")
    assert changed.headers["etag"] == 'W/"2"'


async def test_who_has_the_version_gets_304(client):
    etag = (await client.put("/Patient/p1", json=PATIENT)).headers["etag"]

    response = await client.get("/Patient/p1", headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize("kind", ["Patient", "Group", "Observation"])
async def test_every_type_has_the_same_routes(client, kind):
    body = {"resourceType": kind, "id": "x"}

    responses = [
        await client.put(f"/{kind}/x", json=body),
        await client.post(f"/{kind}", json=body),
        await client.get(f"/{kind}"),
        await client.get(f"/{kind}/x"),
        await client.head(f"/{kind}/x"),
        await client.get(f"/{kind}/x/_history"),
        await client.get(f"/{kind}/x/_history/1"),
        await client.delete(f"/{kind}/x"),
    ]

    assert [response.status_code for response in responses] == [
        201,
        201,
        200,
        200,
        200,
        200,
        200,
        204,
    ]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_type_that_does_not_exist_is_404(client, outcome, method):
    path = "/Patiant" if method == "POST" else "/Patiant/x"

    issue = outcome(await client.request(method, path, json={}), 404, "not-found")

    assert "Patiant" in issue["diagnostics"]


async def test_a_read_only_provider_offers_reading_alone(open_site, outcome):
    site = await open_site()
    await site.put(PATIENT)
    reading = await open_site(data_provider=ReadOnly(site.backends.data_provider))

    metadata = (await reading.client.get("/metadata")).json()

    assert (await reading.client.get("/Patient/p1")).status_code == 200
    outcome(await reading.client.put("/Patient/p1", json=PATIENT), 405, "not-supported")
    outcome(await reading.client.delete("/Patient/p1"), 405, "not-supported")
    for path in ("/", "/Patient"):
        outcome(await reading.client.post(path, json=PATIENT), 404)
    outcome(await reading.client.get("/Patient/p1/_history"), 404)
    [rest] = metadata["rest"]
    assert "interaction" not in rest
    assert rest["resource"][0]["interaction"] == [{"code": "read"}]
    assert (await reading.manifest("/$export"))["output"][0]["count"] == 1


async def test_versions_of_fhir_do_not_see_each_other(client, outcome):
    r5 = {"Accept": "application/fhir+json; fhirVersion=5.0"}
    typed = {"Content-Type": "application/fhir+json; fhirVersion=5.0"}
    await client.put("/Patient/p1", content=msgspec.json.encode(PATIENT), headers=typed)

    found = await client.get("/Patient/p1", headers=r5)

    assert found.headers["content-type"] == "application/fhir+json; fhirVersion=5.0"
    outcome(await client.get("/Patient/p1"), 404, "not-found")


async def test_tenants_do_not_see_each_other(client, outcome):
    await client.put("/Patient/p1", json=PATIENT, headers={"X-Tenant-ID": "clinic-1"})

    own = await client.get("/Patient/p1", headers={"X-Tenant-ID": "clinic-1"})

    assert own.status_code == 200
    outcome(await client.get("/Patient/p1"), 404, "not-found")


async def test_history_lists_every_version_newest_first(client):
    await client.put("/Patient/p1", json=PATIENT)
    await client.put("/Patient/p1", json=PATIENT | {"active": False})
    await client.delete("/Patient/p1")

    bundle = (await client.get("/Patient/p1/_history")).json()

    assert (bundle["resourceType"], bundle["type"]) == ("Bundle", "history")
    assert [entry["response"]["etag"] for entry in bundle["entry"]] == ['W/"3"', 'W/"2"', 'W/"1"']
    assert [entry["request"]["method"] for entry in bundle["entry"]] == ["DELETE", "PUT", "PUT"]
    assert ["resource" in entry for entry in bundle["entry"]] == [False, True, True]


async def test_history_comes_in_pages_that_lead_to_each_other(client):
    for number in range(7):
        await client.put("/Patient/p1", json=PATIENT | {"multipleBirthInteger": number})
    url, seen = "/Patient/p1/_history?_count=3", []

    while url:
        bundle = (await client.get(url)).json()
        seen.append([entry["resource"]["meta"]["versionId"] for entry in bundle["entry"]])
        url = next((ln["url"] for ln in bundle["link"] if ln["relation"] == "next"), None)

    assert seen == [["7", "6", "5"], ["4", "3", "2"], ["1"]]


async def test_one_version_is_read_by_its_number(client, outcome):
    first = await client.put("/Patient/p1", json=PATIENT)
    await client.delete("/Patient/p1")

    read = await client.get("/Patient/p1/_history/1")

    assert (read.content, read.headers["etag"]) == (first.content, 'W/"1"')
    outcome(await client.get("/Patient/p1/_history/2"), 410, "deleted")
    for number in ("3", "0", "x", "-1", "1.0", "9" * 30, "²"):
        outcome(await client.get(f"/Patient/p1/_history/{number}"), 404, "not-found")


WHOLE = {
    "resourceType": "Patient",
    "id": "p1",
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
    "active": True,
    "birthDate": "2000-01-01",
    "communication": [{"language": {"text": "Swahili"}}],
}
SUBSETS = {
    "_summary=true": {"active", "birthDate"},
    "_summary=text": {"text"},
    "_summary=data": {"active", "birthDate", "communication"},
    "_elements=birthDate": {"birthDate"},
    "_elements=birthDate,active&_summary=text": {"birthDate", "active"},
    "_elements=Patient.active": {"active"},
}


@pytest.mark.parametrize("query", SUBSETS)
async def test_a_read_is_reduced_as_a_search_is(client, query):
    await client.put("/Patient/p1", json=WHOLE)
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            {"request": {"method": "GET", "url": f"Patient/p1{path}?{query}"}}
            for path in ("", "/_history/1")
        ],
    }

    [found] = (await client.get(f"/Patient?_id=p1&{query}")).json()["entry"]
    read, earlier = [await client.get(f"/Patient/p1{p}?{query}") for p in ("", "/_history/1")]
    entries = (await client.post("/", json=batch)).json()["entry"]

    expected = found["resource"]
    assert expected.keys() - {"resourceType", "id", "meta"} == SUBSETS[query]
    assert [tag["code"] for tag in expected["meta"]["tag"]] == ["SUBSETTED"]
    assert read.json() == earlier.json() == expected
    assert [entry["resource"] for entry in entries] == [expected, expected]
    assert read.headers["etag"] == 'W/"1"'


@pytest.mark.parametrize("query", ["", "?_summary=false"])
async def test_a_read_that_is_not_reduced_is_not_tagged(client, query):
    await client.put("/Patient/p1", json=WHOLE)

    read = (await client.get(f"/Patient/p1{query}")).json()

    assert read.keys() == WHOLE.keys() | {"meta"}
    assert "tag" not in read["meta"]


@pytest.mark.parametrize(
    "query",
    ["_summary=count", "_summary=all", "_summary=true&_summary=text", "_elements=name.family"],
)
async def test_a_reduction_that_means_nothing_for_a_read_is_refused(client, query):
    await client.put("/Patient/p1", json=WHOLE)

    for path in ("", "/_history/1"):
        refused = await client.get(f"/Patient/p1{path}?{query}")
        assert refused.status_code == 400
        assert refused.json()["resourceType"] == "OperationOutcome"
