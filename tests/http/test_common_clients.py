"""The literal requests of a client in wide use: headers, encodings and bodies as it sends them."""

import httpx
import msgspec
import pytest

GET_HEADERS = {
    "accept": "application/fhir+json",
    "prefer": "respond-async, handling=lenient",
    "user-agent": "got (https://github.com/sindresorhus/got)",
    "accept-encoding": "gzip, deflate, br",
}
POST_HEADERS = GET_HEADERS | {"content-type": "application/json"}
POLL_HEADERS = {"accept": "application/json", "accept-encoding": "gzip, deflate, br"}
FILE_HEADERS = {"accept-encoding": "gzip, deflate, br, identity"}
BODY = (
    b'{"resourceType":"Parameters","parameter":['
    b'{"name":"_since","valueInstant":"2020-01-02T00:00:00+00:00"},'
    b'{"name":"_type","valueString":"Patient"},'
    b'{"name":"_type","valueString":"Observation"},'
    b'{"name":"_elements","valueString":"id,Observation.status"},'
    b'{"name":"_typeFilter","valueString":'
    b'"Observation?status=final,amended,Observation?status=preliminary"},'
    b'{"name":"patient","valueReference":{"reference":"Patient/p1"}},'
    b'{"name":"_outputFormat","valueString":"application/fhir+ndjson"},'
    b'{"name":"allowPartialManifests","valueBoolean":false}]}'
)
OBSERVATIONS = [
    {
        "resourceType": "Observation",
        "id": f"{patient}-{status}",
        "status": status,
        "code": {"text": "weight"},
        "subject": {"reference": f"Patient/{patient}"},
    }
    for patient in ("p1", "p2")
    for status in ("final", "preliminary", "cancelled")
]


async def literal(site, method, url, headers, content=None):
    """Send these headers and no others."""
    request = httpx.Request(method, httpx.URL(site.client.base_url).join(url), content=content)
    length = {"content-length": str(len(content))} if content is not None else {}
    request.headers = httpx.Headers({"host": "fhir.example", **headers, **length})
    return await site.client.send(request)


@pytest.fixture
async def hospital(site):
    patients = [{"resourceType": "Patient", "id": each, "gender": "male"} for each in ("p1", "p2")]
    members = [{"entity": {"reference": "Patient/p1"}}]
    await site.put(
        *patients, *OBSERVATIONS, {"resourceType": "Group", "id": "g1", "member": members}
    )
    return site


async def finished(site, kicked):
    """Work, poll as the client does, and return the manifest."""
    assert kicked.status_code == 202, kicked.text
    location = kicked.headers["content-location"]
    waiting = await literal(site, "GET", location, POLL_HEADERS)
    assert (waiting.status_code, waiting.content) == (202, b"")
    assert waiting.headers["retry-after"].isdigit()
    await site.finish(location)
    response = await literal(site, "GET", location, POLL_HEADERS)
    assert response.status_code == 200
    return response.json()


async def download(site, manifest, member="output"):
    """Fetch and check the files of a list as the client does."""
    kinds = {"deleted": "Bundle", "error": "OperationOutcome"}
    lines = []
    for file in manifest[member]:
        response = await literal(site, "GET", file["url"], FILE_HEADERS)
        assert response.status_code == 200
        found = [msgspec.json.decode(line) for line in response.text.split("\n") if line.strip()]
        assert {line["resourceType"] for line in found} == {kinds.get(member, file["type"])}
        assert not file["count"] or file["count"] == len(found)
        lines += found
    return lines


@pytest.mark.parametrize(
    "path",
    ["/.well-known/smart-configuration", "/.well-known/openid-configuration"],
)
async def test_without_a_smart_configuration_the_client_goes_on_without_a_token(
    hospital, outcome, path
):
    """RC-01"""
    headers = {"accept": "application/json"}

    outcome(await literal(hospital, "GET", path, headers), 404, "not-found")
    metadata = await literal(hospital, "GET", "/metadata", headers)
    assert metadata.status_code == 200
    assert "oauth-uris" not in metadata.text


async def test_metadata_is_read_before_the_kick_off(hospital):
    """RC-02"""
    response = await literal(hospital, "GET", "/metadata?_format=json", {"accept": "*/*"})

    assert response.json()["resourceType"] == "CapabilityStatement"


@pytest.mark.parametrize("path", ["/Patient/$export", "/Group/g1/$export", "/$export"])
async def test_a_get_with_everything_encoded(hospital, path):
    """RC-04, RC-06, RC-08, RC-09, RC-11, RC-13, RC-14, TR-20"""
    query = "_type=Patient%2CObservation&_since=2020-01-02T00%3A00%3A00%2B00%3A00"

    kicked = await literal(hospital, "GET", f"{path}?{query}", GET_HEADERS)
    manifest = await finished(hospital, kicked)

    assert kicked.headers["content-location"].startswith("http://fhir.example/export-status/")
    assert kicked.content == b""
    assert "resourceType" not in manifest
    assert isinstance(manifest["output"], list)
    assert manifest["error"] == []
    whose = 1 if "Group" in path else 2
    assert len(await download(hospital, manifest)) == 4 * whose


