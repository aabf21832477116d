"""What a client may read, find and change over REST."""

import itertools

import msgspec
import pytest

from helios_core.storage.permitted_reads import VERSIONS_PER_PAGE
from tests.http.bulk.test_permissions import LAB, RESOURCES, VITAL, observation
from tests.tokens import StaticVerifier, bearer, principal

LABS = "?category=laboratory"
LETTERS = "cruds"


@pytest.fixture
def verifier():
    return StaticVerifier({})


@pytest.fixture
async def site(open_either_site, verifier):
    site = await open_either_site(token_verifier=verifier)
    await site.put(*RESOURCES)
    return site


@pytest.fixture
def send(site, verifier):
    """Send a request with scopes of its own."""

    async def sending(scopes, method, path, **options):
        verifier.principals["x"] = principal("x", *scopes.split())
        headers = bearer("x") | options.pop("headers", {})
        return await site.client.request(method, path, headers=headers, **options)

    return sending


def bundle(type_, *requests):
    entries = [
        {"request": {"method": method, "url": url}} | ({"resource": body} if body else {})
        for method, url, body in requests
    ]
    return {"resourceType": "Bundle", "type": type_, "entry": entries}


def ids(response):
    assert response.status_code == 200, response.text
    return sorted(entry["resource"]["id"] for entry in response.json().get("entry", ()))


OBSERVATION = observation("new", LAB)
PATCH = [{"op": "replace", "path": "/status", "value": "amended"}]
JSON_PATCH = {"content-type": "application/json-patch+json"}
INTERACTIONS = {
    "read": ("r", "GET", "/Observation/lab", {}),
    "head": ("r", "HEAD", "/Observation/lab", {}),
    "vread": ("r", "GET", "/Observation/lab/_history/1", {}),
    "history": ("r", "GET", "/Observation/lab/_history", {}),
    "type history": ("s", "GET", "/Observation/_history", {}),
    "search": ("s", "GET", "/Observation?status=final", {}),
    "search of a compartment": ("s", "GET", "/Patient/p1/Observation", {}),
    "search by form": ("s", "POST", "/Observation/_search", {"data": {"status": "final"}}),
    "create": ("c", "POST", "/Observation", {"json": OBSERVATION}),
    "update": ("u", "PUT", "/Observation/new", {"json": OBSERVATION}),
    "patch": (
        "ru",
        "PATCH",
        "/Observation/lab",
        {"content": msgspec.json.encode(PATCH), "headers": JSON_PATCH},
    ),
    "delete": ("d", "DELETE", "/Observation/lab", {}),
    "conditional create": (
        "cs",
        "POST",
        "/Observation",
        {"json": OBSERVATION, "headers": {"If-None-Exist": "status=final&_id=none"}},
    ),
    "conditional update": (
        "us",
        "PUT",
        "/Observation?status=final&_id=lab",
        {"json": observation("lab", LAB)},
    ),
    "conditional delete": ("ds", "DELETE", "/Observation?_id=lab", {}),
}
SENT_OTHERWISE = {"search by form", "patch", "conditional create"}
"""What these send is in other places of an entry of a bundle."""


@pytest.mark.parametrize("name", INTERACTIONS)
async def test_each_interaction_needs_exactly_its_letters(send, name):
    needed, method, path, options = INTERACTIONS[name]
    others = "".join(letter for letter in LETTERS if letter not in needed)
    for missing in needed:
        kept = "".join(letter for letter in LETTERS if letter != missing)
        refused = await send(f"system/Observation.{kept}", method, path, **options)
        assert refused.status_code == 403, (missing, refused.text)
    elsewhere = await send("system/Patient.cruds", method, path, **options)
    assert elsewhere.status_code == 403
    if others:
        assert (await send(f"system/*.{others}", method, path, **options)).status_code == 403
    letters = "".join(letter for letter in LETTERS if letter in needed)

    allowed = await send(f"system/Observation.{letters}", method, path, **options)

    assert allowed.status_code < 300, allowed.text


