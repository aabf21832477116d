"""No combination of scopes and requests shows anything outside of them."""

import asyncio
import os
from contextlib import AsyncExitStack

import httpx
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from helios_core.config.settings import Settings
from helios_core.http.app import create_app
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.storage.backends import Backends
from tests.http.bulk.test_permissions import LAB, VITAL, observation
from tests.http.conftest import ASYNC, BASE, Site
from tests.tokens import StaticVerifier, bearer, principal

RUNS = int(os.environ.get("HFS_TEST_FUZZ_RUNS", "60"))
RESOURCES = (
    {"resourceType": "Patient", "id": "p1", "gender": "male"},
    {"resourceType": "Patient", "id": "p2", "gender": "female"},
    observation("lab", LAB),
    observation("vital", VITAL),
    observation("draft", LAB, status="preliminary"),
)
BY_TYPE = {
    name: {each["id"] for each in RESOURCES if each["resourceType"] == name}
    for name in ("Patient", "Observation")
}
MATCHES = {
    "": {"p1", "p2", "lab", "vital", "draft"},
    "?gender=male": {"p1"},
    "?category=laboratory": {"lab", "draft"},
    "?category=laboratory&status=final": {"lab"},
    "?_id=lab,p2": {"lab", "p2"},
    "?nothing=x": set(),
    "?_count=1": set(),
    "?subject:Patient.gender=male": set(),
    "?_has:Observation:subject:status=final": set(),
}
"""What each limit of a scope leaves, worked out by hand; nothing if it cannot be evaluated."""

GOOD = st.tuples(
    st.sampled_from(["Patient", "Observation", "*", "Group"]),
    st.lists(st.booleans(), min_size=5, max_size=5).map(
        lambda bits: "".join(letter for letter, bit in zip("cruds", bits, strict=True) if bit)
    ),
    st.sampled_from(sorted(MATCHES)),
)
BAD = st.sampled_from(
    ["user/*.cruds", "patient/*.rs", "system/*.sr", "system/*.read?_id=p1", "system/patient.rs"]
)


def visible(words, resource_type, letter):
    """Return the ids that scopes grant a letter for, without any code of the server."""
    granted = [
        MATCHES[query]
        for type_, letters, query in words
        if type_ in (resource_type, "*") and letter in letters
    ]
    return set().union(*granted) & BY_TYPE[resource_type]


@settings(max_examples=RUNS)
@given(st.lists(GOOD, max_size=4), st.lists(BAD, max_size=2))
def test_scopes_are_the_sum_of_their_words_and_the_limit_of_everything(words, others):
    scopes = [f"system/{type_}.{letters}{query}" for type_, letters, query in words if letters]

    asyncio.run(_check(words, principal("x", *others, *scopes)))


async def _check(words, client):
    async with AsyncExitStack() as stack:
        backends = Backends(
            data_provider=MemoryDataProvider(),
            job_store=MemoryJobStore(),
            output_store=MemoryOutputStore(),
            announce=lambda _: None,
            token_verifier=StaticVerifier({"x": client}),
        )
        transport = httpx.ASGITransport(create_app(Settings(), backends))
        http = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=BASE, headers=bearer("x"))
        )
        site = Site(backends, http)
        await site.put(*RESOURCES)
        exportable = {}
        for name, ids in BY_TYPE.items():
            readable, findable = visible(words, name, "r"), visible(words, name, "s")
            await _check_reads(http, name, ids, readable, findable)
            await _check_searches(http, name, readable, findable)
            exportable[name] = readable & findable
        await _check_exports(site, exportable)


async def _check_reads(http, name, ids, readable, findable):
    for resource_id in ids:
        for suffix in ("", "/_history", "/_history/1"):
            response = await http.get(f"/{name}/{resource_id}{suffix}")
            assert response.status_code in (200, 403, 404)
            if response.status_code == 200:
                assert resource_id in readable | findable
            else:
                assert resource_id not in readable


async def _check_searches(http, name, readable, findable):
    response = await http.get(f"/{name}?_total=accurate")
    assert response.status_code in (200, 403)
    if response.status_code == 403:
        assert not findable
        return
    found = {entry["resource"]["id"] for entry in response.json().get("entry", ())}
    assert findable <= found <= readable | findable
    assert response.json()["total"] == len(found)


async def _check_exports(site, exportable):
    """Export without types, and each type by its name."""
    for query, types in (("", [*BY_TYPE]), *((f"?_type={name}", [name]) for name in BY_TYPE)):
        response = await site.client.get(f"/$export{query}", headers=ASYNC)
        expected = set().union(*(exportable[name] for name in types))
        if response.status_code == 403:
            assert not expected
            continue
        location = response.headers["content-location"]
        await site.finish(location)
        manifest = (await site.client.get(location)).json()
        files = [(await site.client.get(each["url"])).text for each in manifest["output"]]
        lines = [line for text in files for line in text.splitlines()]
        assert {msgspec.json.decode(line)["id"] for line in lines} == expected
