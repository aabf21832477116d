from collections import defaultdict

import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search import compile_query

VALUES = {
    "token": "true",
    "string": "x",
    "date": "2026",
    "number": "1",
    "quantity": "1",
    "reference": "x",
    "uri": "http://x.example",
}


async def statement(client, version=FHIRVersion.R4):
    """The resources of a CapabilityStatement by type."""
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}
    response = await client.get("/metadata", headers=headers)
    [rest] = response.json()["rest"]
    return {each["type"]: each for each in rest["resource"]}


def value_of(version, resource_type, parameter):
    """A value that a parameter accepts, whatever is stored."""
    if parameter["type"] != "composite":
        return VALUES[parameter["type"]]
    published = load_definitions(version).search_parameters(resource_type)
    types = {each.url: each.type for each in load_definitions(version).parameters}
    [first, *_] = [each for each in published if each.code == parameter["name"]]
    return "$".join(VALUES[types[part.definition]] for part in first.component)


@pytest.mark.parametrize("version", list(FHIRVersion))
async def test_every_parameter_listed_is_served(client, version):
    """B3-32: metadata against behaviour, in both directions."""
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}
    failed = defaultdict(list)

    for name, resource in (await statement(client, version)).items():
        pairs = [(each["name"], value_of(version, name, each)) for each in resource["searchParam"]]
        for pair in pairs:
            compile_query(version, name, [pair])
        response = await client.get(f"/{name}", params=pairs, headers=headers)
        if response.status_code != 200:
            failed[name].append(response.text)

    assert failed == {}


@pytest.mark.parametrize("resource_type", ["Patient", "Observation", "Binary"])
async def test_every_parameter_listed_is_served_alone_and_in_a_type_filter(site, resource_type):
    """B3-33, B3-32: nothing is for REST only, so nothing is marked."""
    resource = (await statement(site.client))[resource_type]
    for each in resource["searchParam"]:
        pair = {each["name"]: value_of(FHIRVersion.R4, resource_type, each)}
        alone = await site.client.get(f"/{resource_type}", params=pair)
        query = f"{resource_type}?{each['name']}={pair[each['name']]}"
        filtered = await site.client.get(
            "/$export",
            params={"_type": resource_type, "_typeFilter": query},
            headers={"Prefer": "respond-async"},
        )
        await site.client.delete(filtered.headers["content-location"])

        assert (alone.status_code, filtered.status_code) == (200, 202), each
        assert set(each) == {"name", "definition", "type"}


async def test_what_is_not_listed_is_refused(client, outcome):
    """B3-32: metadata against behaviour, in both directions."""
    listed = {
        name: {each["name"] for each in resource["searchParam"]}
        for name, resource in (await statement(client)).items()
    }
    everything = set[str]().union(*listed.values()) | {"_text", "_content", "_filter", "_list"}

    for name in ("Patient", "Observation", "Binary", "Bundle"):
        for code in sorted(everything - listed[name]):
            outcome(await client.get(f"/{name}?{code}=x"), 400, "not-supported")


@pytest.mark.parametrize("version", [FHIRVersion.R4, FHIRVersion.R6])
async def test_every_include_listed_is_served(client, version):
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}
    resources = await statement(client, version)

    for name in ("Patient", "Observation", "Group"):
        for parameter in ("searchInclude", "searchRevInclude"):
            spelling = {"searchInclude": "_include", "searchRevInclude": "_revinclude"}[parameter]
            values = resources[name][parameter]
            for start in range(0, len(values), 20):
                pairs = [(spelling, value) for value in values[start : start + 20]]
                response = await client.get(f"/{name}", params=pairs, headers=headers)
                assert response.status_code == 200, response.text


async def test_definitions_are_those_of_the_specification(client):
    resources = await statement(client)

    by_name = {each["name"]: each for each in resources["Patient"]["searchParam"]}

    assert by_name["birthdate"] == {
        "name": "birthdate",
        "definition": "http://hl7.org/fhir/SearchParameter/individual-birthdate",
        "type": "date",
    }
    assert "Observation:subject" in resources["Patient"]["searchRevInclude"]
    assert "Patient:general-practitioner" in resources["Patient"]["searchInclude"]
    assert resources["Patient"]["conditionalDelete"] == "single"
    assert {"code": "patch"} in resources["Patient"]["interaction"]