@pytest.mark.parametrize("name", sorted(INTERACTIONS.keys() - SENT_OTHERWISE))
@pytest.mark.parametrize("type_", ["batch", "transaction"])
async def test_entries_of_bundles_need_the_same(send, name, type_):
    needed, method, path, options = INTERACTIONS[name]
    body = bundle(type_, (method, path[1:], options.get("json")))
    for missing in needed:
        kept = "".join(letter for letter in LETTERS if letter != missing)
        refused = await send(f"system/Observation.{kept}", "POST", "/", json=body)
        if refused.status_code != 403:
            [entry] = refused.json()["entry"]
            assert entry["response"]["status"].startswith("403"), entry
            assert "resource" not in entry

    allowed = await send(
        f"system/Observation.{''.join(x for x in LETTERS if x in needed)}", "POST", "/", json=body
    )

    [entry] = allowed.json()["entry"]
    assert entry["response"]["status"][0] == "2", entry


@pytest.mark.parametrize("query", ["subject:Patient.gender=male", "subject.gender=male"])
async def test_a_chain_needs_search_on_the_type_it_goes_by(send, query):
    path = f"/Observation?{query}"

    assert (await send("system/Observation.rs", "GET", path)).status_code == 403
    refused = await send("system/Observation.rs system/Patient.r", "GET", path)
    assert refused.status_code == 403
    assert ids(await send("system/Observation.s system/Patient.s", "GET", path)) == [
        "lab",
        "vital",
    ]


async def test_has_needs_search_on_the_type_it_goes_by(send):
    path = "/Patient?_has:Observation:subject:category=vital-signs"

    assert (await send("system/Patient.rs", "GET", path)).status_code == 403
    assert ids(await send("system/Patient.s system/Observation.s", "GET", path)) == ["p1"]
    limited = f"system/Patient.s system/Observation.s{LABS}"
    assert ids(await send(limited, "GET", path)) == []


@pytest.mark.parametrize(
    ("path", "other", "both"),
    [
        ("/Observation?_id=lab&_include=Observation:subject", "Patient", ["lab", "p1"]),
        ("/Patient?_id=p1&_revinclude=Observation:subject", "Observation", ["lab", "p1", "vital"]),
    ],
)
async def test_what_may_not_be_read_is_not_included(send, path, other, both):
    searched, _, query = path[1:].partition("?")
    alone = [each for each in both if f"_id={each}&" in query]

    for scopes in (f"system/{searched}.rs", f"system/{searched}.rs system/{other}.s"):
        assert ids(await send(scopes, "GET", path)) == alone
    assert ids(await send(f"system/{searched}.rs system/{other}.r", "GET", path)) == both


async def test_a_limited_scope_shows_what_it_is_limited_to(site, send):
    scope = f"system/Observation.rs{LABS}"
    absent = await send(scope, "GET", "/Observation/absent")

    for path in ("", "/_history", "/_history/1"):
        assert (await send(scope, "GET", f"/Observation/lab{path}")).status_code == 200
        hidden = await send(scope, "GET", f"/Observation/vital{path}")
        assert hidden.status_code == 404
        assert hidden.text == (await send(scope, "GET", f"/Observation/absent{path}")).text
    assert ids(await send(scope, "GET", "/Observation")) == ["lab"]
    assert ids(await send(scope, "GET", "/Observation?category=vital-signs")) == []
    assert ids(await send(scope, "GET", "/Observation?category:not=laboratory")) == []
    counted = await send(scope, "GET", "/Observation?_summary=count&status=final")
    assert counted.json()["total"] == 1
    assert absent.status_code == 404


async def test_a_limited_scope_limits_includes(send):
    scopes = f"system/Patient.rs system/Observation.rs{LABS}"

    found = await send(scopes, "GET", "/Patient?_revinclude=Observation:subject")

    assert ids(found) == ["lab", "p1", "p2"]


