"""PATCH, and what a client prefers in the response to a change."""

import base64
import json

import pytest

from tests.http.rest.test_bundles import bundle, entry

PATIENT = {
    "resourceType": "Patient",
    "id": "a",
    "active": False,
    "identifier": [{"system": "http://mrn.example", "value": "7"}],
}
ACTIVATE = [{"op": "replace", "path": "/active", "value": True}]
ACTIVATE_BY_PATH = {
    "resourceType": "Parameters",
    "parameter": [
        {
            "name": "operation",
            "part": [
                {"name": "type", "valueCode": "replace"},
                {"name": "path", "valueString": "Patient.active"},
                {"name": "value", "valueBoolean": True},
            ],
        }
    ],
}
JSON_PATCH = "application/json-patch+json"
CRITERIA = "identifier=http://mrn.example|7"


def binary(patch):
    data = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"resourceType": "Binary", "contentType": JSON_PATCH, "data": data}


async def patch(client, url, body, **headers):
    media_type = JSON_PATCH if isinstance(body, list) else "application/fhir+json"
    headers = {"content-type": media_type, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return await client.patch(url, content=json.dumps(body), headers=headers)


@pytest.mark.parametrize("url", ["/Patient/a", f"/Patient?{CRITERIA}"])
@pytest.mark.parametrize("body", [ACTIVATE, ACTIVATE_BY_PATH])
async def test_a_patch_makes_a_new_version(either_site, url, body):
    await either_site.put(PATIENT)

    response = await patch(either_site.client, url, body)

    assert response.status_code == 200, response.text
    assert response.headers["etag"] == 'W/"2"'
    assert response.headers["location"].endswith("/Patient/a/_history/2")
    assert response.json()["active"] is True
    assert (await either_site.client.get("/Patient/a")).content == response.content


async def test_a_patch_keeps_the_text_of_numbers(client):
    body = (
        '{"resourceType":"Observation","id":"o","status":"final",'
        '"valueQuantity":{"value":1.10,"unit":"mg"}}'
    )
    await client.put("/Observation/o", content=body, headers={"content-type": "application/json"})

    response = await patch(
        client, "/Observation/o", [{"op": "replace", "path": "/valueQuantity/unit", "value": "g"}]
    )

    assert '"valueQuantity":{"value":1.10,"unit":"g"}' in response.text


@pytest.mark.parametrize("url", ["/Patient/a", f"/Patient?{CRITERIA}"])
async def test_a_patch_may_name_the_version_it_is_for(either_site, outcome, url):
    await either_site.put(PATIENT)

    outcome(await patch(either_site.client, url, ACTIVATE, if_match='W/"2"'), 412, "conflict")
    response = await patch(either_site.client, url, ACTIVATE, if_match='W/"1"')

    assert response.headers["etag"] == 'W/"2"'


async def test_a_patch_that_changes_nothing_makes_no_version(site):
    await site.put(PATIENT | {"active": True})

    response = await patch(site.client, "/Patient/a", ACTIVATE)

    assert (response.status_code, response.headers["etag"]) == (200, 'W/"1"')


@pytest.mark.parametrize(
    ("url", "body", "error"),
    [
        ("/Patient/none", ACTIVATE, (404, "not-found")),
        ("/Patient/gone", ACTIVATE, (410, "deleted")),
        ("/Patient?identifier=none", ACTIVATE, (404, "not-found")),
        ("/Patient?active=false", ACTIVATE, (412, "multiple-matches")),
        ("/Patient?_count=1", ACTIVATE, (400, "not-supported")),
        ("/Patient", ACTIVATE, (400, "invalid")),
        ("/Nothing/a", ACTIVATE, (404, "not-found")),
        ("/Patient/a", [{"op": "test", "path": "/active", "value": True}], (422, "processing")),
        ("/Patient/a", [{"op": "remove", "path": "/nix"}], (422, "processing")),
        ("/Patient/a", [{"op": "replace", "path": "/id", "value": "b"}], (400, "structure")),
        (
            "/Patient/a",
            [{"op": "replace", "path": "/resourceType", "value": "x"}],
            (400, "structure"),
        ),
        ("/Patient/a", [{"op": "remove", "path": ""}], (400, "structure")),
        ("/Patient/a", [{"op": "add", "path": "/meta", "value": 1}], (400, "structure")),
        ("/Patient/a", [1], (400, "structure")),
        ("/Patient/a", PATIENT, (400, "structure")),
    ],
)
async def test_a_patch_that_cannot_be_applied_changes_nothing(
    either_site, outcome, url, body, error
):
    await either_site.put(PATIENT, PATIENT | {"id": "b"}, PATIENT | {"id": "gone"})
    await either_site.delete("Patient", "gone")

    outcome(await patch(either_site.client, url, body), *error)

    assert (await either_site.client.get("/Patient/a")).headers["etag"] == 'W/"1"'


@pytest.mark.parametrize(
    "media_type", ["application/merge-patch+json", "text/plain", "application/xml"]
)
async def test_other_patches_are_not_supported(site, outcome, media_type):
    await site.put(PATIENT)

    response = await site.client.patch(
        "/Patient/a", content="[]", headers={"content-type": media_type}
    )

    outcome(response, 415)


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("url", ["Patient/a", f"Patient?{CRITERIA}"])
@pytest.mark.parametrize("resource", [binary(ACTIVATE), ACTIVATE_BY_PATH])
async def test_bundles_contain_patches(either_site, kind, url, resource):
    await either_site.put(PATIENT)

    response = await either_site.client.post(
        "/", json=bundle(kind, entry("PATCH", url, resource, ifMatch='W/"1"'))
    )

    [patched] = response.json()["entry"]
    assert patched["response"]["status"] == "200 OK"
    assert patched["response"]["etag"] == 'W/"2"'
    assert (await either_site.client.get("/Patient/a")).json()["active"] is True


@pytest.mark.parametrize(
    ("status", "entries"),
    [
        (422, [entry("PATCH", "Patient/a", binary([{"op": "remove", "path": "/nix"}]))]),
        (412, [entry("PATCH", "Patient/a", ACTIVATE_BY_PATH, ifMatch='W/"7"')]),
        (404, [entry("PATCH", "Patient/none", ACTIVATE_BY_PATH)]),
        (400, [entry("PATCH", "Patient/a", PATIENT)]),
        (
            400,
            [
                entry(
                    "PATCH",
                    "Patient/a",
                    {"resourceType": "Binary", "contentType": JSON_PATCH, "data": "x"},
                )
            ],
        ),
        (400, [entry("PATCH", "Patient/a", ACTIVATE_BY_PATH), entry("DELETE", "Patient/a")]),
        (400, [entry("PATCH", "Patient/a", ACTIVATE_BY_PATH), entry("PUT", "Patient/a", PATIENT)]),
        (
            400,
            [
                entry("PATCH", f"Patient?{CRITERIA}", ACTIVATE_BY_PATH),
                entry("PATCH", "Patient/a", ACTIVATE_BY_PATH),
            ],
        ),
        (
            404,
            [
                entry("PATCH", f"Patient?{CRITERIA}", ACTIVATE_BY_PATH),
                entry("DELETE", "Patient/a"),
            ],
        ),
    ],
)
async def test_a_patch_that_fails_undoes_a_transaction(either_site, outcome, status, entries):
    await either_site.put(PATIENT)

    response = await either_site.client.post(
        "/",
        json=bundle(
            "transaction",
            entry("PUT", "Patient/new", PATIENT | {"id": "new", "identifier": []}),
            *entries,
        ),
    )

    outcome(response, status)
    assert (await either_site.client.get("/Patient/new")).status_code == 404
    assert (await either_site.client.get("/Patient/a")).headers["etag"] == 'W/"1"'


async def test_a_patch_of_a_transaction_may_refer_to_its_entries(either_site):
    urn = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
    lost = {"other": {"reference": "urn:uuid:00000000-0000-0000-0000-000000000000"}}
    await either_site.put(PATIENT | {"link": [lost]})
    add = [{"op": "add", "path": "/managingOrganization", "value": {"reference": urn}}]

    response = await either_site.client.post(
        "/",
        json=bundle(
            "transaction",
            entry("PATCH", "Patient/a", binary(add)),
            entry("POST", "Organization", {"resourceType": "Organization"}, full_url=urn),
        ),
    )

    location = response.json()["entry"][1]["response"]["location"]
    stored = (await either_site.client.get("/Patient/a")).json()
    assert stored["managingOrganization"]["reference"] in location
    assert stored["link"] == [lost]


RETURNS = ["minimal", "representation", "OperationOutcome"]


@pytest.mark.parametrize("preferred", RETURNS)
async def test_a_client_says_what_it_wants_back(site, preferred):
    await site.put(PATIENT)
    prefer = {"prefer": f"respond-sync, return={preferred}"}
    client = site.client

    responses = [
        await client.post("/Patient", json=PATIENT, headers=prefer),
        await client.put("/Patient/new", json=PATIENT | {"id": "new"}, headers=prefer),
        await patch(client, "/Patient/a", ACTIVATE, **prefer),
    ]

    assert [each.status_code for each in responses] == [201, 201, 200]
    for response in responses:
        assert response.headers["preference-applied"] == f"return={preferred}"
        assert response.headers["location"]
        assert response.headers["etag"]
        if preferred == "minimal":
            assert response.content == b""
            assert "content-type" not in response.headers
        else:
            expected = "Patient" if preferred == "representation" else "OperationOutcome"
            assert response.json()["resourceType"] == expected


async def test_a_delete_says_what_it_did_if_the_client_wants_to_know(site):
    await site.put(PATIENT)

    response = await site.client.delete(
        "/Patient/a", headers={"prefer": "return=OperationOutcome"}
    )
    again = await site.client.delete("/Patient/a", headers={"prefer": "return=minimal"})

    assert response.json()["issue"][0]["severity"] == "information"
    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("prefer", ["", "return=nonsense", "return"])
async def test_without_a_known_preference_the_resource_comes_back(site, prefer):
    response = await site.client.post("/Patient", json=PATIENT, headers={"prefer": prefer})

    assert response.json()["resourceType"] == "Patient"
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize("preferred", RETURNS)
@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_the_preference_holds_for_the_entries_of_a_bundle(site, preferred, kind):
    await site.put(PATIENT)

    response = await site.client.post(
        "/",
        json=bundle(
            kind,
            entry("POST", "Patient", PATIENT, ifNoneExist=CRITERIA),
            entry("PUT", "Patient/b", PATIENT | {"id": "b"}),
            entry("PATCH", "Patient/c", ACTIVATE_BY_PATH)
            if kind == "batch"
            else entry("DELETE", "Patient/c"),
        ),
        headers={"prefer": f"return={preferred}"},
    )

    found, put, _ = response.json()["entry"]
    assert response.headers["preference-applied"] == f"return={preferred}"
    assert [found["response"]["status"], put["response"]["status"]] == ["200 OK", "201 Created"]
    for each in (found, put):
        assert ("resource" in each) == (preferred == "representation")
        assert ("outcome" in each["response"]) == (preferred == "OperationOutcome")


async def test_an_update_may_require_that_there_is_nothing_yet(either_site, outcome):
    client, none = either_site.client, {"if-none-match": "*"}
    await either_site.put(PATIENT, PATIENT | {"id": "gone"})
    await either_site.delete("Patient", "gone")

    created = await client.put("/Patient/new", json=PATIENT | {"id": "new"}, headers=none)
    again = await client.put("/Patient/gone", json=PATIENT | {"id": "gone"}, headers=none)

    assert (created.status_code, again.status_code) == (201, 201)
    assert again.headers["etag"] == 'W/"3"'
    outcome(await client.put("/Patient/a", json=PATIENT, headers=none), 412, "conflict")
    outcome(await client.put("/Patient/a", json=PATIENT, headers={"if-none-match": 'W/"1"'}), 400)
    for kind in ("batch", "transaction"):
        put = entry("PUT", "Patient/a", PATIENT, ifNoneMatch="*")
        response = await client.post("/", json=bundle(kind, put))
        assert "412" in response.text or response.status_code == 412


@pytest.mark.parametrize(
    "condition",
    [
        CRITERIA,
        f"?{CRITERIA}",
        f"Patient?{CRITERIA}",
        f"/Patient?{CRITERIA}",
        f"http://fhir.example/Patient?{CRITERIA}",
        f"https://proxy.example/fhir/Patient?{CRITERIA}",
        "http://fhir.example/Patient?identifier=http%3A%2F%2Fmrn.example%7C7",
    ],
)
async def test_if_none_exist_may_be_a_url(site, condition):
    await site.put(PATIENT)

    response = await site.client.post(
        "/Patient", json=PATIENT, headers={"if-none-exist": condition}
    )
    in_bundle = await site.client.post(
        "/", json=bundle("transaction", entry("POST", "Patient", PATIENT, ifNoneExist=condition))
    )

    assert (response.status_code, response.json()["id"]) == (200, "a")
    assert in_bundle.json()["entry"][0]["response"]["status"] == "200 OK"


@pytest.mark.parametrize(
    "condition",
    ["http://fhir.example/Observation?code=x", "?", "Patient?", "http://fhir.example/Patient"],
)
async def test_if_none_exist_of_something_else_is_refused(site, outcome, condition):
    response = await site.client.post(
        "/Patient", json=PATIENT, headers={"if-none-exist": condition}
    )

    outcome(response, 400)
