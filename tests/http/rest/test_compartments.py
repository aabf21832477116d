"""Searches within compartments, and records of patients."""

import pytest

from helios_core.fhir.compartments import patients_of
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from tests.http.rest.test_type_history import pages

X, Y = {"reference": "Patient/x"}, {"reference": "Patient/y"}
GP = {"reference": "Practitioner/gp"}


def observation(id_, subject, **others):
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"text": id_},
        "subject": subject,
        **others,
    }


RESOURCES = [
    {"resourceType": "Patient", "id": "x", "birthDate": "1950-01-01", "generalPractitioner": [GP]},
    {"resourceType": "Patient", "id": "y", "link": [{"other": X, "type": "seealso"}]},
    {"resourceType": "Practitioner", "id": "gp"},
    {"resourceType": "Practitioner", "id": "other"},
    {"resourceType": "Organization", "id": "org"},
    observation("old", X, effectiveDateTime="2019-05-01", performer=[GP]),
    observation("new", X, effectiveDateTime="2021-05-01"),
    observation("undated", X),
    observation("by-x", Y, performer=[X]),
    observation("of-y", Y),
    {
        "resourceType": "Appointment",
        "id": "both",
        "status": "booked",
        "participant": [{"actor": X, "status": "accepted"}, {"actor": Y, "status": "accepted"}],
    },
    {
        "resourceType": "Appointment",
        "id": "alone",
        "status": "booked",
        "participant": [{"actor": X, "status": "accepted"}],
    },
    {
        "resourceType": "Group",
        "id": "g",
        "type": "person",
        "actual": True,
        "member": [{"entity": X}, {"entity": Y}],
    },
    {
        "resourceType": "DocumentReference",
        "id": "d",
        "status": "current",
        "subject": X,
        "content": [
            {"attachment": {"url": "Binary/own"}},
            {"attachment": {"url": "Binary/foreign"}},
        ],
    },
    {"resourceType": "Binary", "id": "own", "contentType": "text/plain", "securityContext": X},
    {"resourceType": "Binary", "id": "foreign", "contentType": "text/plain", "securityContext": Y},
    {
        "resourceType": "Encounter",
        "id": "e",
        "status": "finished",
        "class": {"code": "AMB"},
        "subject": X,
        "serviceProvider": {"reference": "Organization/org"},
    },
    observation("at-e", Y, encounter={"reference": "Encounter/e"}),
]
RECORD = {
    *(
        "Patient/x",
        "Observation/old",
        "Observation/new",
        "Observation/undated",
        "Observation/by-x",
    ),
    *("Appointment/alone", "DocumentReference/d", "Encounter/e"),
}
REFERENCED = {"Practitioner/gp", "Organization/org", "Binary/own"}
UNDATED = {"Observation/undated", "Observation/by-x"}
EVERYTHING = "/Patient/x/$everything"


@pytest.fixture
async def clinic(site):
    await site.put(*RESOURCES)
    return site


def names(bundle, mode=None):
    return [
        "/".join(entry["fullUrl"].split("/")[-2:])
        for entry in bundle.get("entry", ())
        if mode in (None, entry["search"]["mode"])
    ]


async def found(client, path, mode=None):
    return [name for page in await pages(client, path) for name in names(page, mode)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/Patient/x/Observation", {"old", "new", "undated", "by-x"}),
        ("/Patient/x/Observation?date=ge2020", {"new"}),
        ("/Patient/x/Observation?subject=Patient/y", {"by-x"}),
        ("/Patient/x/Observation?code=none", set()),
        ("/Patient/x/Patient", {"x", "y"}),
        ("/Patient/x/Appointment", {"both", "alone"}),
        ("/Patient/x/Group", {"g"}),
        ("/Patient/none/Observation", set()),
        ("/Encounter/e/Observation", {"at-e"}),
        ("/Encounter/e/Encounter", {"e"}),
        ("/Practitioner/gp/Observation", {"old"}),
        ("/Practitioner/gp/Patient", {"x"}),
    ],
)
async def test_a_compartment_is_searched_by_type(clinic, path, expected):
    """FHIR R4, http.html#vsearch"""
    ids = [name.split("/")[1] for name in await found(clinic.client, path)]

    assert sorted(ids) == sorted(expected)


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_a_whole_compartment_is_found_in_pages(clinic, count):
    expected = {*RECORD, "Patient/y", "Appointment/both", "Group/g"}

    all_pages = await pages(clinic.client, f"/Patient/x/*?_count={count}")

    listed = [name for page in all_pages for name in names(page)]
    assert sorted(listed) == sorted(expected)
    assert all(1 <= len(names(page)) <= count for page in all_pages)


