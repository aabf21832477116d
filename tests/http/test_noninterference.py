"""
What a client may not see changes no response.

Everything is sent to two servers: on one there is a lot that the client may not see, on the other
there never was. Their responses have to be the same, whatever is sent: status, headers, texts,
counts, links, tokens of pages and files of exports.
"""

import base64
import re
from contextlib import AsyncExitStack
from itertools import product
from urllib.parse import unquote

import pytest

from helios_core import InvalidParameter, Secret
from helios_core.http.access import ROUTES
from helios_core.memory import MemoryDataProvider
from helios_core.storage.page_tokens import parse_version_token
from helios_s3 import S3Settings, helios_output_store
from tests.http.bulk.test_permissions import LAB, VITAL, observation
from tests.http.conftest import ASYNC
from tests.http.test_access import routes_of
from tests.http.worlds import (
    MARK,
    Worlds,
    contents_of,
    memory_stores,
    next_of,
    open_world,
    postgres_stores,
    sqlite_stores,
)
from tests.services import a_bucket
from tests.storage.indexed import Following, following_each_write
from tests.tokens import bearer, principal

REFERRED = "unseen"
"""In the ids of that to which something refers that is on both."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def patient(resource_id, **more):
    return {"resourceType": "Patient", "id": resource_id, "gender": "male", **more}


def provenance(resource_id, target):
    return {
        "resourceType": "Provenance",
        "id": resource_id,
        "target": [{"reference": target}],
        "recorded": "2020-01-01T00:00:00Z",
        "agent": [{"who": {"reference": "Patient/p1"}}],
    }


def group(resource_id, *members):
    entities = [{"entity": {"reference": f"Patient/{member}"}} for member in members]
    return {
        "resourceType": "Group",
        "id": resource_id,
        "type": "person",
        "actual": True,
        "member": entities,
    }


PATIENTS = (patient("p1"), patient("p2", gender="female"))
LABS = (
    observation("lab1", LAB, performer=[{"reference": f"Practitioner/{REFERRED}-d"}]),
    observation("lab2", LAB, hasMember=[{"reference": f"Observation/{REFERRED}-v1"}]),
)
HIDDEN_VITALS = (
    observation(
        f"{REFERRED}-v1",
        VITAL,
        code={"text": MARK},
        derivedFrom=[{"reference": "Observation/lab1"}],
    ),
    observation(f"{MARK}-v2", VITAL),
    observation(f"{MARK}-v3", VITAL, code={"text": MARK}),
)
OTHER_TYPES = (
    {"resourceType": "Practitioner", "id": f"{REFERRED}-d", "name": [{"family": MARK}]},
    group(f"{MARK}-g", "p1", "p2"),
    provenance(f"{MARK}-of-lab", "Observation/lab1"),
    {
        "resourceType": "DocumentReference",
        "id": f"{MARK}-doc",
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": {"url": f"Binary/{MARK}-b"}}],
    },
    {"resourceType": "Binary", "id": f"{MARK}-b", "contentType": "text/plain", "data": "eA=="},
)
ELSEWHERE = (
    patient(f"{MARK}-p"),
    patient("p1", name=[{"family": MARK}]),
    observation("lab1", LAB, code={"text": MARK}),
    *HIDDEN_VITALS,
    *OTHER_TYPES,
)

CLIENTS = {
    "everything": (("system/*.cruds",), (*PATIENTS, *LABS, group("g", "p1")), ()),
    "one type": (("system/Patient.cruds",), PATIENTS, (*LABS, *HIDDEN_VITALS, *OTHER_TYPES)),
    "a part of a type": (
        ("system/Observation.cruds?category=laboratory", "system/Patient.rs"),
        (*PATIENTS, *LABS),
        (*HIDDEN_VITALS, *OTHER_TYPES),
    ),
}
"""By name: scopes, what is to be seen, and what is of the same tenant and is not."""

QUERIES = (
    "",
    "?_summary=count",
    "?_total=accurate&_count=1",
    "?_sort=-_lastUpdated&_count=1",
    "?_sort=_id&_count=1",
    "?_include=*&_revinclude=*",
    "?_include:iterate=*:*&_revinclude:iterate=*:*&_count=1",
    "?_id=p1,p2,lab1,lab2,unseen-v1,canary-v2,canary-p,unseen-d",
    "?_has:Observation:subject:code:text=canary",
    "?_has:Provenance:target:_id=canary-of-lab",
    "?subject:Patient.name=canary",
    "?performer:Practitioner.name=canary",
    "?has-member.code:text=canary",
    "?category:not=laboratory",
    "?_since=2000-01-01T00:00:00Z&_count=1",
    "?_elements=id&_count=2",
    "?_type=Observation,Patient,Group",
)
SEARCHES = (
    *("/Patient", "/Observation", "/Group", "/Practitioner", "/Provenance", "/Binary"),
    *("/Patient/p1/Observation", "/Patient/p1/*", "/Patient/p2/*", f"/Patient/{MARK}-p/*"),
)
KICKOFFS = (
    "",
    "?_type=Patient",
    "?_type=Observation",
    "?_type=Observation,Patient",
    "?_type=Patient,Practitioner",
    "?patient=Patient/p1",
    f"?patient=Patient/{MARK}-p",
    "?_typeFilter=Observation%3Fcategory=vital-signs",
    "?_typeFilter=Observation%3Fhas-member.code:text=canary",
    "?_typeFilter=Patient%3F_has:Observation:subject:category=vital-signs",
    "?includeAssociatedData=LatestProvenanceResources",
    "?organizeOutputBy=Patient&_type=Patient,Observation",
    "?_since=2000-01-01T00:00:00Z",
    "?allowPartialManifests=true",
)


def requests_of(worlds):
    """
    Yield a method and a path for every route of the application.

    What is served is requested with ids that are there, hidden and nowhere, of several types; what
    is not served, with those of one type.
    """
    served = {route.path_format: route.methods for route in routes_of(worlds.full.site)}
    assert served.keys() >= set(ROUTES)
    ids = {
        "resource_type": ["Patient", "Observation", "Group", "Practitioner", "Binary"],
        "resource_id": [
            "p1",
            "lab1",
            f"{REFERRED}-v1",
            f"{REFERRED}-d",
            f"{MARK}-p",
            f"{MARK}-g",
            "none",
        ],
        "searched": ["Observation", "*", "DocumentReference"],
        "version_id": ["1", "2"],
        "job_id": [job for job, _ in worlds.hidden_jobs] + ["0" * 32],
        "name": [name for _, name in worlds.hidden_jobs] + ["1.ndjson"],
    }
    for template in sorted(served):
        names = re.findall(r"\{(\w+)\}", template)
        for values in product(*(ids[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            of_one_type = {"Observation"}.issuperset(
                value for name, value in chosen.items() if name in ("resource_type", "searched")
            )
            for method in METHODS:
                if of_one_type or method in served[template]:
                    yield method, template.format(**chosen)


def body_of(method, path):
    """Return what a request sends, as if all of it was meant."""
    resource_type, _, resource_id = path[1:].partition("/")
    if path.endswith("_search"):
        return {"data": {"_summary": "count"}}
    if method == "PATCH":
        patch = [{"op": "add", "path": "/language", "value": "en"}]
        return {"json": patch, "headers": {"Content-Type": "application/json-patch+json"}}
    if method in ("POST", "PUT") and resource_type in ("Observation", "Patient"):
        of_type = patient("x") if resource_type == "Patient" else observation("x", LAB)
        return {"json": of_type | ({"id": resource_id} if resource_id else {})}
    return {}


def is_taken_id(method, path):
    """Return whether a request creates under an id that is taken: that is refused, and told."""
    return method == "PUT" and path.startswith(
        (f"/Observation/{MARK}", f"/Observation/{REFERRED}")
    )


STORES = (
    "sqlite",
    pytest.param("memory", marks=pytest.mark.in_turn),
    pytest.param("postgres", marks=pytest.mark.in_turn),
)


@pytest.fixture(params=STORES)
def stores_of(request, tmp_path):
    """Return what opens the stores of the first and of the second server."""
    if request.param != "postgres":
        opened = {"memory": in_memory, "indexed": with_an_index, "sqlite": sqlite_in(tmp_path)}
        yield opened[request.param]
        return
    server = request.getfixturevalue("postgres_server")
    with server.database() as full, server.database() as bare:
        urls = {"full": full, "bare": bare}
        yield lambda stack, name: postgres_stores(stack, urls[name])


async def in_memory(_stack, _name):
    return memory_stores()


async def with_an_index(_stack, _name):
    following = Following(MemoryDataProvider())
    return memory_stores() | {"data_provider": following_each_write(following, chance=1)}


def sqlite_in(folder):
    return lambda stack, name: sqlite_stores(stack, folder / name)


@pytest.fixture
async def worlds_of(stores_of):
    """Open both servers for one of CLIENTS, or for another client of that form."""
    async with AsyncExitStack() as stack:

        async def worlds_of(client, *, outputs=({}, {})):
            scopes, visible, hidden = CLIENTS[client] if isinstance(client, str) else client
            full, bare = [
                await open_world(stack, scopes, **await stores_of(stack, name), **output)
                for name, output in zip(("full", "bare"), outputs, strict=True)
            ]
            worlds = Worlds(full, bare)
            await worlds.fill(visible, hidden, ELSEWHERE)
            return worlds

        yield worlds_of


async def hidden_state(worlds):
    """Return everything that the client may not see, as those who may see it do."""
    state = []
    for client, resources in (("rival", worlds.hidden), ("elsewhere", ELSEWHERE)):
        for resource in resources:
            path = f"/{resource['resourceType']}/{resource['id']}"
            response = await worlds.full.site.client.get(path, headers=bearer(client))
            state.append((path, response.status_code, response.text))
    for client, (job, name) in zip(("rival", "elsewhere"), worlds.hidden_jobs, strict=True):
        for path in (f"/export-status/{job}", f"/export-file/{job}/{name}"):
            response = await worlds.full.site.client.get(path, headers=bearer(client))
            state.append((path, response.status_code, response.text))
    return state


ROUTES_ON = [
    *(("sqlite", client) for client in CLIENTS),
    *(pytest.param("memory", client, marks=pytest.mark.in_turn) for client in CLIENTS),
    pytest.param("postgres", "a part of a type", marks=pytest.mark.in_turn),
]
"""Every route for every client takes long; on PostgreSQL the hardest of them suffices."""


@pytest.mark.parametrize(("stores_of", "client"), ROUTES_ON, indirect=["stores_of"])
async def test_all_routes_respond_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)
    before = await hidden_state(worlds)

    for method, path in requests_of(worlds):
        if client == "a part of a type" and is_taken_id(method, path):
            continue
        await worlds.send(method, path, **body_of(method, path))

    assert await hidden_state(worlds) == before


@pytest.mark.parametrize("client", CLIENTS)
async def test_all_searches_respond_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)

    for path in (
        *SEARCHES,
        *("/Patient/p1/$everything", f"/Patient/{MARK}-p/$everything"),
        *("/_history", "/Observation/_history", "/Patient/_history", "/Patient/p1/_history"),
        *("/Observation/lab1/_history", f"/Observation/{REFERRED}-v1/_history", "/export-status"),
    ):
        for query in QUERIES:
            await worlds.follow(f"{path}{query}")


@pytest.mark.parametrize("client", CLIENTS)
async def test_no_link_says_how_many_versions_are_stored(worlds_of, client):
    """A store numbers the versions of everybody, so the numbers of two of one's own would."""
    worlds = await worlds_of(client)

    for path in ("/_history", "/Patient/_history"):
        for response in await worlds.send("GET", f"{path}?_count=1"):
            place = re.search(r"_after=\d+\.(.+)", next_of(response))[1]
            with pytest.raises(InvalidParameter):
                parse_version_token(unquote(place))


