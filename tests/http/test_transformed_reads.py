"""What REST shows on a server with transforms: everything transformed, or nothing at all."""

import json

import pytest

from helios_core.config.settings import Settings
from helios_core.storage.resource_keys import ResourceKey, TypeKey
from helios_core.storage.transform_chain import Transforms
from helios_core.storage.transformed_reads import visible_backends
from helios_core.storage.transforms import RestReads
from tests.storage.transforming import (
    CANARY,
    REDACTED,
    Applying,
    Renaming,
    applying,
    failing,
    keeping,
    opened,
)

DOE = {
    "resourceType": "Patient",
    "id": "p1",
    "name": [{"family": CANARY}],
    "managingOrganization": {"reference": "Organization/o1"},
}
HISTORIES = {"read", "vread", "history-instance", "history-type", "history-system"}
ORGANIZATION = {"resourceType": "Organization", "id": "o1", "name": CANARY}
BINARY = {
    "resourceType": "Binary",
    "id": "b1",
    "contentType": f"text/{CANARY}",
    "data": "Y2FuYXJ5",
}


def scrub(resource):
    resource.pop("name", None)
    resource.pop("data", None)
    if "contentType" in resource:
        resource["contentType"] = "text/plain"
    return resource


@pytest.fixture
async def clinic(open_site):
    """Open a site whose resources all hold the canary."""

    async def clinic(transforms):
        site = await open_site(Settings(), transforms=transforms)
        await site.put(DOE, ORGANIZATION, BINARY)
        await site.put(DOE | {"active": True})
        return site

    return clinic


async def interactions(site):
    statement = (await site.client.get("/metadata")).json()
    [rest] = statement["rest"]
    of_types = {
        each["code"] for resource in rest["resource"] for each in resource.get("interaction", ())
    }
    return of_types | {each["code"] for each in rest.get("interaction", ())}


READS = [
    "/Patient/p1",
    "/Patient/p1/_history",
    "/Patient/p1/_history/1",
    "/Organization/o1",
    "/Binary/b1",
]
SEARCHES = ["/Patient", "/Patient?_include=Patient:organization", "/Organization?_id=o1"]


@pytest.mark.parametrize("path", READS)
async def test_every_read_is_transformed(clinic, path):
    site = await clinic(applying(scrub))

    for accept in ("application/fhir+json", "*/*"):
        response = await site.client.get(path, headers={"Accept": accept})

        assert response.status_code == 200
        assert CANARY not in response.text
        assert CANARY not in str(response.headers)
    if "_history" not in path and "Binary" not in path:
        assert response.json()["meta"]["security"][0]["code"] == REDACTED.code


@pytest.mark.parametrize("path", SEARCHES)
async def test_every_search_is_transformed(clinic, path):
    site = await clinic(applying(scrub, conceals=False))

    response = await site.client.get(path)

    assert response.status_code == 200
    assert len(response.json()["entry"]) >= 1
    assert CANARY not in response.text


async def test_includes_follow_what_is_shown(clinic):
    def unlinked(resource):
        resource.pop("managingOrganization", None)
        return scrub(resource)

    site = await clinic(applying(unlinked, conceals=False))

    found = (await site.client.get("/Patient?_include=Patient:organization")).json()

    assert [entry["resource"]["resourceType"] for entry in found["entry"]] == ["Patient"]


async def test_a_search_that_would_find_out_what_is_removed_is_not_offered(clinic):
    site = await clinic(applying(scrub))

    assert (await site.client.get("/Patient?name=x")).status_code in {404, 405}
    assert await interactions(site) == HISTORIES


async def test_nothing_can_be_changed_where_changed_resources_are_shown(clinic):
    site = await clinic(applying(scrub, conceals=False))
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": []}

    answers = [
        await site.client.put("/Patient/p1", json=DOE),
        await site.client.post("/Patient", json=DOE),
        await site.client.delete("/Patient/p1"),
        await site.client.post("/", json=bundle),
        await site.client.put("/Patient?name=x", json=DOE),
    ]

    assert {answer.status_code for answer in answers} <= {404, 405}
    assert await interactions(site) == {
        *HISTORIES,
        "search-type",
    }


async def test_what_is_kept_back_is_not_there(clinic, outcome):
    site = await clinic(applying(keeping(lambda each: each["id"] != "p1"), conceals=False))
    await site.delete("Organization", "o1")

    for path in ("/Patient/p1", "/Patient/p1/_history", "/Patient/p1/_history/1"):
        outcome(await site.client.get(path), 404, "not-found")
    found = (await site.client.get("/Patient?_total=accurate")).json()
    assert "total" not in found or found["total"] == 0
    assert "entry" not in found
    # Whether what is gone was ever shown is not known.
    outcome(await site.client.get("/Organization/o1"), 404)