async def test_a_whole_compartment_is_what_exports_take_for_it(clinic):
    """The search parameters and the paths of the exports say the same."""
    in_compartment = {
        f"{each['resourceType']}/{each['id']}"
        for each in RESOURCES
        if "x" in patients_of(each, FHIRVersion.R4)
    }

    assert set(await found(clinic.client, "/Patient/x/*")) == in_compartment


async def test_links_of_a_compartment_stay_in_it(clinic):
    bundle = (await clinic.client.get("/Patient/x/Observation?_count=1&date=gt1999")).json()

    urls = {each["relation"]: each["url"] for each in bundle["link"]}
    assert {url.partition("?")[0].partition("/Patient")[2] for url in urls.values()} == {
        "/x/Observation"
    }
    assert len(await pages(clinic.client, urls["first"])) == 2


async def test_a_compartment_is_searched_by_form(clinic):
    response = await clinic.client.post("/Patient/x/Observation/_search", data={"date": "ge2020"})

    assert names(response.json()) == ["Observation/new"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/Patient/x/Practitioner", 404),
        ("/Patient/x/Foo", 404),
        ("/Organization/org/Observation", 404),
        ("/Patient/x/Observation?foo=1", 400),
        ("/Patient/x/*?code=1", 400),
        ("/Patient/x/*?_type=Observation", 400),
        ("/Patient/x/*?_sort=_id", 400),
        ("/Patient/x/*?_after=x", 400),
        ("/Patient/x/*?_after=Foo.x", 400),
        ("/Patient/x/*?_after=Observation.x", 400),
        ("/Patient/x,y/Observation", 404),
    ],
)
async def test_what_is_no_compartment_or_no_search_is_refused(clinic, outcome, path, status):
    outcome(await clinic.client.get(path), status)


@pytest.mark.parametrize("version", FHIRVersion)
async def test_metadata_lists_the_compartments_that_are_served(client, version):
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}
    [rest] = (await client.get("/metadata", headers=headers)).json()["rest"]

    names = {url.rpartition("/")[2] for url in rest["compartment"]}
    compartments = load_definitions(version).compartments
    assert names == {name.lower() for name in compartments}
    for name in compartments:
        response = await client.get(f"/{name}/x/*", headers=headers)
        assert (response.status_code, response.json()["type"]) == (200, "searchset")


@pytest.mark.parametrize("count", [1, 3, 100])
async def test_a_record_is_the_compartment_and_what_it_refers_to(clinic, count):
    """Of what several patients share, what an export for this one shows; no Group."""
    path = f"{EVERYTHING}?_count={count}"

    assert sorted(await found(clinic.client, path, "match")) == sorted(RECORD)
    assert set(await found(clinic.client, path, "include")) == REFERENCED


async def test_the_patient_comes_first(clinic):
    first, *_ = await found(clinic.client, EVERYTHING)

    assert first == "Patient/x"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("_type=Observation", {n for n in RECORD if n.startswith("Obs")}),
        ("_type=Patient,Encounter&_type=Group", {"Patient/x", "Encounter/e"}),
        ("_type=Practitioner", set()),
        ("_type=Observation&start=2020-01-01", {*UNDATED, "Observation/new"}),
        ("_type=Observation&end=2020", {*UNDATED, "Observation/old"}),
        ("_type=Observation&start=2019-05-01&end=2019-05-01", {*UNDATED, "Observation/old"}),
        ("_type=Patient&start=2020-01-01&end=2020-12-31", {"Patient/x"}),
        ("_since=2999-01-01T00:00:00Z", set()),
        ("_since=1999-01-01T00:00:00Z", RECORD),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_record_is_narrowed(clinic, method, query, expected):
    if method == "GET":
        response = await clinic.client.get(f"{EVERYTHING}?{query}")
    else:
        pairs = [pair.split("=") for pair in query.split("&")]
        body = [{"name": name, "valueString": value} for name, value in pairs]
        response = await clinic.client.post(
            EVERYTHING, json={"resourceType": "Parameters", "parameter": body}
        )

    assert sorted(names(response.json(), "match")) == sorted(expected)


async def test_a_record_since_an_instant_has_what_changed_after_it(clinic):
    history = (await clinic.client.get("/Observation/_history")).json()
    since = history["entry"][0]["resource"]["meta"]["lastUpdated"]
    await clinic.put(observation("new", X, effectiveDateTime="2021-06-01"))

    assert await found(clinic.client, f"{EVERYTHING}?_since={since}") == ["Observation/new"]