@pytest.mark.parametrize("client", CLIENTS)
async def test_all_exports_are_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)

    for path in ("/$export", "/Patient/$export", "/Group/g/$export", f"/Group/{MARK}-g/$export"):
        for query in KICKOFFS:
            dry = f"{path}{query}{'&' if query else '?'}_dryRun=true"
            await worlds.send("GET", dry, headers=ASYNC)
            await worlds.export(f"{path}{query}")
    await worlds.follow("/export-status?_count=2")


def entry(method, url, resource=None, **more):
    request = {"request": {"method": method, "url": url, **more}}
    return request | ({"resource": resource} if resource else {})


ENTRIES = {
    "read": entry("GET", f"Observation/{REFERRED}-v1"),
    "vread": entry("GET", f"Observation/{REFERRED}-v1/_history/1"),
    "search": entry("GET", "Observation?_revinclude=*&_include=*&_total=accurate"),
    "count": entry("GET", "Observation?_summary=count"),
    "history": entry("GET", "Observation/_history?_count=1"),
    "compartment": entry("GET", "Patient/p1/*"),
    "other type": entry("GET", f"Practitioner/{REFERRED}-d"),
    "delete": entry("DELETE", f"Observation/{REFERRED}-v1"),
    "delete other type": entry("DELETE", f"Practitioner/{REFERRED}-d"),
    "delete on a condition": entry("DELETE", "Observation?category=vital-signs&_id=unseen-v1"),
    "create on a condition": entry(
        "POST", "Observation", observation("x", LAB), ifNoneExist="code:text=canary"
    ),
    "update on a condition": entry(
        "PUT", "Observation?code:text=canary", {**observation("x", LAB), "id": "new"}
    ),
    "patch": entry(
        "PATCH",
        f"Observation/{REFERRED}-v1",
        {
            "resourceType": "Binary",
            "contentType": "application/json-patch+json",
            "data": base64.b64encode(b'[{"op":"add","path":"/language","value":"en"}]').decode(),
        },
    ),
    "reference on a condition": entry(
        "POST",
        "Observation",
        observation("x", LAB, performer=[{"reference": "Practitioner?name=canary"}]),
    ),
    "reference to a part": entry(
        "POST",
        "Observation",
        observation("x", LAB, hasMember=[{"reference": "Observation?code:text=canary"}]),
    ),
    "update": entry("PUT", "Observation/lab1", observation("lab1", LAB, status="amended")),
}


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_all_entries_respond_as_if_there_was_nothing_else(worlds_of, client, kind):
    worlds = await worlds_of(client)
    before = await hidden_state(worlds)

    for each in ENTRIES.values():
        body = {"resourceType": "Bundle", "type": kind, "entry": [each]}
        await worlds.send("POST", "/", json=body)

    assert await hidden_state(worlds) == before


