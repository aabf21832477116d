from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest

from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.instants import format_instant


@pytest.fixture
async def patients(site):
    """The ids of twelve Patients."""
    ids = [f"p{number:02}" for number in range(12)]
    for resource_id in ids:
        await site.put({"resourceType": "Patient", "id": resource_id})
    return ids


async def found(client, url, **options):
    """Return the ids on every page of a search."""
    pages = []
    while url:
        response = await client.get(url, **options)
        assert response.status_code == 200, response.text
        bundle = response.json()
        pages.append([entry["resource"]["id"] for entry in bundle.get("entry", ())])
        url = next((ln["url"] for ln in bundle["link"] if ln["relation"] == "next"), None)
    return pages


async def everything(client, url):
    return sorted(chain(*await found(client, url)))


async def test_a_listing_comes_in_pages_that_lead_to_each_other(client, patients):
    pages = await found(client, "/Patient?_count=5")

    assert [len(page) for page in pages] == [5, 5, 2]
    assert sorted(chain(*pages)) == patients


async def test_an_entry_has_its_address_and_says_that_it_matched(client, patients):
    bundle = (await client.get("/Patient?_count=1")).json()

    [entry] = bundle["entry"]
    assert bundle["type"] == "searchset"
    assert entry["fullUrl"] == f"http://fhir.example/Patient/{entry['resource']['id']}"
    assert entry["search"] == {"mode": "match"}


async def test_nothing_found_is_an_empty_bundle(client):
    bundle = (await client.get("/Observation")).json()

    assert "entry" not in bundle


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("_id=p03", ["p03"]),
        ("_id=p03,p05,none", ["p03", "p05"]),
        ("_id=p03,p05&_id=p05,p07", ["p05"]),
        ("_id=p03&_id=p05", []),
        ("_format=json&_pretty=true&_id=p03", ["p03"]),
    ],
)
async def test_ids_are_alternatives_in_one_parameter_and_conditions_in_several(
    client, patients, query, ids
):
    assert await everything(client, f"/Patient?{query}") == ids


@pytest.mark.parametrize(
    ("prefix", "first", "last"),
    [
        ("", 5, 6),
        ("eq", 5, 6),
        ("gt", 6, 12),
        ("sa", 6, 12),
        ("ge", 5, 12),
        ("lt", 0, 5),
        ("eb", 0, 5),
        ("le", 0, 6),
    ],
)
async def test_last_updated_compares_to_the_microsecond(client, patients, prefix, first, last):
    changed = (await client.get("/Patient/p05")).json()["meta"]["lastUpdated"]

    ids = await everything(client, f"/Patient?_lastUpdated={prefix}{changed}")

    assert ids == patients[first:last]


async def test_two_bounds_are_a_window(client, patients):
    stamps = [
        (await client.get(f"/Patient/{name}")).json()["meta"]["lastUpdated"]
        for name in ("p02", "p06")
    ]

    window = f"_lastUpdated=gt{stamps[0]}&_lastUpdated=le{stamps[1]}"

    assert await everything(client, f"/Patient?{window}") == patients[3:7]


async def test_the_future_is_empty(client, patients):
    tomorrow = format_instant(datetime.now(UTC) + timedelta(days=1))

    assert await found(client, f"/Patient?_lastUpdated=gt{tomorrow}") == [[]]


@pytest.mark.parametrize(
    "query",
    [
        *("nonsense=x", "name:not=p1", "bogus", "birthDate=2020", "_text=x", "_list=x"),
        *("_sort=bogus", "_sort:desc=name", "_summary=bogus", "_total=some", "_contained=true"),
        *("_id:bogus=x", "_language=fr", "_include:bogus=Patient:link"),
    ],
)
async def test_an_unknown_parameter_is_refused_and_ignored_only_if_lenient(
    client, patients, outcome, query
):
    lenient = {"Prefer": "handling=lenient"}

    refused = await client.get(f"/Patient?{query}")
    strictly = await client.get(f"/Patient?{query}", headers={"Prefer": "handling=strict"})
    ignored = (await client.get(f"/Patient?_count=3&{query}", headers=lenient)).json()

    outcome(refused, 400, "not-supported")
    outcome(strictly, 400, "not-supported")
    remark = ignored["entry"][-1]
    assert ignored["link"][0]["url"] == "http://fhir.example/Patient?_count=3"
    assert len(ignored["entry"]) == 4
    assert remark["search"] == {"mode": "outcome"}
    assert remark["resource"]["issue"][0]["severity"] == "warning"
    assert remark["fullUrl"].startswith("urn:uuid:")


@pytest.mark.parametrize(
    "query",
    [
        *("_totalMethod=count", "_pretty=true", "_format=json", "_vendor:thing=1", "_dc=1.5"),
        *("_score=1", "_graph=x", "_contained=false", "_containedType=container", "_ünknown="),
    ],
)
@pytest.mark.parametrize("handling", [None, "strict", "lenient"])
async def test_a_name_that_selects_nothing_never_breaks_a_search(
    client, patients, query, handling
):
    headers = {"Prefer": f"handling={handling}"} if handling else {}

    for response in (
        await client.get(f"/Patient?_count=3&{query}", headers=headers),
        await client.post(f"/Patient/_search?{query}", data={"_count": "3"}, headers=headers),
    ):
        bundle = response.json()
        modes = [entry["search"]["mode"] for entry in bundle["entry"]]
        reported = handling == "lenient" and not query.startswith(("_format", "_pretty"))
        assert modes == ["match"] * 3 + ["outcome"] * reported
        assert bundle["link"][0]["url"] == "http://fhir.example/Patient?_count=3"