async def test_versions_from_before_a_resource_came_within_a_limit_stay_hidden(site, send):
    scope = f"system/Observation.rs{LABS}"
    await site.put(observation("vital", LAB))
    await site.put(observation("lab", VITAL))
    await site.delete("Observation", "vital")
    await site.delete("Observation", "lab")

    history = (await send(scope, "GET", "/Observation/vital/_history")).json()["entry"]

    assert [entry["request"]["method"] for entry in history] == ["DELETE", "PUT"]
    assert (await send(scope, "GET", "/Observation/vital")).status_code == 410
    assert (await send(scope, "GET", "/Observation/vital/_history/1")).status_code == 404
    assert (await send(scope, "GET", "/Observation/lab")).status_code == 404
    assert (await send(scope, "GET", "/Observation/lab/_history/1")).status_code == 200


@pytest.mark.parametrize(
    "scope",
    [
        "system/Observation.cruds?nothing=x",
        "system/*.cruds?_sort=x",
        "system/Observation.cruds?subject:Patient.gender=male",
    ],
)
@pytest.mark.parametrize("path", ["/Observation/lab", "/Observation", "/Observation/lab/_history"])
async def test_a_limit_that_cannot_be_evaluated_shows_nothing(send, scope, path):
    assert (await send(scope, "GET", path)).status_code == 403


async def test_a_limited_scope_limits_what_is_stored(site, send):
    scope = f"system/Observation.cud{LABS} system/Observation.rs"
    inside, outside = observation("lab", LAB), observation("lab", VITAL)

    for method, path, body, status in (
        ("POST", "/Observation", inside, 201),
        ("POST", "/Observation", outside, 403),
        ("PUT", "/Observation/lab", inside | {"status": "amended"}, 200),
        ("PUT", "/Observation/lab", outside, 403),
        ("PUT", "/Observation/new", observation("new", LAB), 201),
        ("PUT", "/Observation/other", observation("other", VITAL), 403),
        ("PUT", "/Observation/vital", observation("vital", LAB), 403),
    ):
        response = await send(scope, method, path, json=body)
        assert response.status_code == status, (method, path, response.text)
    patched = await send(
        scope,
        "PATCH",
        "/Observation/vital",
        content=msgspec.json.encode(PATCH),
        headers=JSON_PATCH,
    )
    assert patched.status_code == 403
    assert (await send(scope, "DELETE", "/Observation/vital")).status_code == 204
    assert (await send("system/*.r", "GET", "/Observation/vital")).status_code == 200
    assert (await send(scope, "DELETE", "/Observation/lab")).status_code == 204
    assert (await send("system/*.r", "GET", "/Observation/lab")).status_code == 410


async def test_a_transaction_changes_nothing_if_one_entry_is_outside_of_a_limit(site, send):
    body = bundle(
        "transaction",
        ("PUT", "Observation/new", observation("new", LAB)),
        ("PUT", "Observation/vital", observation("vital", LAB)),
    )

    refused = await send(f"system/Observation.cruds{LABS}", "POST", "/", json=body)

    assert refused.status_code == 403
    assert (await send("system/*.r", "GET", "/Observation/new")).status_code == 404


async def test_the_tenant_of_a_token_wins(site, verifier):
    await site.put({"resourceType": "Patient", "id": "other"}, tenant="t2")
    verifier.principals["x"] = principal("x", "system/*.rs", tenant="t2")

    for headers in ({}, {"X-Tenant-ID": "default"}, {"X-Tenant-ID": "t3"}):
        found = await site.client.get("/Patient", headers=bearer("x") | headers)
        assert ids(found) == ["other"]


@pytest.mark.parametrize("tenant", ["", "..", "a/b", "T" * 65, "a\n"])
async def test_a_malformed_tenant_of_a_token_is_nobody_s(site, verifier, tenant):
    verifier.principals["x"] = principal("x", "system/*.rs", tenant=tenant)

    assert (await site.client.get("/Patient", headers=bearer("x"))).status_code == 403


