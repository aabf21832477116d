import msgspec
import pytest

DEEP = 100_000


def patient(**elements):
    return msgspec.json.encode({"resourceType": "Patient", "id": "p1", **elements})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no resourceType"),
        pytest.param(b'{"resourceType":"Patient","id":"p1"} {}', id="two documents"),
        pytest.param(patient(resourceType="Observation"), id="another type"),
        pytest.param(patient(resourceType="Nothing"), id="an unknown type"),
        pytest.param(patient(resourceType=7), id="a type that is a number"),
        pytest.param(patient(meta=[]), id="meta that is an array"),
        pytest.param(
            b'{"resourceType":"Patient","id":"p1","a":' + b"[" * DEEP + b"]" * DEEP + b"}",
            id="deep nesting",
        ),
        pytest.param(
            b'{"resourceType":"Patient","id":"p1","active":true,"active":false}',
            id="a key twice",
        ),
        pytest.param(
            b'{"resourceType":"Patient","id":"p1","name":[{"text":"a","text":"b"}]}',
            id="a key twice further down",
        ),
        pytest.param(patient(a="\0"), id="NUL"),
        pytest.param(b'{"resourceType":"Patient","id":"p1","a":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"resourceType":"Patient","id":"p1","a":"\xff"}', id="not UTF-8"),
        pytest.param(b'{"resourceType":"Patient","id":"p1","a":NaN}', id="NaN"),
        pytest.param(patient().decode().encode("utf-16"), id="UTF-16"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/Patient/p1"), ("POST", "/Patient"), ("POST", "/")]
)
async def test_a_body_that_is_no_such_resource_is_refused_and_changes_nothing(
    client, outcome, body, method, path
):
    before = await client.put("/Patient/p1", json={"resourceType": "Patient"})

    response = await client.request(
        method, path, content=body, headers={"Content-Type": "application/fhir+json"}
    )

    outcome(response, 400)
    assert (await client.get("/Patient/p1")).content == before.content


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, "byte order mark", id="a mark"),
        pytest.param(lambda text: text.decode().encode("utf-16"), "byte order mark", id="UTF-16"),
        pytest.param(lambda text: text.replace(b"words", b"\xff"), "not UTF-8", id="not UTF-8"),
        pytest.param(lambda text: text[:-2], "JSON", id="cut short"),
    ],
)
@pytest.mark.parametrize(
    "address",
    [
        ("PATCH", "/Patient/p1", "application/json-patch+json"),
        ("POST", "/Patient/p1/$everything", "application/fhir+json"),
        ("POST", "/$export", "application/fhir+json"),
    ],
)
async def test_a_text_that_cannot_be_read_is_called_so(client, outcome, spoil, words, address):
    method, path, media_type = address
    await client.put("/Patient/p1", json={"resourceType": "Patient"})
    operations = [{"op": "add", "path": "/gender", "value": "words"}]
    parameters = {"resourceType": "Parameters", "parameter": [{"valueString": "words"}]}
    text = msgspec.json.encode(operations if "patch" in media_type else parameters)

    response = await client.request(
        method,
        path,
        content=spoil(text),
        headers={"Content-Type": media_type, "Prefer": "respond-async"},
    )

    assert words in outcome(response, 400)["diagnostics"]


@pytest.mark.parametrize("resource_id", ["p2", "a/b", "", "x" * 65, 7, None, ["p1"]])
async def test_an_update_whose_body_has_another_id_is_refused(client, outcome, resource_id):
    response = await client.put("/Patient/p1", json={"resourceType": "Patient", "id": resource_id})

    outcome(response, 400, "structure")
    assert (await client.get("/Patient/p1")).status_code == 404


@pytest.mark.parametrize("resource_id", ["a b", "x" * 65, "a_b", "%00", "ä", "a%2f..", "$export"])
async def test_an_illegal_id_in_the_url_is_refused(client, resource_id):
    url = f"/Patient/{resource_id}"

    put = await client.put(url, json={"resourceType": "Patient"})
    get = await client.get(url)

    assert put.status_code in {400, 404, 405}
    assert get.status_code in {400, 404}


@pytest.mark.parametrize(
    "query",
    [
        "_since=2026-13-01T00:00:00Z",
        "_since=2026-02-30T00:00:00Z",
        "_since=2026-01-01",
        "_since=yesterday",
        "_since=2026-01-02T00:00:00Z&_until=2026-01-01T00:00:00Z",
        "_since=2026-01-01T00:00:00Z&_since=2026-01-01T00:00:00Z",
        "_type=NotAType",
        "_type=Patient,NotAType",
        "_type=SubscriptionTopic",
        "_type=",
        "_outputFormat=csv",
        "_elements=name.family",
        "_typeFilter=Patient%3Fnosuch%3Dtrue",
        "includeAssociatedData=Nope",
        "organizeOutputBy=CodeSystem",
        "organizeOutputBy=Patient&includeAssociatedData=LatestProvenanceResources",
        "bogus=1",
        "patient=Patient/p1",
    ],
)
async def test_a_parameter_that_cannot_be_honoured_is_refused(site, outcome, query):
    response = await site.client.get(f"/$export?{query}", headers={"Prefer": "respond-async"})

    outcome(response, 400)


async def test_ten_thousand_unknown_patients_are_refused_quickly(site, outcome):
    await site.put({"resourceType": "Patient", "id": "p1"})
    values = [
        {"name": "patient", "valueReference": {"reference": f"Patient/x{number}"}}
        for number in range(10_000)
    ]
    body = {"resourceType": "Parameters", "parameter": values}

    response = await site.client.post(
        "/Patient/$export", json=body, headers={"Prefer": "respond-async"}
    )

    assert "10000" in outcome(response, 400, "value")["diagnostics"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Patient","id":"p1","name":[{"text":"Jane-Canary"}',
        b'{"resourceType":"Patient","id":"Jane-Canary"}',
        b'{"resourceType":"Patient","id":"Jane Canary"}',
        b'{"resourceType":"Patient","id":"p1","a":1,"a":"Jane-Canary"}',
        b'{"resourceType":"Jane-Canary","id":"p1"}',
    ],
)
async def test_an_error_repeats_nothing_of_the_body(client, outcome, body):
    headers = {"Content-Type": "application/json"}

    response = await client.put("/Patient/p1", content=body, headers=headers)

    outcome(response, 400)
    assert "Canary" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/Patient/%00", 404),
        ("DELETE", "/Patient/a%00", 404),
        ("GET", "/Patient/%00/_history", 404),
        ("GET", "/Group/a%00b/$export", 404),
        ("GET", "/export-status/%00", 404),
        ("GET", "/export-file/%00/%00", 404),
        ("GET", "/Patient?_id=%00", 400),
        ("GET", "/Patient?name:exact=a%00", 400),
        ("GET", "/Observation?subject:Patient.name=a%00", 400),
        ("GET", "/Patient/$export?_typeFilter=Patient%3F_id%3Da%2500", 400),
    ],
)
async def test_a_nul_character_reaches_no_store(client, outcome, method, path, status):
    response = await client.request(method, path, headers={"Prefer": "respond-async"})

    code = "not-found" if status == 404 else "value"
    assert "NUL" in outcome(response, status, code)["diagnostics"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_a_nul_character_in_an_entry_reaches_no_store(client, method):
    entry = {"request": {"method": method, "url": "Patient/a\0"}, "resource": {}}
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [entry]}

    response = await client.post("/", json=bundle)

    [made] = response.json()["entry"]
    assert made["response"]["status"].startswith("400")
    assert "NUL" in made["response"]["outcome"]["issue"][0]["diagnostics"]