async def test_a_deleted_resource_is_gone_where_nothing_is_kept_back(clinic, outcome):
    site = await clinic(applying(scrub, drops=False))
    await site.delete("Patient", "p1")

    outcome(await site.client.get("/Patient/p1"), 410, "deleted")


async def test_a_history_page_is_filled_with_what_is_shown(clinic):
    site = await clinic(applying(keeping(lambda each: each["meta"]["versionId"] in {"1", "5"})))
    for number in range(3):
        await site.put(DOE | {"multipleBirthInteger": number})

    first = (await site.client.get("/Patient/p1/_history?_count=1")).json()
    [following] = [link["url"] for link in first["link"] if link["relation"] == "next"]
    second = (await site.client.get(following)).json()

    versions = [page["entry"][0]["resource"]["meta"]["versionId"] for page in (first, second)]
    assert versions == ["5", "1"]


@pytest.mark.parametrize("path", [*READS, *SEARCHES])
async def test_what_cannot_be_transformed_is_not_shown(clinic, outcome, path):
    site = await clinic(applying(failing, conceals=False))

    response = await site.client.get(path)

    outcome(response, 500, "exception")
    assert CANARY not in response.text


@pytest.mark.parametrize("path", [*READS, *SEARCHES])
async def test_a_server_that_withholds_resources_has_none(clinic, path):
    renaming = Transforms([opened(Renaming(scrub), rest=RestReads.WITHHELD)])
    site = await clinic(renaming)

    assert (await site.client.get(path)).status_code in {404, 405}
    assert await interactions(site) == set()
    assert (await site.client.get("/openapi.json")).status_code == 200


async def test_a_transform_of_exports_leaves_rest_alone(clinic):
    site = await clinic(applying(scrub, rest=RestReads.UNTOUCHED))

    assert CANARY in (await site.client.get("/Patient/p1")).text
    assert (await site.client.put("/Patient/p1", json=DOE)).status_code == 200
    assert "create" in await interactions(site)


async def test_exports_and_reads_show_the_same(clinic):
    site = await clinic(applying(scrub))

    manifest = await site.manifest()
    lines = {}
    for file in manifest["output"]:
        for line in (await site.client.get(file["url"])).iter_lines():
            resource = json.loads(line)
            lines[resource["resourceType"]] = resource
    read = (await site.client.get("/Patient/p1")).json()

    assert lines["Patient"] == read


async def test_plugins_that_show_resources_show_them_transformed(clinic):
    site = await clinic(applying(scrub, conceals=False))
    visible = visible_backends(site.backends).data_provider
    key = TypeKey("default", "R4", "Patient")
    now = await visible.transaction_time()

    fetched = await visible.fetch(key, ["p1"], at=now)
    got = await visible.get(ResourceKey("default", "R4", "Patient", "p1"))

    assert CANARY not in str(fetched.lines)
    assert CANARY not in str(got.content)
    assert await visible.missing(key, ["p1", "p2"]) == {"p2"}
    assert not hasattr(visible, "write")


async def test_of_several_transforms_only_those_of_reads_are_applied(clinic):
    exports_only = opened(Applying(failing), plugin="a", rest=RestReads.UNTOUCHED, conceals=False)
    both = opened(Applying(scrub), plugin="b", conceals=False)
    site = await clinic(Transforms([exports_only, both]))

    response = await site.client.get("/Patient/p1")

    assert response.status_code == 200
    assert CANARY not in response.text


async def test_histories_of_types_show_what_reads_show(clinic):
    """Nothing of what a transform removes, and no token has an id."""
    site = await clinic(applying(scrub))

    for path in ("/_history", "/Patient/_history"):
        url, seen = f"{path}?_count=1", 0
        while url:
            response = await site.client.get(url)
            assert CANARY not in response.text
            bundle = response.json()
            seen += len(bundle["entry"])
            url = next((e["url"] for e in bundle["link"] if e["relation"] == "next"), None)
        assert seen >= 1


async def test_histories_of_types_leave_out_what_is_kept_back(clinic):
    site = await clinic(applying(keeping(lambda each: each["id"] != "p1"), conceals=False))

    bundle = (await site.client.get("/_history")).json()

    assert "p1" not in {entry["fullUrl"].rpartition("/")[2] for entry in bundle["entry"]}