async def test_no_combination_of_scopes_shows_what_is_outside_of_them(site, send):
    """Every pair of scopes, with every reading route of every type."""
    words = ["system/Patient.rs", f"system/Observation.rs{LABS}", "system/Group.s", "user/*.cruds"]
    allowed = {
        "system/Patient.rs": {"p1", "p2"},
        f"system/Observation.rs{LABS}": {"lab"},
        "system/Group.s": {"g"},
    }
    everything = {resource["id"]: resource["resourceType"] for resource in RESOURCES}
    for scopes in itertools.combinations(words, 2):
        visible = set().union(*(allowed.get(word, set()) for word in scopes))
        for resource_id, type_ in everything.items():
            for path in (
                f"/{type_}/{resource_id}",
                f"/{type_}/{resource_id}/_history",
                f"/{type_}?_id={resource_id}",
                f"/{type_}?_include=*&_revinclude=*&_id={resource_id}",
                f"/{type_}",
            ):
                for method in ("GET", "HEAD", "DELETE", "PUT", "PATCH"):
                    response = await send(" ".join(scopes), method, path)
                    hidden = set(everything) - visible
                    assert not any(f'"id":"{other}"' in response.text for other in hidden)


@pytest.mark.parametrize("type_", [None, "batch", "transaction"])
async def test_a_condition_does_not_find_what_may_not_be_found(site, send, type_):
    scope = f"system/Observation.d system/Observation.s{LABS}"
    for criteria in ("status=final&category=vital-signs", "_id=vital"):
        path = f"Observation?{criteria}"
        if type_ is None:
            response = await send(scope, "DELETE", f"/{path}")
            assert response.status_code == 204
        else:
            body = bundle(type_, ("DELETE", path, None))
            response = await send(scope, "POST", "/", json=body)
            assert response.json()["entry"][0]["response"]["status"].startswith("204")

    assert (await send("system/*.r", "GET", "/Observation/vital")).status_code == 200


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_condition_is_not_held_up_by_what_it_created_and_is_hidden_now(
    site, send, deleted
):
    """Its id follows from the condition, so that nobody chose one that is taken."""
    labs, condition = f"system/Observation.cs{LABS}", {"If-None-Exist": "identifier=x"}
    lab = observation("new", LAB, identifier=[{"value": "x"}])
    first = await send(labs, "POST", "/Observation", json=lab, headers=condition)
    created = first.headers["location"].split("/")[-3]
    await site.put(observation(created, VITAL))
    if deleted:
        await site.delete("Observation", created)

    again = await send(labs, "POST", "/Observation", json=lab, headers=condition)

    assert (first.status_code, again.status_code) == (201, 201)
    assert VITAL["coding"][0]["code"] not in again.text


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/Observation/gone", {"If-None-Match": "*"}), ("/Observation?identifier=x", {})],
)
async def test_a_client_creates_where_something_hidden_was_deleted(site, send, path, headers):
    await site.put(observation("gone", VITAL))
    await site.delete("Observation", "gone")
    scopes = f"system/Observation.cruds{LABS}"

    answer = await send(scopes, "PUT", path, json=observation("gone", LAB), headers=headers)

    assert answer.status_code == 201


async def test_a_conditional_reference_needs_search_on_its_type(site, send):
    resource = observation("new", LAB, subject={"reference": "Patient?gender=male"})
    body = bundle("transaction", ("PUT", "Observation/new", resource))

    refused = await send("system/Observation.cruds", "POST", "/", json=body)
    hidden = await send(
        "system/Observation.cruds system/Patient.s?gender=female", "POST", "/", json=body
    )
    found = await send("system/Observation.cruds system/Patient.s", "POST", "/", json=body)

    assert refused.status_code == 403
    assert hidden.status_code in (400, 404, 412)
    assert found.status_code == 200


async def test_a_patch_shows_nothing_that_may_not_be_read(send):
    scopes = f"system/Observation.cu system/Observation.r{LABS}"
    options = {"content": msgspec.json.encode(PATCH), "headers": JSON_PATCH}

    assert (await send(scopes, "PATCH", "/Observation/vital", **options)).status_code == 404
    assert (await send(scopes, "PATCH", "/Observation/lab", **options)).status_code == 200


