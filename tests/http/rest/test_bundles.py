import asyncio
import json

import pytest

from helios_core.config.settings import Settings
from helios_core.memory import MemoryDataProvider

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

    body = response.json()
    first, second = [each["response"] for each in body["entry"]]
    stored = (await client.get(first["location"])).json()
    patient = (await client.get(second["location"])).json()
    assert response.status_code == 200
    assert body["type"] == "transaction-response"
    assert [first["status"], second["status"]] == ["201 Created", "201 Created"]
    assert stored["subject"]["reference"] == f"Patient/{patient['id']}"
    assert stored["meta"]["lastUpdated"] == patient["meta"]["lastUpdated"]
    assert first["etag"] == 'W/"1"'


async def test_the_results_of_a_transaction_are_in_the_order_of_its_entries(site):
    await site.put(PATIENT | {"id": "old"}, PATIENT | {"id": "gone"})

    response = await site.client.post(
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

    entries = response.json()["entry"]
    assert [each["response"]["status"] for each in entries] == [
        *("200 OK", "201 Created", "200 OK", "204 No Content", "201 Created")
    ]
    assert entries[0]["resource"]["id"] == "new"
    assert (await site.client.get("/Patient/gone")).status_code == 410


async def test_what_a_transaction_cannot_read_does_not_undo_it(client):
    [put, read] = await apply(
        client, entry("PUT", "Patient/a", PATIENT), entry("GET", "Patient/none")
    )

    assert put["response"]["status"] == "201 Created"
    assert read["response"]["status"] == "404 Not Found"
    assert read["response"]["outcome"]["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (entry("PUT", "Patient/b", PATIENT, ifMatch='W/"9"'), 412),
        (entry("PUT", "Patient/b", PATIENT | {"id": "c"}), 400),
        (entry("PUT", "Patient/b", {"resourceType": "Observation"}), 400),
        (entry("PUT", "Patient/a", PATIENT), 400),
        (entry("PUT", "Patient", PATIENT), 400),
        (entry("POST", "Patient/x", PATIENT), 400),
        (entry("PUT", "Patient?bogus=x", PATIENT), 400),
        (entry("PUT", "Patient?", PATIENT), 400),
        (entry("PUT", "Patient/b?identifier=x", PATIENT), 400),
        (entry("POST", "Patient", PATIENT, ifNoneExist="bogus=x"), 400),
        (entry("POST", "Patient", PATIENT, ifNoneMatch="*"), 400),
        (entry("POST", "Patient?identifier=x", PATIENT), 400),
        (entry("PUT", "Patient/b", PATIENT, ifNoneExist="identifier=x"), 400),
        (entry("GET", "Patient?bogus=x"), 400),
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
    response = await client.post(
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

    body = response.json()
    responses = [each["response"] for each in body["entry"]]
    outcomes = [each["outcome"] for each in responses if "outcome" in each]
    assert (response.status_code, body["type"]) == (200, "batch-response")
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


PRACTITIONER = {
    "resourceType": "Practitioner",
    "id": "doc",
    "identifier": [{"system": "http://npi.example", "value": "9,9"}],
}
BY_NUMBER = "Practitioner?identifier=http://npi.example|9\\,9"


def encounter(reference):
    return {"resourceType": "Encounter", "participant": [{"individual": {"reference": reference}}]}


async def apply(client, *entries, kind="transaction"):
    response = await client.post("/", json=bundle(kind, *entries))
    assert response.status_code == 200, response.text
    return response.json()["entry"]


async def test_a_conditional_reference_becomes_the_one_it_finds(site):
    await site.put(PRACTITIONER)

    [entered] = await apply(site.client, entry("POST", "Encounter", encounter(BY_NUMBER)))

    stored = (await site.client.get(entered["response"]["location"])).json()
    assert stored["participant"][0]["individual"]["reference"] == "Practitioner/doc"


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        (BY_NUMBER, 412),
        ("Practitioner?identifier=none", 400),
        ("Practitioner?", 400),
        ("Practitioner?bogus=1", 400),
        ("Nothing?identifier=x", 400),
        ("Practitioner?name=\ud800", 400),
    ],
)
async def test_a_conditional_reference_without_one_match_fails_the_transaction(
    site, outcome, reference, status
):
    await site.put(PRACTITIONER, PRACTITIONER | {"id": "double"})
    sent = bundle(
        "transaction",
        entry("PUT", "Patient/a", PATIENT),
        entry("POST", "Encounter", encounter(reference)),
    )

    response = await site.client.post(
        "/", content=json.dumps(sent), headers={"Content-Type": "application/json"}
    )

    outcome(response, status)
    assert (await site.client.get("/Patient/a")).status_code == 404


async def test_a_conditional_create_in_a_transaction_stores_once(site):
    created = [
        entry(
            "POST",
            "Practitioner",
            PRACTITIONER,
            full_url=TEMPORARY,
            ifNoneExist="identifier=http://npi.example|9\\,9",
        ),
        entry("POST", "Encounter", encounter(TEMPORARY)),
    ]

    first, second = [await apply(site.client, *created) for _ in range(2)]

    statuses = [[each["response"]["status"] for each in each] for each in (first, second)]
    assert statuses == [["201 Created", "201 Created"], ["200 OK", "201 Created"]]
    assert first[0]["response"]["location"] == second[0]["response"]["location"]
    encounters = (await site.client.get("/Encounter")).json()["entry"]
    references = {
        each["resource"]["participant"][0]["individual"]["reference"] for each in encounters
    }
    assert len(references) == 1
    assert len((await site.client.get("/Practitioner")).json()["entry"]) == 1


async def test_conditional_transactions_at_once_store_once(client):
    sent = bundle(
        "transaction",
        entry("POST", "Practitioner", PRACTITIONER, ifNoneExist="identifier=http://npi.example|"),
    )

    await asyncio.gather(*(client.post("/", json=sent) for _ in range(10)))

    assert len((await client.get("/Practitioner")).json()["entry"]) == 1


@pytest.mark.parametrize("kind", ["transaction", "batch"])
async def test_conditional_updates_and_deletes_find_what_they_are_about(site, kind):
    await site.put(PRACTITIONER, PATIENT | {"id": "gone", "active": False})

    results = await apply(
        site.client,
        entry("PUT", BY_NUMBER, PRACTITIONER | {"active": True}),
        entry("DELETE", "Patient?active=false"),
        entry("DELETE", "Patient?active=true"),
        entry("GET", "Practitioner?active=true"),
        kind=kind,
    )

    assert [each["response"]["status"] for each in results] == [
        *("200 OK", "204 No Content", "204 No Content", "200 OK")
    ]
    assert results[0]["response"]["location"].endswith("Practitioner/doc/_history/2")
    assert results[3]["resource"]["type"] == "searchset"
    assert len(results[3]["resource"]["entry"]) == 1
    assert (await site.client.get("/Patient/gone")).status_code == 410


@pytest.mark.parametrize(
    "entries",
    [
        [entry("POST", "Patient", PATIENT, ifNoneExist="active=true")] * 2,
        [
            entry("PUT", "Patient?active=false", PATIENT),
            entry("PUT", "Patient/a", PATIENT),
        ],
        [
            entry("DELETE", "Patient?active=false"),
            entry("PUT", "Patient/a", PATIENT),
        ],
    ],
)
async def test_a_transaction_whose_conditions_meet_is_refused(site, outcome, entries):
    await site.put(PATIENT | {"id": "a", "active": False})

    outcome(await site.client.post("/", json=bundle("transaction", *entries)), 400)
    assert len((await site.client.get("/Patient")).json()["entry"]) == 1


@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_a_bundle_reads_all_that_a_server_shows(site, kind):
    await site.put(PATIENT | {"id": "a"}, PATIENT | {"id": "a", "active": True})

    read, known, changed, head, version, history, everything, metadata = await apply(
        site.client,
        entry("GET", "Patient/a"),
        entry("GET", "Patient/a", ifNoneMatch='W/"2"'),
        entry("GET", "Patient/a", ifNoneMatch='W/"1"'),
        entry("HEAD", "Patient/a"),
        entry("GET", "Patient/a/_history/1"),
        entry("GET", "Patient/a/_history?_count=1"),
        entry("GET", "Patient"),
        entry("GET", "metadata"),
        kind=kind,
    )

    assert read["response"]["etag"] == head["response"]["etag"] == 'W/"2"'
    assert known["response"]["status"] == "304 Not Modified"
    assert "resource" not in known
    assert "resource" not in head
    assert head["response"]["status"] == changed["response"]["status"] == "200 OK"
    assert "active" not in version["resource"]
    assert version["response"]["etag"] == 'W/"1"'
    assert [each["resource"]["active"] for each in history["resource"]["entry"]] == [True]
    assert history["resource"]["link"][1]["relation"] == "next"
    assert everything["resource"]["type"] == "searchset"
    assert metadata["resource"]["resourceType"] == "CapabilityStatement"


@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_a_full_url_identifies_one_resource_of_a_response(site, kind):
    """FHIR R4, bundle.html, bdl-7: a link to it has one target."""
    await site.put(PATIENT | {"id": "a"})
    reads = [entry("HEAD", "Patient/a"), *(entry("GET", "Patient/a") for _ in range(2))]
    changed = entry("PUT", "Patient/a", PATIENT | {"active": True})
    known = entry("GET", "Patient/a", ifNoneMatch='W/"1", W/"2"')
    headers = {"Prefer": "return=representation"}

    sent = bundle(kind, *reads, changed, known)
    response = await site.client.post("/", json=sent, headers=headers)

    entries = response.json()["entry"]
    assert ["fullUrl" in each for each in entries] == [False, True, False, False, False]
    assert ["resource" in each for each in entries] == [False, True, True, True, False]


async def test_a_bundle_with_too_many_entries_is_refused(open_site, outcome):
    site = await open_site(Settings(max_bundle_entries=2))
    for kind in ("batch", "transaction"):
        entries = [entry("PUT", f"Patient/{number}", PATIENT) for number in range(3)]

        response = await site.client.post("/", json=bundle(kind, *entries))

        assert "at most 2" in outcome(response, 413, "too-long")["diagnostics"]
    assert "entry" not in (await site.client.get("/Patient")).json()


@pytest.mark.parametrize("kind", ["batch", "transaction"])
async def test_a_response_that_would_be_too_large_leaves_out_what_does_not_fit(open_site, kind):
    site = await open_site(Settings(max_bundle_response_bytes=6000))
    large = PATIENT | {"id": "large", "name": [{"text": "x" * 4000}]}
    await site.put(large)

    response = await site.client.post(
        "/",
        json=bundle(
            kind,
            entry("GET", "Patient/large"),
            entry("GET", "Patient"),
            entry("GET", "Patient/small"),
            entry("PUT", "Patient/small", PATIENT | {"id": "small"}),
        ),
        headers={"prefer": "return=minimal"},
    )

    read, search, after, put = response.json()["entry"]
    assert read["resource"]["id"] == "large"
    for each in (search, after):
        assert each["response"]["status"] == "400 Bad Request"
        assert each["response"]["outcome"]["issue"][0]["code"] == "too-costly"
        assert "HFS_MAX_BUNDLE_RESPONSE_BYTES" in str(each)
        assert "resource" not in each
    assert put["response"]["status"] == "201 Created"
    assert len(response.content) < 8000


async def test_a_change_that_is_too_large_to_return_is_made_all_the_same(open_site):
    site = await open_site(Settings(max_bundle_response_bytes=100))

    response = await site.client.post(
        "/",
        json=bundle("batch", entry("PUT", "Patient/a", PATIENT | {"id": "a"})),
        headers={"prefer": "return=representation"},
    )

    [put] = response.json()["entry"]
    assert put["response"]["status"] == "201 Created"
    assert put["response"]["outcome"]["issue"][0]["severity"] == "warning"
    assert "resource" not in put
    assert (await site.client.get("/Patient/a")).status_code == 200


class SearchedStore(MemoryDataProvider):
    """Counts its searches, and lets the test act at each."""

    def __init__(self):
        super().__init__()
        self.searches = 0
        self.searched = asyncio.Event()

    async def search(self, key, query, *, count, after=None):
        self.searches += 1
        self.searched.set()
        return await super().search(key, query, count=count, after=after)


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("batch", [entry("GET", "Patient?name=x")] * 500),
        ("batch", [entry("PUT", f"Patient?name={n}", PATIENT) for n in range(500)]),
        ("transaction", [entry("GET", "Patient?name=x")] * 500),
        ("transaction", [entry("POST", "Patient", PATIENT, ifNoneExist="name=x")] * 500),
    ],
)
async def test_nothing_is_begun_for_a_client_that_has_disconnected(open_site, kind, entries):
    store = SearchedStore()
    site = await open_site(data_provider=store)
    messages = [{"type": "http.request", "body": json.dumps(bundle(kind, *entries)).encode()}]

    async def receive():
        if messages:
            return messages.pop()
        await store.searched.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    request = site.client.build_request("POST", "/")
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [pair for pair in headers if pair[0] != b"content-length"],
        "server": ("fhir.example", 80),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    await site.client._transport.app(scope, receive, send)

    assert 0 < store.searches < 100
