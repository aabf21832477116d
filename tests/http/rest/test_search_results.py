"""The results of a search: order, number, elements, total, and included resources."""

import random
from itertools import chain
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helios_core.config.settings import Settings

BASE = "http://fhir.example"
LENIENT = {"Prefer": "handling=lenient"}


def patient(number, **elements):
    return {"resourceType": "Patient", "id": f"p{number}", **elements}


def observation(number, **elements):
    coding = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": coding,
        "subject": {"reference": f"Patient/p{number}"},
        **elements,
    }


@pytest.fixture
def site(either_site):
    return either_site


@pytest.fixture
async def stored(site):
    """Four patients of two practitioners, each with an observation, stored in a mixed order."""
    resources = [
        {"resourceType": "Practitioner", "id": "d0", "name": [{"family": "Grey"}]},
        {"resourceType": "Practitioner", "id": "d1", "name": [{"family": "Shepherd"}]},
    ]
    for number in (2, 0, 3, 1):
        doctor = {"reference": f"Practitioner/d{number % 2}"}
        name = [{"family": f"Family{number}"}]
        resources.append(
            patient(
                number,
                name=name,
                generalPractitioner=[doctor],
                multipleBirthInteger=1,
                birthDate=f"200{number}-01-01",
            )
        )
        resources.append(observation(number, valueQuantity={"value": number}))
    for resource in resources:
        await site.put(resource)
    return site


async def bundle(client, url, **options):
    response = await client.get(url, **options)
    assert response.status_code == 200, response.text
    return response.json()


def entries(page, mode="match"):
    return [each for each in page.get("entry", ()) if each["search"]["mode"] == mode]


def ids(page, mode="match"):
    return [each["resource"]["id"] for each in entries(page, mode)]


def links(page):
    return {each["relation"]: each["url"] for each in page["link"]}


async def all_ids(client, url):
    found = []
    while url:
        page = await bundle(client, url)
        found += ids(page)
        url = links(page).get("next")
    return found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("_id", ["p0", "p1", "p2", "p3"]),
        ("-_id", ["p3", "p2", "p1", "p0"]),
        ("_lastUpdated", ["p2", "p0", "p3", "p1"]),
        ("-_lastUpdated", ["p1", "p3", "p0", "p2"]),
        ("-_lastUpdated,_id", ["p1", "p3", "p0", "p2"]),
        ("_id,birthdate", ["p0", "p1", "p2", "p3"]),
        ("birthdate", ["p0", "p1", "p2", "p3"]),
        ("-birthdate", ["p3", "p2", "p1", "p0"]),
        ("-general-practitioner,-family", ["p3", "p1", "p2", "p0"]),
        ("active", ["p0", "p1", "p2", "p3"]),
    ],
)
@pytest.mark.parametrize("count", [1, 3, 10])
async def test_pages_follow_the_requested_order(stored, order, found, count):
    assert await all_ids(stored.client, f"/Patient?_sort={order}&_count={count}") == found


async def test_a_page_names_itself_the_first_and_the_next(stored):
    url = "/Patient?birthdate=ge2001&_count=2&_format=json"

    first = await bundle(stored.client, url)
    second = await bundle(stored.client, links(first)["next"])

    where = f"{BASE}/Patient?birthdate=ge2001&_count=2"
    assert links(first)["self"] == links(first)["first"] == links(second)["first"] == where
    assert links(second)["self"] == links(first)["next"]
    assert "next" not in links(second)
    assert ids(first) + ids(second) == ["p1", "p2", "p3"]


async def test_the_self_link_tells_the_count_that_was_used(stored):
    page = await bundle(stored.client, "/Patient?_count=5000")

    assert links(page)["self"] == f"{BASE}/Patient?_count=1000"


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("_total=accurate&_count=1", 4),
        ("_total=estimate&_count=1", 4),
        ("_total=none", None),
        ("_count=1", 4),
        ("_count=1&birthdate=lt2002", None),
        ("_count=1&birthdate=lt2002&_total=accurate", 2),
        ("_count=1&birthdate=lt2002&_sort=family", 2),
        ("_count=1&birthdate=lt2002&_sort=family&_total=none", None),
        ("", 4),
        ("_summary=count", 4),
        ("_count=0", 4),
        ("_summary=count&birthdate=lt2002", 2),
        ("_summary=false&_count=2", 4),
        ("_summary=count&_total=none", 4),
    ],
)
async def test_the_total_is_there_if_requested_or_visible(stored, query, total):
    page = await bundle(stored.client, f"/Patient?{query}")

    assert page.get("total") == total


