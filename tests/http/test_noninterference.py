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

from helios_core.http.access import ROUTES
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_sqlite import SQLiteSettings, open_data_provider, open_job_store
from tests.http.bulk.test_permissions import LAB, VITAL, observation
from tests.http.conftest import ASYNC
from tests.http.fuzzing import UNLIMITED
from tests.http.test_access import routes_of
from tests.tokens import StaticVerifier, bearer, principal

MARK = "canary"
"""In all that is on one of the servers only."""
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

VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"), "<instant>"),
    (re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}"), "<id>"),
    (re.compile(r"(?:at(?::|%3A))\d{15,}(?::|%3A)\d+"), "<place>"),
    (re.compile(r"\d{15,}"), "<stamp>"),
    (re.compile(r'(?<="digest":")[0-9a-f]{16}'), "<digest>"),
    (re.compile(r'(?<="valueDuration":\{"value":)[\d.]+'), "<seconds>"),
    (re.compile(r"(?<=after=)[\w-]{40,}"), "<page>"),
)
PLACE = re.compile(r"WyJ[\w%-]+")
"""The beginning of a list of texts in JSON and base64: where a page began."""
IGNORED = {
    "date",
    "retry-after",
    "x-request-id",
    "last-modified",
    "expires",
    "content-length",
    "etag",
}


def settled(text):
    """Return a text without what differs between two servers that have seen the same."""
    text = PLACE.sub(lambda match: decoded(unquote(match[0])), text)
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def seen(response):
    """Return what a client learns from a response."""
    headers = {n: settled(v) for n, v in response.headers.items() if n not in IGNORED}
    version = re.fullmatch(r'W/"\d+"', response.headers.get("etag", ""))
    return response.status_code, headers, version and version[0], settled(response.text)


def decoded(word):
    return base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)).decode("latin-1")


class World:
    """A server, and its client; on one there is more than on the other."""

    def __init__(self, site, verifier):
        self.site = site
        self.verifier = verifier

    async def send(self, method, path, **options):
        headers = bearer("client") | options.pop("headers", {})
        return await self.site.client.request(method, path, headers=headers, **options)

    async def export_as(self, client, path, **headers):
        response = await self.site.client.get(path, headers=ASYNC | bearer(client) | headers)
        assert response.status_code == 202, response.text
        location = response.headers["content-location"]
        await self.site.finish(location, tenant=self.verifier.principals[client].tenant)
        manifest = await self.site.client.get(location, headers=bearer(client))
        return manifest.json()["output"][0]["url"].split("/")[-2:]


async def open_world(stack, open_site, store, folder, scopes):
    known = {
        "client": principal("client", *scopes, tenant="t1"),
        "rival": principal("rival", "system/*.cruds", tenant="t1"),
        "elsewhere": principal("client", "system/*.cruds", tenant="t2"),
    }
    verifier = StaticVerifier(known)
    if store == "memory":
        own = {"data_provider": MemoryDataProvider(), "job_store": MemoryJobStore()}
    else:
        folder.mkdir()
        options = SQLiteSettings(data_dir=str(folder), synchronous="normal")
        own = {
            "data_provider": await stack.enter_async_context(open_data_provider(options)),
            "job_store": await stack.enter_async_context(open_job_store(options)),
        }
    site = await open_site(
        UNLIMITED, token_verifier=verifier, output_store=MemoryOutputStore(), **own
    )
    return World(site, verifier)


