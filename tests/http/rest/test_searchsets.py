"""Searchsets fulfil the invariants of Bundle, as validators check them (FHIR R4, bundle.html)."""

import re
from urllib.parse import urlsplit

import pytest

BASE = "http://fhir.example"
RELATIONS = {"self", "first", "previous", "next", "last"}
MODES = {"match", "include", "outcome"}
SEARCHES = [
    "/Patient",
    "/Patient?_count=1",
    "/Patient?_count=1&_sort=-birthdate",
    "/Patient?_id=none",
    "/Patient?_summary=count",
    "/Patient?_total=accurate&_count=1",
    "/Patient?bogus=1&other=2&_vendor=3",
    "/Patient?bogus=1&_include=*&_revinclude=*",
    "/Patient?_include:iterate=*&_revinclude:iterate=*",
    "/Patient?_summary=true&_include=*",
    "/Patient?_elements=resourceType",
    "/Patient?_sort=bogus",
    "/Observation?subject:Patient.general-practitioner.name=grey",
    "/Patient?_has:Observation:subject:status=final&_summary=text&_count=1",
    "/Patient?_summary=data&_revinclude=*&_include:iterate=*&_count=1",
    "/Observation?_elements=status,Patient.id&_include=*&_total=none",
    "/Observation?_count=0",
    "/Patient?_lastUpdated=gt1990&_sort=-_lastUpdated&_count=1",
    "/Patient/p0/Observation",
    "/Patient/p0/Observation?_include=*&_summary=true",
    "/Patient/p0/*?_count=1",
    "/Patient/p0/$everything",
    "/Patient/p0/$everything?_count=1&_type=Patient,Observation",
    "/Patient/p0/$everything?_since=2999-01-01T00:00:00Z",
    "/Practitioner/d/*",
]
HISTORIES = [
    "/_history",
    "/_history?_count=2",
    "/Patient/_history?_count=1&_since=1990-01-01T00:00:00Z",
    "/Patient/p0/_history?_count=1",
    "/Patient/gone/_history",
    "/Practitioner/_history?_at=1990",
]


