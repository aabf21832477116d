"""What a server itself writes is valid to HAPI's validator: Bundles, outcomes and statements."""

from itertools import product

import pytest

from helios_core.config.settings import Settings
from helios_core.errors import HeliosError
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.outcomes import outcome_line
from tests import hapi_validator
from tests.tokens import StaticVerifier

PATIENTS = [
    {
        "resourceType": "Patient",
        "id": f"p{number}",
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>',
        },
        "birthDate": f"200{number}-01-01",
        "generalPractitioner": [{"reference": "Practitioner/d"}],
        "link": [{"other": {"reference": "Patient/p0"}, "type": "refer"}],
    }
    for number in range(3)
]
OBSERVATION = {
    "resourceType": "Observation",
    "id": "o",
    "status": "final",
    "code": {"text": "x"},
    "subject": {"reference": "Patient/p0"},
}
STORED = [
    *PATIENTS,
    OBSERVATION,
    {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Grey"}]},
]

SEARCHES = [
    "/Patient",
    "/Patient?_count=1",
    "/Patient?_count=1&_sort=-birthdate&_total=accurate",
    "/Patient?_id=none",
    "/Patient?_total=none",
    *(f"/Patient?_summary={summary}" for summary in ("true", "text", "data", "count", "false")),
    "/Observation?_summary=true&_include=*",
    "/Observation?_summary=text&_include=*",
    "/Observation?_elements=subject,Patient.id&_include=*",
    "/Observation?_count=0",
    "/Patient?_elements=resourceType",
    "/Patient?_elements=link&_count=1",
    "/Patient?bogus=1&other=2&_vendor=3",
    "/Patient?bogus=1&_include=*&_revinclude=*",
    "/Patient?_include:iterate=*&_revinclude:iterate=*&_summary=data",
    "/Observation?_include=Observation:subject&_include:iterate=Patient:general-practitioner",
    "/Practitioner?_revinclude=Patient:general-practitioner&_count=1",
    "/Patient?_sort=bogus",
    "/Patient?_has:Observation:subject:status=final",
    "/Patient/p0/Observation",
    "/Patient/p0/*?_count=1",
    "/Patient/p0/$everything",
    "/Patient/p0/$everything?_count=1&_type=Patient,Observation",
    "/Patient/p0/$everything?_since=2999-01-01T00:00:00Z",
]
HISTORIES = [
    "/_history",
    "/_history?_count=2",
    "/Patient/_history?_count=1&_since=1990-01-01T00:00:00Z",
    "/Patient/p0/_history?_count=1",
    "/Patient/gone/_history",
]
EMPTY_HISTORY = "/Practitioner/_history?_at=1990"
READS = [
    "/Patient/p0?_summary=text",
    "/Patient/p0?_elements=link",
    "/Observation/o?_summary=true",
    "/Observation/o?_elements=subject",
    "/Observation/o/_history/1?_summary=text",
]
REFUSED = [
    (400, "GET", "/Patient?bogus=1", {}),
    (400, "GET", "/Patient?birthdate=x", {}),
    (404, "GET", "/Patiant", {}),
    (410, "GET", "/Patient/gone", {}),
    (404, "GET", "/Patient/none", {}),
    (404, "GET", "/nowhere/at/all", {}),
    (405, "PATCH", "/metadata", {}),
    (406, "GET", "/Patient/p0", {"headers": {"Accept": "application/fhir+xml"}}),
    (400, "GET", "/Patient/$export", {}),
    (404, "GET", "/export-status/none", {}),
    (415, "POST", "/Patient", {"content": b"<Patient/>", "headers": {"Content-Type": "text/xml"}}),
    (400, "POST", "/Patient", {"json": []}),
    (400, "PUT", "/Patient/x", {"json": {"resourceType": "Patient", "id": "y"}}),
    (412, "PUT", "/Patient/p0", {"json": PATIENTS[0], "headers": {"If-Match": 'W/"99"'}}),
    (400, "POST", "/", {"json": {"resourceType": "Bundle", "type": "searchset"}}),
]
PERFORMED = [
    {"request": {"method": "GET", "url": "Patient?_count=1"}},
    {"request": {"method": "GET", "url": "Patient/p0"}},
    {"request": {"method": "GET", "url": "Patient/p0?_summary=text"}},
    {"request": {"method": "HEAD", "url": "Patient/p0"}},
    {"request": {"method": "GET", "url": "Patient/p2", "ifNoneMatch": 'W/"1"'}},
    {"request": {"method": "GET", "url": "Patient/p2", "ifNoneMatch": 'W/"1"'}},
    {"request": {"method": "GET", "url": "Patient/p0/$everything"}},
    {"request": {"method": "GET", "url": "Patient/none"}},
    {"request": {"method": "GET", "url": "_history?_count=2"}},
    {
        "request": {"method": "PUT", "url": "Patient/p0"},
        "resource": PATIENTS[0] | {"active": True},
    },
    {"request": {"method": "DELETE", "url": "Patient/gone"}},
    {
        "fullUrl": "urn:uuid:7a3b8a0e-3c1f-4f0e-8f6b-0d8a5e1b2c3d",
        "request": {"method": "POST", "url": "Patient", "ifNoneExist": "_id=none"},
        "resource": {"resourceType": "Patient", "active": True},
    },
]
FAILING = [
    {"request": {"method": "GET", "url": "Patient?bogus=1"}},
    {
        "request": {"method": "PUT", "url": "Patient/p1", "ifMatch": 'W/"99"'},
        "resource": PATIENTS[1],
    },
]
BUNDLES = [
    {"resourceType": "Bundle", "type": "batch", "entry": PERFORMED + FAILING},
    {"resourceType": "Bundle", "type": "transaction", "entry": PERFORMED},
    {"resourceType": "Bundle", "type": "batch"},
    {"resourceType": "Bundle", "type": "transaction"},
]
WRONG = [
    (
        "wrong search",
        b'{"resourceType":"Bundle","type":"history","entry":[{"search":{"score":1}}]}',
    ),
    ("wrong type", b'{"resourceType":"Bundle","type":"found"}'),
]
"""What the validator must find, or it finds nothing."""
RETURNS = ["representation", "minimal", "OperationOutcome"]
ACTIVATE = [{"op": "add", "path": "/active", "value": True}]
LENIENT = {"Prefer": "handling=lenient"}


class Responses:
    """The bodies of a site's responses, each with the request that it responds to."""

    def __init__(self, site):
        self._site = site
        self.bodies = list[tuple[str, bytes]]()

    async def ask(self, method, url, status=200, **options):
        """Keep and return the body of a response, which must have a status."""
        response = await self._site.client.request(method, url, **options)
        assert response.status_code == status, f"{method} {url}: {response.text}"
        self.bodies.append((f"{method} {url}", response.content))
        return response.json()

    async def pages(self, url):
        """Keep every page of a Bundle."""
        while url:
            page = await self.ask("GET", url, headers=LENIENT)
            url = {link["relation"]: link["url"] for link in page["link"]}.get("next")

    async def export(self):
        """Keep what an export writes beside resources: outcomes, deletions, heads of blocks."""
        since = (await self._site.manifest())["transactionTime"]
        await self._site.client.delete("/Patient/p2")
        lenient = {"Prefer": "respond-async, handling=lenient"}
        query = f"/Patient/$export?_since={since}&bogus=1"
        for url in (query, f"{query}&organizeOutputBy=Patient"):
            manifest = await self._site.manifest(url, headers=lenient)
            for file in (*manifest["deleted"], *manifest["error"], *manifest["output"]):
                lines = (await self._site.client.get(file["url"])).content.splitlines()
                self.bodies += [(f"{url} {file['type']}", line) for line in lines]


async def everything(site, version):
    """Return every kind of resource that a server itself writes."""
    responses = Responses(site)
    await site.put(*STORED, version=version)
    await site.client.put("/Patient/gone", json={"resourceType": "Patient", "id": "gone"})
    await site.client.delete("/Patient/gone")
    await site.client.patch(
        "/Patient/p2", json=ACTIVATE, headers={"Content-Type": "application/json-patch+json"}
    )
    for url in [*READS, "/metadata", "/$export?_dryRun=true&bogus=1"]:
        await responses.ask("GET", url, headers={"Prefer": "respond-async, handling=lenient"})
    for url in [*SEARCHES, *HISTORIES]:
        await responses.pages(url)
    if version is not FHIRVersion.R5:
        # By mistake R5's bdl-14 holds for no history without entries.
        await responses.pages(EMPTY_HISTORY)
    await responses.ask("POST", "/Patient/_search", data={"_id": "p0,p1", "_count": "1"})
    for status, method, url, options in REFUSED:
        await responses.ask(method, url, status, **options)
    for preferred, bundle in product(RETURNS, BUNDLES):
        headers = {"Prefer": f"return={preferred}"}
        await responses.ask("POST", "/", json=bundle, headers=headers)
    outcome = {"Prefer": "return=OperationOutcome"}
    await responses.ask("PUT", "/Patient/p0", json=PATIENTS[0], headers=outcome)
    await responses.ask("DELETE", "/Observation/o", headers=outcome)
    await responses.export()
    return responses.bodies


@pytest.mark.parametrize(
    "version",
    [
        FHIRVersion.R4,
        *(pytest.param(each, marks=pytest.mark.in_turn) for each in hapi_validator.VERSIONS[1:]),
    ],
    ids=lambda version: version.name,
)
async def test_what_a_server_writes_is_valid(open_site, version, tmp_path):
    settings = Settings(default_fhir_version=version)
    site = await open_site(settings)
    written = await everything(site, version)
    secured = Responses(await open_site(settings, token_verifier=StaticVerifier({})))
    await secured.ask("GET", "/metadata")
    outcomes = [
        (error.__name__, outcome_line("error", error.code, "What to do."))
        for error in subclasses(HeliosError)
    ]

    bodies = [*written, *secured.bodies, *outcomes, *WRONG]
    found = hapi_validator.errors(bodies, version, tmp_path)

    wrong = [error for error in found if error.startswith("wrong ")]
    assert found == wrong, "\n".join(found)
    assert {error.partition(":")[0] for error in wrong} == {name for name, _ in WRONG}


def subclasses(parent):
    """Return a class and all that are derived from it."""
    return [parent, *(each for child in parent.__subclasses__() for each in subclasses(child))]