LISTS = ["/_history", "/Observation/_history", "/Patient/p1/Observation", "/Patient/p1/*"]


@pytest.mark.parametrize("path", [*LISTS, "/Patient/p1/$everything"])
@pytest.mark.parametrize("count", [1, 50])
async def test_histories_compartments_and_records_show_what_scopes_are_limited_to(
    send, path, count
):
    scopes, found, url = (
        f"system/Patient.r system/Observation.rs{LABS}",
        [],
        f"{path}?_count={count}",
    )
    while url:
        body = (await send(scopes, "GET", url)).json()
        found += [entry["resource"]["id"] for entry in body.get("entry", ())]
        url = next((each["url"] for each in body["link"] if each["relation"] == "next"), None)

    assert set(found) == ({"p1", "lab"} if "everything" in path else {"lab"})


@pytest.mark.parametrize("path", ["/Observation/_history", "/_history"])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_pages_of_a_history_do_not_count_what_is_not_permitted(site, send, path, count):
    for start in range(0, 150, 50):
        await site.put(observation(f"l{start}", LAB))
        await site.put(*(observation(f"v{number}", VITAL) for number in range(start, start + 50)))
    pages, url = [], f"{path}?_count={count}"
    while url:
        body = (await send(f"system/Observation.rs{LABS}", "GET", url)).json()
        pages.append([entry["resource"]["id"] for entry in body.get("entry", ())])
        url = next((each["url"] for each in body["link"] if each["relation"] == "next"), None)

    found = ["l100", "l50", "l0", "lab"]
    assert pages == [found[at : at + count] for at in range(0, 4, count)]


async def test_a_history_shows_deletions_of_what_was_permitted(site, send):
    await site.delete("Observation", "lab")
    await site.delete("Observation", "vital")

    body = (await send(f"system/Observation.rs{LABS}", "GET", "/_history")).json()

    deleted = [each for each in body["entry"] if each["request"]["method"] == "DELETE"]
    assert [each["request"]["url"] for each in deleted] == ["Observation/lab"]


@pytest.mark.parametrize("path", ["/_history", "/Patient/p1/*"])
async def test_of_what_a_client_may_not_search_there_is_nothing(send, path):
    response = await send("system/Practitioner.r", "GET", path)

    assert (response.status_code, "entry" in response.json()) == (200, False)


async def test_a_record_needs_read_on_patients(send):
    path = "/Patient/p1/$everything"

    assert (await send("system/Observation.rs", "GET", path)).status_code == 403
    assert (await send("system/*.r", "GET", path)).status_code == 200


async def test_a_page_of_a_history_looks_at_a_bounded_number_of_versions(site, send):
    hidden = VERSIONS_PER_PAGE + 500
    for start in range(0, hidden, 500):
        await site.put(*(observation(f"v{start + n}", VITAL) for n in range(500)))
    await site.put(observation("new", LAB))
    scope, path = f"system/Observation.rs{LABS}", "/Observation/_history?_count=5"
    pages = []

    while path is not None:
        page = (await send(scope, "GET", path)).json()
        pages.append([entry["resource"]["id"] for entry in page.get("entry", ())])
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        path = following[0].removeprefix("http://fhir.example") if following else None

    assert pages == [["new"], ["lab"]]


async def test_a_record_has_the_permitted_types_and_refuses_others_that_are_named(send):
    scopes, path = "system/Patient.rs", "/Patient/p1/$everything"

    assert ids(await send(scopes, "GET", path)) == ["p1"]
    assert ids(await send(scopes, "GET", f"{path}?_type=Patient")) == ["p1"]
    for types in ("Observation", "Patient,Observation"):
        assert (await send(scopes, "GET", f"{path}?_type={types}")).status_code == 403
    named = await send(f"{scopes} system/Observation.rs", "GET", f"{path}?_type=Observation")
    assert "lab" in ids(named)
