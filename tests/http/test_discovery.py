import asyncio

import pytest

from helios_core.errors import BackendUnavailable
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore

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
    assert [operation for place in places for operation in place["operation"]] == [
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
            "create",
            "update",
            "patch",
            "delete",
            "search-type",
        )
    }
    assert {each["code"] for each in rest["interaction"]} == {"transaction", "batch"}


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
    ],
)
async def test_a_server_with_a_broken_backend_is_alive_but_not_ready(
    open_site, outcome, monkeypatch, broken
):
    monkeypatch.setattr("helios_core.http.discovery.TIMEOUT_SECONDS", 0.05)
    site = await open_site(**broken)

    for path in ("/_readiness", "/health"):
        response = await site.client.get(path)
        outcome(response, 503, "transient")
        assert "secret-host" not in response.text
        assert response.headers["retry-after"] == "5"
    assert (await site.client.get("/_liveness")).status_code == 200