@pytest.mark.parametrize("query", ["_summary=count", "_count=0", "_summary=count&_total=none"])
async def test_a_summary_of_the_count_has_no_entries(stored, query):
    page = await bundle(stored.client, f"/Patient?{query}&_include=Patient:general-practitioner")

    assert page["total"] == 4
    assert "entry" not in page
    assert {*links(page)} == {"self"}


@pytest.mark.parametrize("order", ["_id", "-_lastUpdated", "family", "-birthdate"])
async def test_a_page_ends_before_it_is_too_large(open_site, order):
    """No match is lost, also one that is larger than a page may be."""
    site = await open_site(Settings(max_bundle_response_bytes=2000))
    sizes = [0, 5000, 0, 900, 900, 900, 0, 0]
    await site.put(
        *(
            patient(number, name=[{"family": "x" * (size + 1)}], birthDate="2020")
            for number, size in enumerate(sizes)
        )
    )
    url, found = f"/Patient?_sort={order}&_count=1000", []
    while url:
        page = await bundle(site.client, url)
        contents = [len(str(each["resource"])) for each in entries(page)]
        assert len(contents) == 1 or sum(contents) < 2500
        found.append(ids(page))
        url = links(page).get("next")

    assert sorted(chain(*found)) == [f"p{number}" for number in range(len(sizes))]
    assert len(found) > 2


async def test_elements_are_cut_to_those_requested(stored):
    page = await bundle(stored.client, "/Patient?_elements=birthDate&_id=p0")

    [entry] = page["entry"]
    assert {*entry["resource"]} == {"resourceType", "id", "meta", "birthDate"}
    assert entry["resource"]["meta"]["tag"][0]["code"] == "SUBSETTED"


@pytest.mark.parametrize("value", ["resourceType", "resourceType,id", "Patient.resourceType"])
async def test_the_type_of_a_resource_can_be_requested(stored, value):
    page = await bundle(stored.client, f"/Patient?_elements={value}&_id=p0")

    [entry] = page["entry"]
    assert {*entry["resource"]} == {"resourceType", "id", "meta"}


