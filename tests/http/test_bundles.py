import pytest

PATIENT = {"resourceType": "Patient"}
TEMPORARY = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"


def entry(method, url, resource=None, *, full_url=None, **request):
    made = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        made["resource"] = resource
    if full_url is not None:
        made["fullUrl"] = full_url
    return made


def bundle(kind, *entries):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


async def test_a_transaction_resolves_temporary_references(client):
    observation = {"resourceType": "Observation", "subject": {"reference": TEMPORARY}}

    response = await client.post(
        "/",
        json=bundle(
            "transaction",
            entry("POST", "Observation", observation),
            entry("POST", "Patient", PATIENT, full_url=TEMPORARY),
        ),
    )

    answer = response.json()
    first, second = [each["response"] for each in answer["entry"]]
    stored = (await client.get(first["location"])).json()
    patient = (await client.get(second["location"])).json()
    assert response.status_code == 200
    assert answer["type"] == "transaction-response"
    assert [first["status"], second["status"]] == ["201 Created", "201 Created"]
    assert stored["subject"]["reference"] == f"Patient/{patient['id']}"
    assert stored["meta"]["lastUpdated"] == patient["meta"]["lastUpdated"]
    assert first["etag"] == 'W/"1"'


async def test_the_answers_of_a_transaction_are_in_the_order_of_its_entries(site):
    await site.put(PATIENT | {"id": "old"}, PATIENT | {"id": "gone"})

    answer = await site.client.post(
        "/",
        json=bundle(
            "transaction",
            entry("GET", "Patient/new"),
            entry("PUT", "Patient/new", PATIENT),
            entry("PUT", "/Patient/old", PATIENT | {"active": True}),
            entry("DELETE", "http://fhir.example/Patient/gone"),
            entry("POST", "Patient", PATIENT),
        ),
    )

    entries = answer.json()["entry"]
    assert [each["response"]["status"] for each in entries] == [
        *("200 OK", "201 Created", "200 OK", "204 No Content", "201 Created")
    ]
    assert entries[0]["resource"]["id"] == "new"
    assert (await site.client.get("/Patient/gone")).status_code == 410


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (entry("PUT", "Patient/b", PATIENT, ifMatch='W/"9"'), 412),
        (entry("PUT", "Patient/b", PATIENT | {"id": "c"}), 400),
        (entry("PUT", "Patient/b", {"resourceType": "Observation"}), 400),
        (entry("PUT", "Patient/a", PATIENT), 400),
        (entry("PUT", "Patient", PATIENT), 400),
        (entry("POST", "Patient/x", PATIENT), 400),
        (entry("PUT", "Patient?identifier=x", PATIENT), 400),
        (entry("POST", "Patient", PATIENT, ifNoneExist="identifier=x"), 400),
        (entry("PATCH", "Patient/b", PATIENT), 400),
        (entry("PUT", "Nothing/b", PATIENT), 404),
        (entry("DELETE", "Patient/a/b"), 400),
        (
            entry(
                "POST",
                "Observation",
                {"resourceType": "Observation", "subject": {"reference": TEMPORARY}},
            ),
            400,
        ),
    ],
)
async def test_a_transaction_with_one_wrong_entry_changes_nothing(client, outcome, wrong, status):
    response = await client.post(
        "/", json=bundle("transaction", entry("PUT", "Patient/a", PATIENT), wrong)
    )

    outcome(response, status)
    assert (await client.get("/Patient/a")).status_code == 404
    assert "entry" not in (await client.get("/Patient")).json()


async def test_a_transaction_names_the_entry_at_fault(client, outcome):
    wrong = entry("PUT", "Patient/b", PATIENT | {"id": "c"})

    response = await client.post(
        "/", json=bundle("transaction", entry("PUT", "Patient/a", PATIENT), wrong)
    )

    assert "entry 1" in outcome(response, 400, "structure")["diagnostics"]


async def test_the_entries_of_a_batch_stand_alone(client):
    answer = await client.post(
        "/",
        json=bundle(
            "batch",
            entry("PUT", "Patient/a", PATIENT),
            entry("PUT", "Patient/b", {"resourceType": "Observation"}),
            entry("GET", "Patient/a"),
            entry("GET", "Patient/none"),
            entry("DELETE", "Patient/a"),
            entry("GET", "Patient/a"),
            entry("PUT", "Patient/c", PATIENT, ifMatch='W/"4"'),
        ),
    )

    body = answer.json()
    responses = [each["response"] for each in body["entry"]]
    outcomes = [each["outcome"] for each in responses if "outcome" in each]
    assert (answer.status_code, body["type"]) == (200, "batch-response")
    assert [each["status"] for each in responses] == [
        "201 Created",
        "400 Bad Request",
        "200 OK",
        "404 Not Found",
        "204 No Content",
        "410 Gone",
        "412 Precondition Failed",
    ]
    outcomes = [
        each["response"]["outcome"] for each in body["entry"] if "outcome" in each["response"]
    ]
    assert {each["resourceType"] for each in outcomes} == {"OperationOutcome"}
    assert len(outcomes) == 4


@pytest.mark.parametrize("kind", ["collection", "history", "searchset", "nonsense"])
async def test_a_bundle_that_is_no_batch_or_transaction_is_refused(client, outcome, kind):
    outcome(await client.post("/", json=bundle(kind)), 400, "structure")


async def test_something_else_than_a_bundle_is_refused(client, outcome):
    outcome(await client.post("/", json=PATIENT), 400, "structure")


async def test_an_empty_transaction_is_fine(client):
    response = await client.post("/", json=bundle("transaction"))

    assert response.json() == {"resourceType": "Bundle", "type": "transaction-response"}


async def test_a_bundle_can_be_stored_as_a_resource(client):
    stored = await client.put("/Bundle/b1", json=bundle("collection"))

    assert stored.status_code == 201
