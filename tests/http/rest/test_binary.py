"""Binary resources as what they hold, and the attachments of an export that lead there."""

import base64

import pytest

CONTENT = bytes(range(256)) * 20
BINARY = {
    "resourceType": "Binary",
    "id": "bin1",
    "contentType": "image/png",
    "data": base64.b64encode(CONTENT).decode(),
}


@pytest.mark.parametrize(
    "accept",
    ["image/png", "image/*", "*/*", None, "text/plain", "image/png, application/fhir+json;q=0.5"],
)
async def test_a_client_gets_what_it_holds(site, client, accept):
    """RC-17, TR-62, B2-FL-11"""
    await site.put(BINARY)

    response = await client.get("/Binary/bin1", headers={"Accept": accept} if accept else {})

    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.content == CONTENT
    assert response.headers["etag"] == 'W/"1"'
    assert response.headers["vary"].startswith("Accept")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("application/fhir+json", ""),
        ("application/fhir+json; fhirVersion=4.0", ""),
        ("application/json", ""),
        ("application/fhir+json, */*;q=0.1", ""),
        ("image/png", "?_format=json"),
    ],
)
async def test_a_client_that_speaks_fhir_gets_the_resource(site, client, accept, query):
    """RC-17, TR-62"""
    await site.put(BINARY)

    response = await client.get(f"/Binary/bin1{query}", headers={"Accept": accept})

    assert response.headers["content-type"].startswith("application/fhir+json")
    assert response.json()["data"] == BINARY["data"]
    assert response.headers["vary"].startswith("Accept")


async def test_json_content_is_given_to_those_who_ask_for_json(site, client):
    """RC-17"""
    data = base64.b64encode(b'{"a":1}').decode()
    await site.put(BINARY | {"contentType": "application/json; charset=utf-8", "data": data})

    response = await client.get("/Binary/bin1", headers={"Accept": "application/json"})

    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.content == b'{"a":1}'


async def test_text_keeps_the_media_type_it_was_stored_with(site, client):
    """TR-62"""
    data = base64.b64encode("grün".encode("latin-1")).decode()
    await site.put(BINARY | {"contentType": "text/plain; charset=iso-8859-1", "data": data})

    response = await client.get("/Binary/bin1", headers={"Accept": "text/plain"})

    assert response.headers["content-type"] == "text/plain; charset=iso-8859-1"
    assert response.text == "grün"


@pytest.mark.parametrize("content_type", ["text/html\r\nX-Evil: 1", "nonsense", ""])
async def test_a_media_type_that_is_none_is_not_repeated(site, client, content_type):
    await site.put(BINARY | {"contentType": content_type})

    response = await client.get("/Binary/bin1", headers={"Accept": "*/*"})

    assert response.headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in response.headers


async def test_a_client_that_has_it_already_gets_304(site, client):
    await site.put(BINARY)

    response = await client.get(
        "/Binary/bin1", headers={"Accept": "image/png", "If-None-Match": 'W/"1"'}
    )

    assert response.status_code == 304
    assert response.content == b""


async def test_a_head_request_has_no_body(site, client):
    await site.put(BINARY)

    response = await client.head("/Binary/bin1", headers={"Accept": "image/png"})

    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.content == b""


async def test_data_that_are_not_base64_are_shown_only_as_the_resource(site, client, outcome):
    await site.put(BINARY | {"data": "a"})

    outcome(await client.get("/Binary/bin1", headers={"Accept": "image/png"}), 406)
    response = await client.get("/Binary/bin1", headers={"Accept": "application/fhir+json"})

    assert response.json()["data"] == "a"


async def test_one_without_data_holds_nothing(site, client):
    await site.put({"resourceType": "Binary", "id": "bin1", "contentType": "image/png"})

    response = await client.get("/Binary/bin1", headers={"Accept": "image/png"})

    assert response.status_code == 200
    assert response.content == b""