@pytest.mark.parametrize(
    ("summary", "elements"),
    [
        ("true", {"name", "birthDate"}),
        ("text", {"text"}),
        ("data", {"name", "birthDate", "generalPractitioner", "multipleBirthInteger"}),
    ],
)
async def test_a_summary_has_some_of_the_elements_and_says_so(stored, summary, elements):
    narrative = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    whole = (await stored.client.get("/Patient/p0")).json()
    await stored.put({name: whole[name] for name in whole if name != "meta"} | {"text": narrative})
    query = "_id=p0&_include=Patient:general-practitioner"

    page = await bundle(stored.client, f"/Patient?{query}&_summary={summary}")
    plain = await bundle(stored.client, f"/Patient?{query}&_summary=false")

    [match] = [each["resource"] for each in entries(page)]
    assert {*match} == {"resourceType", "id", "meta"} | elements
    for entry in page["entry"]:
        assert entry["resource"]["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert "tag" not in str(plain)
    assert links(page)["self"].endswith(f"&_summary={summary}")


async def test_elements_count_more_than_a_summary(stored):
    page = await bundle(stored.client, "/Patient?_elements=gender,birthDate&_summary=text&_id=p0")

    [entry] = page["entry"]
    assert {*entry["resource"]} == {"resourceType", "id", "meta", "birthDate"}


async def test_elements_of_what_is_included_are_named_with_their_type(stored):
    query = "_include=Patient:general-practitioner&_elements=birthDate,Practitioner.id&_id=p0"

    page = await bundle(stored.client, f"/Patient?{query}")
    plain = await bundle(stored.client, f"/Patient?{query.replace(',Practitioner.id', '')}")

    assert [sorted(each["resource"]) for each in page["entry"]] == [
        ["birthDate", "id", "meta", "resourceType"],
        ["id", "meta", "resourceType"],
    ]
    assert plain["entry"][1]["resource"]["name"] == [{"family": "Grey"}]


@pytest.mark.parametrize(
    "value",
    ["", "bogus", "name.family", "Patient.name.family", "Nothing.id", "Practitioner.bogus"],
)
async def test_elements_that_do_not_exist_are_refused(stored, outcome, value):
    outcome(await stored.client.get(f"/Patient?_elements={value}"), 400, "value")


@pytest.mark.parametrize("value", ["general-practitioner", "general-practitioner:Practitioner"])
async def test_what_matches_refer_to_is_included_once(stored, value):
    page = await bundle(stored.client, f"/Patient?_include=Patient:{value}")

    assert ids(page) == ["p0", "p1", "p2", "p3"]
    assert ids(page, "include") == ["d0", "d1"]
    assert entries(page, "include")[0]["fullUrl"] == f"{BASE}/Practitioner/d0"
    assert page["total"] == 4


async def test_an_include_narrowed_to_another_type_is_empty(stored):
    query = "_include=Patient:general-practitioner:Organization"

    assert ids(await bundle(stored.client, f"/Patient?{query}"), "include") == []


async def test_what_refers_to_matches_is_included(stored):
    url = "/Patient?_revinclude=Observation:subject&_count=3"

    first = await bundle(stored.client, url)
    second = await bundle(stored.client, links(first)["next"])

    assert ids(first, "include") == ["o0", "o1", "o2"]
    assert ids(second, "include") == ["o3"]


async def test_a_match_is_not_included_again(stored):
    await stored.put(patient(0, link=[{"other": {"reference": "Patient/p1"}, "type": "refer"}]))

    both = await bundle(stored.client, "/Patient?_id=p0,p1&_include=Patient:link")
    one = await bundle(stored.client, "/Patient?_id=p0&_include=Patient:link")

    assert (ids(both), ids(both, "include")) == (["p0", "p1"], [])
    assert (ids(one), ids(one, "include")) == (["p0"], ["p1"])


async def test_dangling_and_deleted_references_include_nothing(stored):
    await stored.delete("Practitioner", "d0")
    await stored.put(patient(9, generalPractitioner=[{"reference": "Practitioner/none"}]))

    page = await bundle(stored.client, "/Patient?_include=Patient:general-practitioner")

    assert ids(page, "include") == ["d1"]


@pytest.mark.parametrize(
    "query",
    [
        "_include=Patient",
        "_include=Patient:",
        "_include=:general-practitioner",
        "_include=Patient:general-practitioner:Practitioner:x",
        "_include=*:link",
        "_include=Patient:*:Observation",
        "_include:iterate=Nothing:*",
        "_include=Patient:name",
        "_include=Patient:bogus",
        "_include=Observation:subject",
        "_include=Nothing:subject",
        "_include=Patient:general-practitioner:Patient",
        "_revinclude=Patient:general-practitioner",
        "_revinclude=Observation:subject:Group",
        "_revinclude:iterate=Observation:code",
        "_revinclude=Organization:*",
        "&".join(f"_revinclude={each}:patient" for each in ("Observation",))
        + "&_include=Patient:x",
    ],
)
async def test_includes_that_mean_nothing_are_refused(stored, outcome, query):
    outcome(await stored.client.get(f"/Patient?{query}"), 400)


async def test_more_includes_than_a_search_may_have_are_refused(client, outcome):
    metadata = (await client.get("/metadata")).json()["rest"][0]["resource"]
    [values] = [each["searchRevInclude"] for each in metadata if each["type"] == "Patient"]

    response = await client.get("/Patient", params=[("_revinclude", each) for each in values[:21]])

    outcome(response, 400, "too-costly")


async def test_a_page_says_when_it_leaves_out_what_it_should_include(stored, monkeypatch):
    monkeypatch.setattr("helios_core.interactions.includes.MAX_INCLUDED", 2)

    page = await bundle(stored.client, "/Patient?_revinclude=Observation:subject")

    assert ids(page, "include") == ["o0", "o1"]
    [remark] = entries(page, "outcome")
    assert remark["resource"]["issue"][0]["code"] == "incomplete"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/Patient?general-practitioner:Practitioner.family=grey", ["p0", "p2"]),
        ("/Patient?general-practitioner.family=nobody", []),
        ("/Observation?subject:Patient.birthdate=2003-01-01", ["o3"]),
        ("/Observation?patient.family=Family1,Family2", ["o1", "o2"]),
        ("/Patient?_has:Observation:subject:value-quantity=gt1", ["p2", "p3"]),
        ("/Patient?_has:Observation:patient:code=http://loinc.org|8867-4&family=Family3", ["p3"]),
        ("/Patient?_has:Observation:patient:code=none", []),
    ],
)
async def test_chains_reach_other_resources(stored, url, found):
    assert await all_ids(stored.client, f"{url}&_count=1") == found