class Worlds:
    """Both servers; the second one has nothing that the client may not see."""

    def __init__(self, full, bare):
        self.full, self.bare = full, bare
        self.hidden, self.hidden_jobs = (), []
        self.written = False
        """Whether the client has stored anything itself, which it may see."""

    async def fill(self, visible, hidden):
        self.hidden = hidden
        for resource in visible:
            for world in (self.full, self.bare):
                await world.site.put(resource, tenant="t1")
        for _ in range(2):
            if hidden:
                await self.full.site.put(*hidden, tenant="t1")
        await self.full.site.put(*ELSEWHERE, tenant="t2")
        self.hidden_jobs = [
            await self.full.export_as("rival", "/$export"),
            await self.full.export_as("elsewhere", "/$export"),
        ]

    async def send(self, method, path, **options):
        """Send a request to both, and return the response after checking that it is one."""
        full = await self.full.send(method, path, **options)
        bare = await self.bare.send(method, path, **options)
        assert seen(full) == seen(bare), (method, path, options)
        self.written |= method not in ("GET", "HEAD") and full.is_success
        if not self.written and MARK not in f"{path}{options}":
            assert MARK not in full.text, (method, path)
            assert not any(MARK in place for place in places(full.text)), (method, path)
        return full, bare

    async def follow(self, path):
        """Request a page and all that follow, from both."""
        full, bare = await self.send("GET", path)
        for _ in range(50):
            urls = [next_of(response) for response in (full, bare)]
            assert (urls[0] is None) == (urls[1] is None), path
            if urls[0] is None:
                return
            full = await self.full.send("GET", urls[0])
            bare = await self.bare.send("GET", urls[1])
            assert seen(full) == seen(bare), (path, urls)
            assert MARK not in urls[0] or MARK in path
            assert not any(MARK in place for place in places(urls[0]))
        raise AssertionError(f"{path} has no end")

    async def export(self, path, **options):
        """Start an export on both, end it, and compare everything that there is to see of it."""
        method = options.pop("method", "GET")
        full, bare = await self.send(method, path, headers=ASYNC, **options)
        if full.status_code != 202:
            return
        results = []
        for world, response in ((self.full, full), (self.bare, bare)):
            location = response.headers["content-location"]
            started = await world.send("GET", location)
            await world.site.finish(location, tenant="t1")
            results.append([seen(started), *await contents_of(world, location)])
        assert results[0] == results[1], path
        assert MARK not in str(results[0]) or MARK in f"{path}{options}"


async def contents_of(world, location):
    """Yield the pages of a manifest, and the lines of all its files."""
    found, url = [], location
    while url:
        response = await world.send("GET", url)
        assert response.status_code == 200, response.text
        found.append(seen(response))
        manifest = response.json()
        for kind in ("output", "deleted", "error"):
            for item in manifest.get(kind, ()):
                file = await world.send("GET", item["url"])
                found.append((kind, item.get("type"), item["count"], settled(file.text)))
        url = next((each["url"] for each in manifest.get("link", ())), None)
    return found


def places(text):
    """Yield what is encoded in what looks like base64."""
    for word in re.findall(r"[A-Za-z0-9_-]{16,}", text):
        try:
            yield decoded(word)
        except ValueError:
            continue


def next_of(response):
    if response.status_code != 200:
        return None
    links = response.json().get("link", ())
    return next((each["url"] for each in links if each["relation"] == "next"), None)


def paths_of(worlds):
    """Yield every path of the application, with ids that are there, hidden and nowhere."""
    templates = {route.path_format for route in routes_of(worlds.full.site)}
    assert templates >= set(ROUTES)
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
    for template in sorted(templates):
        names = re.findall(r"\{(\w+)\}", template)
        for values in product(*(ids[name] for name in names)):
            yield template.format(**dict(zip(names, values, strict=True)))


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


@pytest.fixture(params=["memory", "sqlite"])
async def worlds_of(request, open_site, tmp_path):
    async with AsyncExitStack() as stack:

        async def worlds_of(name):
            scopes, visible, hidden = CLIENTS[name]
            full, bare = [
                await open_world(stack, open_site, request.param, tmp_path / each, scopes)
                for each in ("full", "bare")
            ]
            worlds = Worlds(full, bare)
            await worlds.fill(visible, hidden)
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


@pytest.mark.parametrize("client", CLIENTS)
async def test_all_routes_respond_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)
    before = await hidden_state(worlds)

    for path in paths_of(worlds):
        for method in METHODS:
            if client == "a part of a type" and is_taken_id(method, path):
                continue
            await worlds.send(method, path, **body_of(method, path))

    assert await hidden_state(worlds) == before


@pytest.mark.parametrize("client", CLIENTS)
async def test_all_searches_respond_as_if_there_was_nothing_else(worlds_of, client):
    worlds = await worlds_of(client)

    for path in (
        *("/Patient", "/Observation", "/Group", "/Practitioner", "/Provenance", "/Binary"),
        *("/Patient/p1/Observation", "/Patient/p1/*", "/Patient/p1/$everything"),
        *("/Patient/p2/*", f"/Patient/{MARK}-p/*", f"/Patient/{MARK}-p/$everything"),
        *("/_history", "/Observation/_history", "/Patient/_history", "/Patient/p1/_history"),
        *("/Observation/lab1/_history", f"/Observation/{REFERRED}-v1/_history", "/export-status"),
    ):
        for query in QUERIES:
            await worlds.follow(f"{path}{query}")


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
            for method in ("GET", "PATCH", "DELETE"):
                options = body_of(method, path)
                headers = options.pop("headers", {}) | {name: value}
                await worlds.send(method, path, headers=headers, **options)

    assert await hidden_state(worlds) == before