@pytest.mark.parametrize("client", CLIENTS)
async def test_all_conditions_respond_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)
    before = await hidden_state(worlds)
    hidden = ("code:text=canary", "category=vital-signs", f"_id={REFERRED}-v1", "status=final")
    lab = observation("x", LAB)
    for criteria in hidden:
        path = f"/Observation?{criteria}"
        await worlds.send("POST", "/Observation", json=lab, headers={"If-None-Exist": criteria})
        await worlds.send("PUT", path, json={k: v for k, v in lab.items() if k != "id"})
        await worlds.send("PATCH", path, **body_of("PATCH", path))
        await worlds.send("DELETE", path)
    for path in (
        f"/Observation/{REFERRED}-v1",
        "/Observation/lab1",
        f"/Practitioner/{REFERRED}-d",
    ):
        for name, value in (
            ("If-Match", 'W/"1"'),
            ("If-Match", 'W/"2"'),
            ("If-None-Match", 'W/"2"'),
            ("If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ):
            for method in ("GET", "PATCH", "DELETE", "PUT"):
                if (method, name) == ("PUT", "If-Modified-Since"):
                    continue  # it is no condition of a change, which would create
                options = body_of(method, path)
                headers = options.pop("headers", {}) | {name: value}
                await worlds.send(method, path, headers=headers, **options)

    assert await hidden_state(worlds) == before


MANY_LABS = tuple(observation(f"lab{number}", LAB) for number in range(10, 32))
MANY_VITALS = tuple(observation(f"{MARK}-v{number}", VITAL) for number in range(10, 40))
SCOPES_OF_A_PART = CLIENTS["a part of a type"][0]


@pytest.mark.parametrize("stores_of", ["indexed"], indirect=True)
@pytest.mark.parametrize("limit", ["category=laboratory", "category:not=vital-signs"])
async def test_an_index_finds_as_if_there_was_nothing_else(worlds_of, limit):
    """An index narrows a search by the first limit, and knows nothing of the second."""
    dated = (lab | {"effectiveDateTime": "2001"} for lab in MANY_LABS[:3])
    later = (vital | {"effectiveDateTime": "2010"} for vital in MANY_VITALS)
    client = (
        (f"system/Observation.rs?{limit}", "system/Patient.rs"),
        (*PATIENTS, *LABS, *dated),
        (*HIDDEN_VITALS, *later, *OTHER_TYPES),
    )
    worlds = await worlds_of(client)

    for path in SEARCHES:
        for query in QUERIES:
            await worlds.follow(f"{path}{query}")
    for sort, count, total in product(
        ("date", "-date", "date,code", "code", "patient", "-_lastUpdated", "_id"),
        (1, 2, 9),
        ("", "&_total=none", "&_total=accurate", "&_total=estimate"),
    ):
        await worlds.follow(f"/Observation?_sort={sort}&_count={count}{total}")


async def test_all_pages_of_a_manifest_are_as_if_there_was_nothing_else(worlds_of):
    """Pages appear as files do, so that their number and order would tell of what is left out."""
    client = (
        SCOPES_OF_A_PART,
        (*PATIENTS, *LABS, *MANY_LABS),
        (*HIDDEN_VITALS, *MANY_VITALS, *OTHER_TYPES),
    )
    worlds = await worlds_of(client)

    for path in ("/$export", "/Patient/$export"):
        for query in (
            "?_type=Observation",
            "?_type=Observation,Patient&_since=2000-01-01T00:00:00Z",
        ):
            pages = await worlds.export(
                f"{path}{query}&allowPartialManifests=true", limits={"part_rows": 1}
            )
            assert pages > 2, path


@pytest.fixture
async def two_buckets(s3_server):
    """Two output stores that sign links."""
    async with AsyncExitStack() as stack:
        buckets = [stack.enter_context(a_bucket(s3_server)) for _ in range(2)]
        yield [
            {"output_store": await stack.enter_async_context(output_in(bucket))}
            for bucket in buckets
        ]


def output_in(bucket):
    """Open a bucket as an output store."""
    settings = S3Settings(
        bucket=bucket.name,
        endpoint=bucket.endpoint,
        allow_http=True,
        force_path_style=True,
        region=bucket.region,
        access_key_id=Secret(bucket.access_key),
        secret_access_key=Secret(bucket.secret_key),
    )
    return helios_output_store().open(settings)


@pytest.mark.parametrize("client", CLIENTS)
async def test_signed_links_are_as_if_there_was_nothing_else(worlds_of, two_buckets, client):
    worlds = await worlds_of(client, outputs=two_buckets)

    for path in ("/$export", "/Group/g/$export", f"/Group/{MARK}-g/$export"):
        for query in ("", "?_type=Observation,Patient", "?allowPartialManifests=true"):
            await worlds.export(f"{path}{query}", limits={"part_rows": 1})
    for job, name in [*worlds.hidden_jobs, ("0" * 32, "1.ndjson")]:
        for suffix in ("", "?page=1", "?page=2"):
            await worlds.send("GET", f"/export-status/{job}{suffix}")
        await worlds.send("GET", f"/export-file/{job}/{name}")
        await worlds.send("DELETE", f"/export-status/{job}")


async def test_a_client_gets_no_signed_link_once_it_may_not_see_the_export(worlds_of, two_buckets):
    worlds = await worlds_of("a part of a type", outputs=two_buckets)
    started = await worlds.full.send("GET", "/$export", headers=ASYNC)
    location = started.headers["content-location"]
    await worlds.full.site.finish(location, tenant="t1")
    before = await contents_of(worlds.full, location)
    principals = worlds.full.verifier.principals
    principals["less"] = principal("client", "system/Patient.rs", tenant="t1")

    less = await worlds.full.site.client.get(location, headers=bearer("less"))
    other = await worlds.full.site.client.get(location, headers=bearer("rival"))
    del principals["client"]
    gone = await worlds.full.site.client.get(location, headers=bearer("client"))

    assert [kind for kind, *_ in before[1:]]
    assert [less.status_code, other.status_code, gone.status_code] == [403, 404, 401]
    assert "X-Amz" not in less.text + other.text + gone.text


def document(resource_id, binary, **more):
    return {
        "resourceType": "DocumentReference",
        "id": resource_id,
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": {"url": f"Binary/{binary}"}}],
        **more,
    }


def binary(resource_id, **more):
    return {
        "resourceType": "Binary",
        "id": resource_id,
        "contentType": "text/plain",
        "data": base64.b64encode(resource_id.encode()).decode(),
        **more,
    }


OF_A_PATIENT = {"securityContext": {"reference": "Patient/p1"}}
HIDDEN_DOCUMENTS = (
    document(f"{MARK}-doc", "b2", status="superseded"),
    document(f"{MARK}-doc2", f"{MARK}-b", status="superseded"),
    {"resourceType": "Media", "id": f"{MARK}-m", "status": "completed",
     "subject": {"reference": "Patient/p1"}, "content": {"url": "Binary/b3"}},
)  # fmt: skip
ATTACHMENTS = {
    "no binaries": (
        ("system/Patient.rs", "system/DocumentReference.rs?status=current"),
        (*PATIENTS, document("doc1", f"{REFERRED}-b1"), document("doc2", f"{REFERRED}-none")),
        (*HIDDEN_DOCUMENTS, binary(f"{REFERRED}-b1"), binary(f"{MARK}-b"), binary("b2")),
    ),
    "binaries of hidden documents": (
        ("system/Patient.rs", "system/Binary.rs", "system/DocumentReference.rs?status=current"),
        (
            *PATIENTS,
            document("doc1", "b1"),
            binary("b1"),
            binary("b2"),
            binary("b3"),
            binary("b4", **OF_A_PATIENT),
        ),
        HIDDEN_DOCUMENTS,
    ),
    "some binaries": (
        ("system/*.rs?_id=p1,doc1,b1,b2",),
        (patient("p1"), document("doc1", f"{REFERRED}-b3"), binary("b1"), binary("b2")),
        (
            *HIDDEN_DOCUMENTS,
            binary(f"{REFERRED}-b3"),
            binary(f"{MARK}-b", securityContext={"reference": "Patient/p1"}),
            document(f"{MARK}-doc3", "b1"),
        ),
    ),
}
"""As CLIENTS: attachments, what links to them, and who may see only one of the two."""


@pytest.mark.parametrize("client", ATTACHMENTS)
async def test_attachments_are_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(ATTACHMENTS[client])
    before = await hidden_state(worlds)

    for path in ("/$export", "/Patient/$export"):
        for query in (
            "",
            "?_type=DocumentReference",
            "?_type=Binary",
            "?_type=Binary,DocumentReference,Patient",
            "?_type=DocumentReference,Patient&organizeOutputBy=Patient",
            "?allowPartialManifests=true",
        ):
            await worlds.export(f"{path}{query}", limits={"part_rows": 1})
    for name in ("b1", "b2", "b3", "b4", f"{REFERRED}-b1", f"{REFERRED}-b3", f"{MARK}-b", "none"):
        for accept in ("*/*", "text/plain", "application/fhir+json"):
            for path in (f"/Binary/{name}", f"/Binary/{name}/_history/1"):
                for method in ("GET", "HEAD"):
                    await worlds.send(method, path, headers={"Accept": accept})
    for path in (
        *("/DocumentReference", "/DocumentReference?_include=*", "/Binary", "/Media"),
        *("/Patient/p1/$everything", "/Patient/p1/*", "/Patient/p1/DocumentReference"),
        *("/DocumentReference?contenttype=text/plain", "/_history", "/Binary/_history"),
    ):
        await worlds.follow(path)
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [entry("GET", f"Binary/{name}") for name in ("b1", f"{REFERRED}-b1", "none")],
    }
    await worlds.send("POST", "/", json=batch)

    assert await hidden_state(worlds) == before


OF_THE_UNSEEN = {
    "what is not seen has a provenance": (
        ("system/Patient.rs", "system/Provenance.rs", "system/Group.r"),
        (
            *PATIENTS,
            group("g", "p1"),
            provenance("of-p1", "Patient/p1"),
            provenance("of-unseen", f"Observation/{REFERRED}-v1"),
        ),
        HIDDEN_VITALS,
    ),
    "members are not seen": (
        ("system/Observation.rs", "system/Provenance.rs", "system/Group.r"),
        (
            *LABS,
            group("g", "p1", f"{REFERRED}-p"),
            provenance("of-unseen", f"Patient/{REFERRED}-p"),
            provenance("of-lab", "Observation/lab1"),
        ),
        (patient(f"{REFERRED}-p"), *PATIENTS),
    ),
}
"""As CLIENTS: what may be seen refers to what may not."""


@pytest.mark.parametrize("client", OF_THE_UNSEEN)
async def test_what_refers_to_the_unseen_is_as_if_it_was_not_there(worlds_of, client):
    worlds = await worlds_of(OF_THE_UNSEEN[client])

    for path in ("/$export", "/Patient/$export", "/Group/g/$export"):
        for query in (
            "",
            "?_since=2000-01-01T00:00:00Z",
            "?_type=Provenance",
            "?_type=Provenance,Observation,Patient",
            "?allowPartialManifests=true",
        ):
            dry = f"{path}{query}{'&' if query else '?'}_dryRun=true"
            await worlds.send("GET", dry, headers=ASYNC)
            await worlds.export(f"{path}{query}", limits={"part_rows": 1})