async def test_a_chain_through_too_much_is_refused(stored, outcome, monkeypatch):
    monkeypatch.setattr("helios_core.interactions.chains.MAX_FOUND", 3)
    url = "/Patient?_has:Observation:subject:status=final"

    outcome(await stored.client.get(url), 400, "too-costly")
    narrowed = await stored.client.get(f"{url}&_has:Observation:subject:_id=o1")
    outcome(narrowed, 400, "too-costly")


async def test_too_many_steps_are_refused(client, outcome):
    name = ".".join(["link:Patient"] * 6)

    outcome(await client.get(f"/Patient?{name}.family=x"), 400, "not-supported")
    outcome(await client.get("/Provenance?target.status=x"), 400, "not-supported")
    outcome(await client.get("/Observation?subject.organization.x.y=x"), 400, "not-supported")


async def test_too_many_chains_are_refused(client, outcome):
    pairs = [("organization.name", f"n{number}") for number in range(21)]

    outcome(await client.get("/Patient", params=pairs), 400, "too-costly")


async def test_a_form_searches_together_with_the_address(stored):
    response = await stored.client.post(
        "/Patient/_search?_count=1", data={"birthdate": "ge2001", "_sort": "-_id"}
    )

    page = response.json()
    assert response.status_code == 200
    assert ids(page) == ["p3"]
    assert links(page)["self"] == f"{BASE}/Patient?_count=1&birthdate=ge2001&_sort=-_id"
    assert await all_ids(stored.client, links(page)["next"]) == ["p2", "p1"]


async def test_groups_can_be_read_and_searched(site):
    """B2-KO-14, RV-03: where groups can be exported, they can be found."""
    await site.put(
        {"resourceType": "Group", "id": "g1", "identifier": [{"system": "urn:x", "value": "a"}]},
        {"resourceType": "Group", "id": "g2", "name": "Grey's"},
    )

    assert (await site.client.get("/Group/g1")).status_code == 200
    assert ids(await bundle(site.client, "/Group")) == ["g1", "g2"]
    assert ids(await bundle(site.client, "/Group?identifier=urn:x|a")) == ["g1"]


@pytest.mark.parametrize("resource_type", ["Patient", "Group", "Observation"])
async def test_an_empty_form_lists_everything(stored, resource_type):
    response = await stored.client.post(f"/{resource_type}/_search")

    assert response.status_code == 200
    assert ids(response.json()) == ids(await bundle(stored.client, f"/{resource_type}"))


async def test_a_form_is_refused_where_it_cannot_be_read(client, outcome):
    form = "application/x-www-form-urlencoded"

    async def sent(content, **headers):
        return await client.post("/Patient/_search", content=content, headers=headers)

    outcome(await sent(b"{}", **{"Content-Type": "application/fhir+json"}), 415)
    outcome(await sent(b"x", **{"Content-Type": form, "Content-Encoding": "gzip"}), 415)
    outcome(await sent(b"name=%ff", **{"Content-Type": form}), 400)
    outcome(await sent("name=ä".encode(), **{"Content-Type": form}), 400)
    outcome(await sent(b"&".join([b"name=x"] * 1001), **{"Content-Type": form}), 400)
    outcome(await client.post("/Nothing/_search"), 404)


async def test_values_with_escapes_and_reserved_characters_survive_the_links(stored):
    value = "a,b|c$d&e=f+g h/é"
    escaped = value.replace(",", "\\,")
    await stored.put(patient(7, name=[{"family": value}]), patient(8, name=[{"family": value}]))

    page = await bundle(stored.client, "/Patient", params={"family:exact": escaped, "_count": "1"})

    assert dict(parse_qsl(urlsplit(links(page)["next"]).query))["family:exact"] == escaped
    assert await all_ids(stored.client, links(page)["self"]) == ["p7", "p8"]