async def test_one_that_is_not_there_is_not_found_in_any_form(site, client, outcome):
    outcome(await client.get("/Binary/none", headers={"Accept": "image/png"}), 404, "not-found")

    await site.put(BINARY)
    await site.delete("Binary", "bin1")

    outcome(await client.get("/Binary/bin1", headers={"Accept": "image/png"}), 410, "deleted")


async def test_other_types_are_json_only(site, client, outcome):
    await site.put({"resourceType": "Patient", "id": "p"})

    outcome(await client.get("/Patient/p", headers={"Accept": "image/png"}), 406)


async def test_the_attachments_of_an_export_open_without_a_token(site, client):
    """B2-FL-09, B2-FL-11, TR-61, TR-62, RC-17"""
    attachment = {"contentType": "image/png", "url": "Binary/bin1"}
    await site.put(
        {"resourceType": "Patient", "id": "p1"},
        {
            "resourceType": "DocumentReference",
            "id": "doc1",
            "status": "current",
            "subject": {"reference": "Patient/p1"},
            "content": [{"attachment": attachment}],
        },
        BINARY,
    )
    manifest = await site.manifest("/Patient/$export?_type=DocumentReference")
    [file] = manifest["output"]
    line = (await client.get(file["url"])).json()
    [content] = line["content"]

    response = await client.get(
        content["attachment"]["url"],
        headers={"Accept": content["attachment"]["contentType"], "Authorization": "Bearer x"},
    )

    assert manifest["requiresAccessToken"] is False
    assert response.content == CONTENT
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_organized_export_says_so_in_its_manifest(site, client, method):
    """B3-13, B3-14, B3-18, B3-19, B3-20, TR-45, TR-46, RC-15, RV-39"""
    await site.put({"resourceType": "Patient", "id": "p1"})
    for number in range(20):
        subject = {"reference": "Patient/p1"}
        await site.put({"resourceType": "Observation", "id": f"o{number}", "subject": subject})
    parameters = [{"name": "organizeOutputBy", "valueCode": "Patient"}]
    options = {"json": {"resourceType": "Parameters", "parameter": parameters}}
    path, options = (
        ("/$export?organizeOutputBy=Patient", {}) if method == "GET" else ("/$export", options)
    )

    manifest = await site.manifest(path, method=method, limits={"part_bytes": 1000}, **options)

    assert manifest["outputOrganizedBy"] == "Patient"
    output = manifest["output"]
    assert len(output) > 2
    count = 0
    for number, file in enumerate(output):
        assert "type" not in file
        lines = [line for line in (await client.get(file["url"])).text.splitlines() if line]
        assert '"Parameters"' in lines[0]
        assert file["count"] == len(lines) - 1
        count += file["count"]
        following = output[number + 1]["url"] if number + 1 < len(output) else None
        assert file.get("continuesInFile") == following
    assert count == 21


async def test_output_that_is_not_organized_says_nothing_about_it(site):
    """B3-18, B3-19, TR-45"""
    await site.put({"resourceType": "Patient", "id": "p1"})

    manifest = await site.manifest()

    assert "outputOrganizedBy" not in manifest
    assert [file["type"] for file in manifest["output"]] == ["Patient"]


async def test_the_notes_of_an_export_are_no_files_of_it(site, client, outcome):
    """B2-MF-10"""
    performer = [{"reference": "Practitioner/d"}]
    subject = {"reference": "Patient/p1"}
    await site.put(
        {"resourceType": "Patient", "id": "p1"},
        {"resourceType": "Practitioner", "id": "d"},
        {"resourceType": "Observation", "id": "o", "subject": subject, "performer": performer},
    )

    location = await site.kick_off("/Patient/$export")
    await site.finish(location)
    manifest = (await client.get(location)).json()

    assert {file["type"] for file in manifest["output"]} == {
        "Observation",
        "Patient",
        "Practitioner",
    }
    assert manifest["error"] == manifest["deleted"] == []
    notes = location.replace("export-status", "export-file") + "/references-Observation-1-1.ndjson"
    outcome(await client.get(notes), 404)
