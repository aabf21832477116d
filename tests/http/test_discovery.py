import asyncio

import pytest

from helios_core.errors import BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.http import discovery
from helios_core.http.capability_statement import capability_elements
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from tests.pace import scaled

BULK_DATA = "http://hl7.org/fhir/uv/bulkdata"


async def test_metadata_names_the_guide_and_its_three_operations(client):
    """B2-CAP-01, B2-CAP-02, B3-32: as the guide spells them."""
    response = await client.get("/metadata")

    statement = response.json()
    [rest] = statement["rest"]
    by_type = {resource["type"]: resource for resource in rest["resource"]}
    places = (rest, by_type["Patient"], by_type["Group"])
    assert response.headers["content-type"] == "application/fhir+json"
    assert statement["resourceType"] == "CapabilityStatement"
    assert statement["instantiates"] == [f"{BULK_DATA}/CapabilityStatement/bulk-data"]
    operations = [operation for place in places for operation in place["operation"]]
    assert [each for each in operations if each["name"] == "export"] == [
        {"name": "export", "definition": f"{BULK_DATA}/OperationDefinition/{definition}"}
        for definition in ("export", "patient-export", "group-export")
    ]
    assert [name for name, r in by_type.items() if "operation" in r] == ["Group", "Patient"]


@pytest.mark.parametrize("version", list(FHIRVersion))
async def test_metadata_lists_the_types_of_the_requested_version(client, version):
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}

    statement = (await client.get("/metadata", headers=headers)).json()

    [rest] = statement["rest"]
    assert statement["fhirVersion"] == load_definitions(version).label
    assert {resource["type"] for resource in rest["resource"]} == load_definitions(version).types
    assert {each["code"] for each in rest["resource"][0]["interaction"]} == {
        *(
            "read",
            "vread",
            "history-instance",
            "history-type",
            "create",
            "update",
            "patch",
            "delete",
            "search-type",
        )
    }
    assert {each["code"] for each in rest["interaction"]} == {
        *("transaction", "batch", "history-system")
    }


@pytest.mark.parametrize("path", ["/health", "/_liveness", "/_readiness"])
async def test_a_healthy_server_says_so(client, path):
    response = await client.get(path)

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


class SilentProvider(MemoryDataProvider):
    async def get(self, *args, **options):
        await asyncio.Event().wait()


class LostJobs(MemoryJobStore):
    async def exists(self, tenant, job_id):
        raise BackendUnavailable("no connection to secret-host")


class LostOutput(MemoryOutputStore):
    async def jobs(self):
        raise BackendUnavailable("no connection to secret-host")
        yield


@pytest.mark.parametrize(
    "broken",
    [
        {"data_provider": SilentProvider()},
        {"job_store": LostJobs()},
        {"output_store": LostOutput()},
        {"data_provider": SilentProvider(), "output_store": LostOutput()},
    ],
    ids=", ".join,
)
async def test_a_server_with_a_broken_backend_is_alive_and_says_which_it_waits_for(
    open_site, outcome, monkeypatch, broken
):
    monkeypatch.setattr("helios_core.http.discovery.TIMEOUT_SECONDS", scaled(0.1))
    site = await open_site(**broken)
    named = ", ".join(broken).replace("_", " ")

    for path in ("/_readiness", "/health"):
        response = await site.client.get(path)
        issue = outcome(response, 503, "transient")
        assert issue["diagnostics"] == (
            f"These backends do not respond: {named}. The reasons are in the log."
        )
        assert response.headers["retry-after"] == "5"
    assert (await site.client.get("/_liveness")).status_code == 200


@pytest.mark.parametrize("path", ["/metadata", "/openapi.json"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_document_that_the_client_has_is_not_sent_again(client, path, coding, method):
    """RFC 9110 §13.1.2, §15.4.5"""
    headers = {"Accept-Encoding": coding}
    first = await client.get(path, headers=headers)

    headers["If-None-Match"] = first.headers["etag"]
    again = await client.request(method, path, headers=headers)
    other = await client.get(path, headers=headers | {"If-None-Match": 'W/"other"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["vary"] == first.headers["vary"] == "Accept, Accept-Encoding"
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("query", ["_summary=true", "_elements=fhirVersion", "_=1"])
async def test_metadata_may_be_asked_for_a_part_of_it(client, query):
    """A server need not reduce what it returns (FHIR R4, search.html#summary)."""
    plain, asked = await client.get("/metadata"), await client.get(f"/metadata?{query}")

    assert asked.status_code == 200
    assert asked.content == plain.content
    assert asked.headers["etag"] == plain.headers["etag"]


async def test_documents_of_other_versions_and_addresses_have_other_etags(client):
    etags = set()
    for version in FHIRVersion:
        for host in ("one.example", "two.example"):
            accept = f"application/fhir+json; fhirVersion={version.release}"
            response = await client.get("/metadata", headers={"Accept": accept, "Host": host})
            etags.add(response.headers["etag"])
            assert response.json()["implementation"]["url"] == f"http://{host}"

    assert len(etags) == 2 * len(FHIRVersion)


async def test_addresses_that_clients_make_up_do_not_fill_memory(client, monkeypatch):
    monkeypatch.setattr(discovery, "MAX_DOCUMENTS", 2)
    built = []
    monkeypatch.setattr(
        discovery,
        "capability_elements",
        lambda *args, **kwargs: built.append(args) or capability_elements(*args, **kwargs),
    )

    for number in range(5):
        for host in (f"h{number}.example", "known.example"):
            response = await client.get("/metadata", headers={"Host": host})
            assert response.json()["implementation"]["url"] == f"http://{host}"

    assert len(built) == 1