async def test_no_value_reaches_the_log_or_an_error(stored, capsys):
    queries = [
        "family=Canary",
        "birthdate=Canary",
        "identifier=http://canary.example|Canary",
        "_sort=Canary",
        "_elements=Canary",
        "_include=Canary",
        "_after=Canary",
        "_total=Canary",
        "general-practitioner:Practitioner.family=Canary",
        "_has:Observation:subject:status=Canary",
        "active=Canary",
    ]
    texts = []
    for query in queries:
        for headers in ({}, LENIENT):
            response = await stored.client.get(f"/Patient?{query}", headers=headers)
            bundled = response.json()["resourceType"] == "Bundle"
            texts += [str(response.json().get("entry"))] if bundled else [response.text]
            form = await stored.client.post(
                "/Patient/_search", data=dict(parse_qsl(query)), headers=headers
            )
            assert form.status_code == response.status_code
        condition = {"If-None-Exist": query}
        refused = await stored.client.post("/Patient", json=patient(0), headers=condition)
        texts.append(refused.text)

    assert "request.answered" in (logged := capsys.readouterr().out)
    assert "canary" not in logged.lower()
    assert "canary" not in "".join(texts).lower()


CODES = ("_id", "_lastUpdated", "name", "birthdate", "identifier", "active", "link", "_profile")
NAMES = st.one_of(
    st.sampled_from(
        (
            *CODES,
            *("_sort", "_count", "_total", "_summary", "_elements", "_include", "_revinclude"),
            *("_after", "_format", "_has:Observation:subject:code", "organization.name"),
            *("_include:iterate", "_revinclude:iterate", "general-practitioner.name", "_bogus"),
            *("organization.partof.name", "_has:Group:member:_has:Group:member:_id"),
        )
    ),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(CODES),
        st.sampled_from([":", ".", ":not", ":missing", ":exact", ":of-type", ":Patient.", ""]),
        st.text(max_size=5),
    ),
    st.text(max_size=20),
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"(eq|ne|gt|sa|ap)?[0-9]{4}(-[0-9]{2}){0,2}(T[0-9:.+Z]*)?", fullmatch=True),
    st.from_regex(r"[A-Za-z]{1,12}(:[a-z\-]{1,12}){0,3}", fullmatch=True),
    st.from_regex(r"(\*|Patient:(\*|link)(:Patient)?)", fullmatch=True),
    st.lists(st.sampled_from([*CODES, "-birthdate", "-_id"]), max_size=3).map(",".join),
    st.from_regex(r"[\\,|$a-z0-9/:.]{0,20}", fullmatch=True),
)


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    pairs=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    route=st.sampled_from(["GET", "POST", "PUT", "DELETE", "If-None-Exist", "Bundle"]),
    lenient=st.booleans(),
)
async def test_no_search_breaks_the_server(stored, pairs, route, lenient):
    headers = LENIENT if lenient else {}
    client = stored.client
    body = {"resourceType": "Patient"}
    query = client.build_request("GET", "/Patient", params=pairs).url.query.decode()
    match route:
        case "GET":
            response = await client.get(f"/Patient?{query}", headers=headers)
        case "POST":
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            response = await client.post("/Patient/_search", content=query, headers=headers | form)
        case "PUT":
            response = await client.put(f"/Patient?{query}", json=body, headers=headers)
        case "DELETE":
            response = await client.delete(f"/Patient?{query}", headers=headers)
        case "If-None-Exist":
            condition = {"If-None-Exist": query}
            response = await client.post("/Patient", json=body, headers=headers | condition)
        case _:
            request = {"method": "DELETE", "url": f"Patient?{query}"}
            bundled = {"resourceType": "Bundle", "type": "transaction"}
            response = await client.post("/", json=bundled | {"entry": [{"request": request}]})

    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["resourceType"] == "OperationOutcome"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(query=st.binary(max_size=40))
async def test_no_bytes_break_the_server(stored, query):
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    response = await stored.client.post("/Patient/_search", content=query, headers=form)

    assert response.status_code in {200, 400}


async def test_pages_stay_whole_while_others_write(stored):
    """Whatever was there all the time is found once, in every order."""
    dice = random.Random(4)
    for order in ("_id", "-_id", "birthdate,-family"):
        url, found = f"/Patient?_sort={order}&_count=1", []
        while url:
            page = await bundle(stored.client, url)
            found += ids(page)
            await stored.put(patient(f"{dice.randrange(4)}x{dice.randrange(99)}"))
            url = links(page).get("next") if len(found) < 300 else None

        assert len(found) == len({*found})
        assert {"p0", "p1", "p2", "p3"} <= {*found}