@pytest.mark.parametrize("query", ["_totalMethod=count", "_=17", "_pretty=true"])
@pytest.mark.parametrize(
    "path",
    [
        *("Patient/p1", "Patient/p1/_history/1", "Patient/p1/_history", "Patient/_history"),
        *("_history", "Patient/p1/$everything", "Patient/p1/*", "Patient/p1/Observation"),
        "metadata",
    ],
)
async def test_a_name_that_selects_nothing_breaks_no_read(client, query, path):
    await client.put("/Patient/p1", json={"resourceType": "Patient", "id": "p1"})
    entry = {"request": {"method": "GET", "url": f"{path}?{query}"}}

    plain = await client.get(f"/{path}")
    asked = await client.get(f"/{path}?{query}")
    batch = await client.post(
        "/", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]}
    )

    assert plain.status_code == asked.status_code == 200, asked.text
    assert asked.json()["resourceType"] == plain.json()["resourceType"]
    assert query not in asked.text
    assert batch.json()["entry"][0]["response"]["status"].startswith("200")


@pytest.mark.parametrize("name", ["_sort", "_list", "_total", "_include", "_lastUpdated", "name"])
@pytest.mark.parametrize("path", ["Patient/p1", "Patient/p1/_history", "_history", "metadata"])
async def test_a_name_that_means_something_is_not_ignored_where_it_is_not_served(
    client, outcome, name, path
):
    refusal = outcome(await client.get(f"/{path}?{name}=x"), 400, "not-supported")

    assert name in refusal["diagnostics"]


async def test_a_change_may_have_a_name_that_selects_nothing(client):
    body = {"resourceType": "Patient", "id": "p1"}

    assert (await client.put("/Patient/p1?_dc=1", json=body)).status_code == 201
    assert (await client.delete("/Patient/p1?_dc=1")).status_code == 204


@pytest.mark.parametrize("format_", ["xml", "application/fhir+xml", "ttl"])
async def test_a_form_may_not_ask_for_another_format_than_json(client, outcome, format_):
    for path in ("Patient", "Patient/p1/Observation"):
        response = await client.post(f"/{path}/_search", data={"_format": format_})

        outcome(response, 406, "not-supported")


@pytest.mark.parametrize("version", FHIRVersion)
async def test_what_some_version_defines_as_a_condition_is_never_ignored(client, version):
    headers = {"Accept": f"application/fhir+json; fhirVersion={version.release}"}
    codes = {each.code for v in FHIRVersion for each in load_definitions(v).parameters}
    for code in sorted(code for code in codes if code.startswith("_")):
        response = await client.get(f"/Patient?{code}=nothing", headers=headers)
        if response.status_code == 200:
            link = response.json()["link"][0]["url"]
            assert link == f"http://fhir.example/Patient?{code}=nothing"
        else:
            assert response.status_code == 400


@pytest.mark.parametrize("path", ["/Patient", "/Patient?_count=2&_sort=-_id", "/Patient/p03"])
async def test_a_head_is_a_get_without_its_body(client, patients, path):
    same = {"X-Request-ID": "one-request", "Accept-Encoding": "identity"}
    got, head = await client.get(path, headers=same), await client.head(path, headers=same)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers
    assert head.headers["content-length"] == str(len(got.content))


async def test_a_head_fails_as_a_get_does(client):
    for path in ("/Patient/none", "/Nothing", "/Patient?bogus=1"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")


@pytest.mark.parametrize(
    "query",
    ["_id=", "birthdate=yesterday", "_elements=bogus", "_count=x", "name:missing=x"],
)
async def test_a_value_that_means_nothing_is_refused_under_every_handling(client, outcome, query):
    for handling in ("strict", "lenient"):
        headers = {"Prefer": f"handling={handling}"}
        outcome(await client.get(f"/Patient?{query}", headers=headers), 400)


@pytest.mark.parametrize("query", ["_count=-1", "_count=x", "_count=1&_count=2", "_count="])
async def test_a_count_that_is_no_number_is_refused(client, outcome, query):
    outcome(await client.get(f"/Patient?{query}"), 400, "value")
    outcome(await client.get(f"/Patient/x/_history?{query}"), 400, "value")


async def test_a_foreign_page_is_refused(client, patients, outcome):
    outcome(await client.get("/Patient?_after=%00%ff%fe"), 400)


async def test_a_huge_count_is_cut(client, patients):
    assert len((await found(client, "/Patient?_count=99999999999"))[0]) == 12


async def test_deleted_resources_are_not_listed(site, patients):
    await site.delete("Patient", "p03")

    assert "p03" not in await everything(site.client, "/Patient")