async def test_what_a_client_of_its_own_adds_is_reported_and_not_refused(hospital):
    """RC-04, RC-16"""
    path = "/Patient/$export?_type=Patient&_vendor%3Aparameter=1%202"

    manifest = await finished(hospital, await literal(hospital, "GET", path, GET_HEADERS))

    [error] = await download(hospital, manifest, "error")
    assert "_vendor:parameter" in error["issue"][0]["diagnostics"]


@pytest.mark.parametrize("path", ["/Patient/$export", "/Group/g1/$export"])
async def test_a_post_of_plain_json_with_joined_lists(hospital, path):
    """RC-05, RV-20, TR-12, TR-13"""
    kicked = await literal(hospital, "POST", path, POST_HEADERS, BODY)
    lines = await download(hospital, await finished(hospital, kicked))

    found = sorted(line["id"] for line in lines)
    assert found == ["p1", "p1-final", "p1-preliminary"]
    assert "gender" not in next(line for line in lines if line["id"] == "p1")


async def test_custom_parameters_of_any_kind_are_reported(hospital):
    """RC-05"""
    custom = [
        {"name": "a", "valueBoolean": True},
        {"name": "b", "valueInteger": 3},
        {"name": "c", "valueDecimal": 1.5},
        {"name": "d", "valueInstant": "2020-01-02T00:00:00Z"},
        {"name": "e", "valueString": "x"},
    ]
    body = msgspec.json.encode({"resourceType": "Parameters", "parameter": custom})

    kicked = await literal(hospital, "POST", "/$export", POST_HEADERS, body)

    assert len(await download(hospital, await finished(hospital, kicked), "error")) == 5


async def test_deletions_are_downloaded_like_the_rest(hospital):
    """RC-16, RV-50"""
    since = (await hospital.manifest("/$export"))["transactionTime"]
    await hospital.delete("Observation", "p1-final")
    path = "/Patient/$export?_since=" + since.replace(":", "%3A").replace("+", "%2B")

    manifest = await finished(hospital, await literal(hospital, "GET", path, GET_HEADERS))

    [bundle] = await download(hospital, manifest, "deleted")
    assert bundle["entry"][0]["request"] == {"method": "DELETE", "url": "Observation/p1-final"}


async def test_pages_are_followed_by_their_links(hospital):
    """RC-12, B3-24, B3-25"""
    path = "/Patient/$export?_type=Observation&allowPartialManifests=true"
    await hospital.put(*({**OBSERVATIONS[0], "id": f"o{number}"} for number in range(20)))
    kicked = await literal(hospital, "GET", path, GET_HEADERS)
    location = kicked.headers["content-location"]
    await hospital.finish(location, part_rows=1)

    found, pages = [], 0
    while location:
        response = await literal(hospital, "GET", location, POLL_HEADERS)
        assert response.status_code == 200
        page = response.json()
        found += [line["id"] for line in await download(hospital, page)]
        links = {link["relation"]: link["url"] for link in page.get("link", [])}
        location, pages = links.get("next"), pages + 1

    assert len(found) == len(set(found)) == 26
    assert pages == 3


async def test_an_attachment_is_fetched_with_its_type_and_a_token(hospital):
    """RC-17, RV-49"""
    document = {
        "resourceType": "DocumentReference",
        "id": "doc1",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/bin1"}}],
    }
    binary = {"resourceType": "Binary", "id": "bin1", "contentType": "text/plain", "data": "aGk="}
    await hospital.put(document, binary)
    path = "/Patient/$export?_type=DocumentReference"
    manifest = await finished(hospital, await literal(hospital, "GET", path, GET_HEADERS))
    [line] = await download(hospital, manifest)
    [content] = line["content"]

    headers = {"accept": "text/plain", "authorization": "Bearer undefined"}
    response = await literal(hospital, "GET", content["attachment"]["url"], headers)

    assert response.content == b"hi"
    assert response.headers["content-type"].startswith("text/plain")


async def test_the_last_segment_of_an_address_is_a_name_for_a_file(hospital):
    """RC-18"""
    path = "/Patient/$export"

    manifest = await finished(hospital, await literal(hospital, "GET", path, GET_HEADERS))

    segments = [file["url"].rsplit("/", 1)[1] for file in manifest["output"]]
    assert len(set(segments)) == len(segments) == 3
    assert all(name.endswith(".ndjson") and "?" not in name for name in segments)


async def test_a_client_that_polls_at_once_is_told_to_wait_a_second(hospital):
    """RC-07, RC-09, RC-10"""
    kicked = await literal(hospital, "GET", "/$export", GET_HEADERS)

    poll = await literal(hospital, "GET", kicked.headers["content-location"], POLL_HEADERS)

    assert 0.1 <= int(poll.headers["retry-after"]) <= 60
    assert int(poll.headers["x-progress"].split()[0]) < 100


async def test_a_client_may_end_what_it_has_downloaded(hospital):
    """RC-19"""
    kicked = await literal(hospital, "GET", "/$export", GET_HEADERS)
    await finished(hospital, kicked)
    location = kicked.headers["content-location"]

    ended = await literal(hospital, "DELETE", location, {"accept": "application/json"})

    assert (ended.status_code, ended.content) == (202, b"")


async def test_a_kick_off_without_accept_is_one_for_json(hospital):
    """B2-KO-15, TR-02, RV-09"""
    response = await literal(hospital, "GET", "/$export", {"prefer": "respond-async"})

    assert response.status_code == 202