async def test_the_links_of_a_posted_record_are_read_by_get(clinic):
    body = [{"name": "_count", "valueInteger": 2}, {"name": "_type", "valueCode": "Observation"}]
    first = await clinic.client.post(
        EVERYTHING, json={"resourceType": "Parameters", "parameter": body}
    )

    urls = {each["relation"]: each["url"] for each in first.json()["link"]}
    rest = await found(clinic.client, urls["next"], "match")

    assert len({*names(first.json(), "match"), *rest}) == 4


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/Patient/none/$everything", 404),
        ("/Patient/gone/$everything", 410),
        (f"{EVERYTHING}?_since=2020", 400),
        (f"{EVERYTHING}?start=x", 400),
        (f"{EVERYTHING}?_type=Foo", 400),
        (f"{EVERYTHING}?_count=x", 400),
        (f"{EVERYTHING}?foo=1", 400),
        (f"{EVERYTHING}?_after=x", 400),
    ],
)
async def test_a_record_that_is_not_there_or_malformed_is_refused(clinic, outcome, path, status):
    await clinic.put({"resourceType": "Patient", "id": "gone"})
    await clinic.delete("Patient", "gone")

    outcome(await clinic.client.get(path), status)


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Patient"},
        {"resourceType": "Parameters", "parameter": {}},
        {"resourceType": "Parameters", "parameter": [1]},
        {"resourceType": "Parameters", "parameter": [{"name": "_count"}]},
        {"resourceType": "Parameters", "parameter": [{"name": "foo", "valueString": "x"}]},
        {"resourceType": "Parameters", "parameter": [{"name": "_count", "valueBoolean": True}]},
        {
            "resourceType": "Parameters",
            "parameter": [{"name": "start", "valueDate": "2020", "valueString": "x"}],
        },
    ],
)
async def test_parameters_that_are_none_are_refused(clinic, outcome, body):
    outcome(await clinic.client.post(EVERYTHING, json=body), 400)


async def test_an_empty_body_has_no_parameters(clinic):
    response = await clinic.client.post(EVERYTHING)

    assert sorted(names(response.json(), "match")) == sorted(RECORD)


@pytest.mark.parametrize("path", [EVERYTHING, "/Patient/x/Observation", "/Patient/x/*"])
async def test_head_is_get_without_a_body(clinic, path):
    head = await clinic.client.head(path)

    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("type_", ["batch", "transaction"])
async def test_compartments_and_records_are_read_in_bundles(clinic, type_):
    urls = ["Patient/x/Observation?date=ge2020", "Patient/x/*", "Patient/x/$everything?_count=2"]
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    parameters = {
        "resourceType": "Parameters",
        "parameter": [{"name": "_type", "valueString": "Encounter"}],
    }
    entries.append(
        {
            "resource": parameters,
            "request": {"method": "POST", "url": "Patient/x/$everything"},
        }
    )

    response = await clinic.client.post(
        "/", json={"resourceType": "Bundle", "type": type_, "entry": entries}
    )

    one, whole, page, posted = [entry["resource"] for entry in response.json()["entry"]]
    assert names(one) == ["Observation/new"]
    assert set(names(whole)) == {*RECORD, "Patient/y", "Appointment/both", "Group/g"}
    assert len(names(page, "match")) == 2
    assert names(posted) == ["Encounter/e"]
    assert "/Patient/x/Observation?" in one["link"][0]["url"]


@pytest.mark.parametrize(
    "url", ["Observation/o/$everything", "Patient/x/$foo", "Patient/x/Observation/y"]
)
async def test_what_a_bundle_cannot_read_is_refused_alone(clinic, url):
    entries = [{"request": {"method": "GET", "url": each}} for each in (url, "Patient/x")]

    response = await clinic.client.post(
        "/", json={"resourceType": "Bundle", "type": "batch", "entry": entries}
    )

    statuses = [entry["response"]["status"] for entry in response.json()["entry"]]
    assert statuses == ["400 Bad Request", "200 OK"]


async def test_metadata_lists_the_operation(client):
    [rest] = (await client.get("/metadata")).json()["rest"]

    by_type = {each["type"]: each for each in rest["resource"]}
    [everything] = [each for each in by_type["Patient"]["operation"] if each["name"] != "export"]
    assert everything == {
        "name": "everything",
        "definition": "http://hl7.org/fhir/OperationDefinition/Patient-everything",
    }