@pytest.fixture
async def client(either_site):
    await either_site.put(
        {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Grey"}]},
        *(
            {
                "resourceType": "Patient",
                "id": f"p{number}",
                "birthDate": f"200{number}-01-01",
                "generalPractitioner": [{"reference": "Practitioner/d"}],
                "link": [{"other": {"reference": "Patient/p0"}, "type": "refer"}],
            }
            for number in range(3)
        ),
        {
            "resourceType": "Observation",
            "id": "o",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": "Patient/p0"},
        },
    )
    return either_site.client


def violations(bundle):
    """The invariants that a searchset breaks."""
    entries, links = bundle.get("entry", []), bundle.get("link", [])
    urls = [entry.get("fullUrl") for entry in entries]
    relations = [link["relation"] for link in links]
    checks = {
        "type": bundle["resourceType"] == "Bundle" and bundle["type"] == "searchset",
        "empty arrays (json)": [] not in bundle.values(),
        "bdl-1": bundle.get("total", 0) >= 0,
        "bdl-2 and bdl-3": all({*entry} == {"fullUrl", "resource", "search"} for entry in entries),
        "bdl-5": all(entry.get("resource") for entry in entries),
        "bdl-7": len(urls) == len({*urls}) and None not in urls,
        "bdl-8": not any("/_history/" in url for url in urls),
        "bdl-14 (self)": relations.count("self") == 1,
        "relations": {*relations} <= RELATIONS and len({*relations}) == len(relations),
        "urls": all(urlsplit(link["url"]).scheme == "http" for link in links),
        "modes": all(entry["search"]["mode"] in MODES for entry in entries),
        "fullUrl": all(map(_is_identity, entries)),
        "outcomes": all(map(_is_outcome, entries)),
    }
    return [name for name, holds in checks.items() if not holds]


def _is_identity(entry):
    """A fullUrl ends with type and id of its resource, or is a UUID of one without an id."""
    resource = entry["resource"]
    if "id" in resource:
        return entry["fullUrl"] == f"{BASE}/{resource['resourceType']}/{resource['id']}"
    uuid = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    return re.fullmatch(uuid, entry["fullUrl"]) is not None


def _is_outcome(entry):
    """An entry is an OperationOutcome with issues if and only if its mode says so."""
    resource = entry["resource"]
    is_outcome = resource["resourceType"] == "OperationOutcome"
    complete = not is_outcome or all(
        {"severity", "code", "diagnostics"} <= {*issue} for issue in resource["issue"]
    )
    return complete and is_outcome == (entry["search"]["mode"] == "outcome")


@pytest.mark.parametrize("search", SEARCHES)
async def test_every_page_fulfils_the_invariants(client, search):
    url, pages = search, 0
    while url:
        response = await client.get(url, headers={"Prefer": "handling=lenient"})
        assert response.status_code == 200, response.text
        page = response.json()
        assert violations(page) == []
        url = {link["relation"]: link["url"] for link in page["link"]}.get("next")
        pages += 1

    assert pages <= 4


def broken_by_history(bundle):
    """The invariants that a history breaks."""
    entries, links = bundle.get("entry", []), bundle.get("link", [])
    versions = [(entry.get("fullUrl"), entry["response"].get("etag")) for entry in entries]
    deletions = [entry for entry in entries if entry["request"]["method"] == "DELETE"]
    checks = {
        "type": bundle["resourceType"] == "Bundle" and bundle["type"] == "history",
        "empty arrays (json)": [] not in bundle.values(),
        "bdl-2": not any("search" in entry for entry in entries),
        "bdl-3 and bdl-4": all({"request", "response"} <= {*entry} for entry in entries),
        "bdl-7": len(versions) == len({*versions}),
        "bdl-8": not any("/_history/" in url for url, _ in versions),
        "deletions": all(("resource" in entry) == (entry not in deletions) for entry in entries),
        "fullUrl": all(_is_identity(entry) for entry in entries if "resource" in entry),
        "statuses": all(re.match("20[014]", entry["response"]["status"]) for entry in entries),
        "self": [link["relation"] for link in links].count("self") == 1,
        "urls": all(urlsplit(link["url"]).scheme == "http" for link in links),
    }
    return [name for name, holds in checks.items() if not holds]


@pytest.mark.parametrize("history", HISTORIES)
async def test_every_page_of_a_history_fulfils_the_invariants(client, history):
    await client.put("/Patient/p0", json={"resourceType": "Patient", "id": "p0", "active": True})
    await client.put("/Patient/gone", json={"resourceType": "Patient", "id": "gone"})
    await client.delete("/Patient/gone")
    url, found = history, 0

    while url:
        page = (await client.get(url)).json()
        assert broken_by_history(page) == []
        found += len(page.get("entry", []))
        url = {link["relation"]: link["url"] for link in page["link"]}.get("next")

    assert found > 0 or "_at=1990" in history


@pytest.mark.parametrize("search", [search for search in SEARCHES if "bogus" not in search])
async def test_a_searchset_within_a_batch_fulfils_the_invariants(client, search):
    request = {"method": "GET", "url": search[1:]}
    batch = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": request}]}

    [entry] = (await client.post("/", json=batch)).json()["entry"]

    assert entry["response"]["status"] == "200 OK"
    assert violations(entry["resource"]) == []


@pytest.mark.parametrize(
    "path",
    [
        "/Patient?_id=p0,p1",
        "/Patient/p0/$everything?_type=Patient,Observation",
    ],
)
async def test_the_lists_in_links_keep_their_commas(client, path):
    """Validators compare the types of entries with `_type` of the link without decoding it."""
    page = (await client.get(path)).json()

    [link] = [each["url"] for each in page["link"] if each["relation"] == "self"]
    [listed] = [pair for pair in path.partition("?")[2].split("&") if "," in pair]
    assert listed in urlsplit(link).query.split("&")


def test_the_checks_find_what_is_wrong():
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning"}]}
    patient = {"resourceType": "Patient", "id": "p"}
    wrong = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [],
        "entry": [
            {"resource": outcome, "search": {"mode": "outcome"}},
            {"fullUrl": "x", "resource": patient, "search": {"mode": "match"}},
        ],
    }

    assert violations(wrong | {"entry": [wrong["entry"][1]]}) == [
        "empty arrays (json)",
        "bdl-14 (self)",
        "fullUrl",
    ]
    wrong["entry"][0]["fullUrl"] = "x"
    assert {"bdl-7", "outcomes", "fullUrl"} <= {*violations(wrong)}
