"""Nobody validates what is stored: no read of it, and of what is beside it, may fail for that."""

from collections import Counter

import pytest

JSON = {"Content-Type": "application/fhir+json"}
BEYOND = f"1e{10**20}"
"""A number that neither `float` nor `Decimal` holds."""
VALUES = ["null", '"x"', "5", "[]", "{}", "[null]", "[5]", "[[]]", '[{"a":[null]}]', "1e999"]
VALUES.append(BEYOND)
ELEMENTS = {
    "Patient": (
        *("name", "birthDate", "identifier", "generalPractitioner", "link", "text", "contained"),
        *("extension", "_birthDate", "communication", "active", "deceasedDateTime", "address"),
    ),
    "Observation": (
        *("subject", "code", "status", "effectiveDateTime", "effectivePeriod", "category"),
        *("valueQuantity", "component", "hasMember"),
    ),
    "Group": ("member", "actual", "type", "characteristic"),
    "Binary": ("data", "contentType", "securityContext"),
}
METAS = ["{}", *(f'{{"{name}":{v}}}' for name in ("tag", "profile", "security") for v in VALUES)]
QUERIES = {
    "Patient": (
        *("name=x", "birthdate=ge1900", "identifier=x|y", "_sort=-name,birthdate", "_include=*"),
        *("general-practitioner:Practitioner.name=x", "_has:Observation:subject:code=x"),
        *("_include:iterate=*&_revinclude=*", "deceased=true", "address=x", "link=Patient/p"),
    ),
    "Observation": (
        *("value-quantity=gt1", "code=x", "date=2020", "_sort=value-quantity", "category=x"),
        *("code-value-quantity=x$gt1", "subject=Patient/p", "combo-code=x", "_include=*"),
    ),
    "Group": ("member=Patient/p", "actual=true", "type=person", "_include=*"),
    "Binary": (),
}
EVERYWHERE = (
    *("", "_summary=true", "_summary=text", "_summary=data", "_elements=id", "_tag=x|y"),
    *("_profile=x", "_security=x", "_tag:not=x", "_total=accurate", "_sort=_lastUpdated"),
)


def odd_resources(resource_type):
    kinds = [
        *((name, value) for name in ELEMENTS[resource_type] for value in VALUES),
        *(("meta", meta) for meta in METAS),
    ]
    for number, (name, value) in enumerate(kinds):
        head = f'{{"resourceType":"{resource_type}","id":"odd-{number}"'
        yield f"odd-{number}", f'{head},"{name}":{value}}}'


@pytest.fixture
async def stored(either_site):
    """Return, by type, the ids of odd resources that were accepted."""
    ids = {}
    for resource_type in ELEMENTS:
        ids[resource_type] = []
        for resource_id, body in odd_resources(resource_type):
            path = f"/{resource_type}/{resource_id}"
            response = await either_site.client.put(path, content=body, headers=JSON)
            assert response.status_code in (201, 400), body
            if response.status_code == 201:
                ids[resource_type].append(resource_id)
    return ids


async def test_no_read_fails_for_what_is_stored(either_site, stored):
    failed, client = [], either_site.client
    for resource_type, ids in stored.items():
        assert len(ids) > 20
        queries = (*EVERYWHERE, *QUERIES[resource_type])
        paths = [f"/{resource_type}?_count=1000&{query}" for query in queries]
        paths += [f"/{resource_type}/{i}?{q}" for i in ids[::3] for q in EVERYWHERE[1:5:3]]
        if resource_type == "Patient":
            paths += [f"/Patient/{i}/$everything" for i in ids[::5]]
        for path in paths:
            response = await client.get(path, headers={"Accept": "application/fhir+json"})
            if response.status_code != 200:
                failed.append((path, response.status_code))
    assert failed == []


@pytest.mark.parametrize(
    "path",
    [
        "/$export",
        "/$export?_elements=id,status",
        "/$export?_typeFilter=Patient?gender:missing=true",
        "/Patient/$export",
    ],
)
async def test_an_export_has_whatever_is_stored(either_site, stored, path):
    location = await either_site.kick_off(path)
    await either_site.finish(location)

    manifest = (await either_site.client.get(location)).json()
    assert manifest["error"] == []
    counted = Counter()
    for file in manifest["output"]:
        counted[file["type"]] += file["count"]
    assert counted["Patient"] == len(stored["Patient"])
    assert counted["Observation"] == len(stored["Observation"]) or path.startswith("/Patient")


@pytest.mark.parametrize("stored", ["1.5", "1e999", BEYOND, f"-{BEYOND}", "1e-999", "null", "{}"])
@pytest.mark.parametrize("sent", ["1.5", "1e999", BEYOND])
async def test_a_patch_of_any_number_is_made_or_refused(client, stored, sent):
    head = '{"resourceType":"Observation","id":"o","status":"final","code":{}'
    body = f'{head},"valueQuantity":{{"value":{stored}}}}}'
    assert (await client.put("/Observation/o", content=body, headers=JSON)).status_code == 201
    patch = f"""[
        {{"op":"test","path":"/valueQuantity/value","value":{sent}}},
        {{"op":"add","path":"/valueInteger","value":{sent}}}
    ]"""

    patched = await client.patch(
        "/Observation/o", content=patch, headers={"Content-Type": "application/json-patch+json"}
    )

    assert patched.status_code == (200 if stored == sent else 422), patched.text
    read = (await client.get("/Observation/o")).text
    assert f'"value":{stored}' in read
    assert (f'"valueInteger":{sent}' in read) == (stored == sent)
