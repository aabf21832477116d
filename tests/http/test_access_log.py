import re

import msgspec
import pytest
import structlog
from structlog.contextvars import merge_contextvars

from helios_core.http.access_log import BOUND
from tests.tokens import StaticVerifier, bearer, principal

CANARY = "canary-4711"


async def test_every_response_is_logged_without_what_could_name_somebody(site):
    paths = [
        f"/Patient/{CANARY}",
        f"/Patient?_id={CANARY}",
        f"/export-status/{CANARY}",
        f"/{CANARY}/x/y/z/a",
        f"/Patient?{CANARY}=1",
        f"/Group/{CANARY}/$export",
    ]

    with structlog.testing.capture_logs() as logs:
        for path in paths:
            await site.client.get(path, headers={"Prefer": "respond-async"})

    answered = [event for event in logs if event["event"] == "request.answered"]
    assert [event["status"] for event in answered] == [404, 200, 404, 404, 400, 404]
    assert [event["route"] for event in answered] == [
        "/Patient/{resource_id}",
        "/Patient",
        "/export-status/{job_id}",
        "(no route)",
        "/Patient",
        "/Group/{resource_id}/$export",
    ]
    assert all(event["complete"] and event["duration_ms"] >= 0 for event in answered)
    assert CANARY not in repr(logs)


@pytest.fixture
def lines():
    """Every line that is logged, with what is bound to it."""
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[merge_contextvars, captured])
    yield captured.entries
    structlog.reset_defaults()


async def test_every_line_of_a_request_has_its_id_and_tenant_and_job(site, lines):
    await site.put({"resourceType": "Patient", "id": "p1"})
    headers = {"X-Request-ID": "a-1.b_2", "X-Tenant-ID": "clinic"}

    location = await site.kick_off(headers=headers)

    job_id = location.rsplit("/", 1)[1]
    assert [line["event"] for line in lines] == ["job.accepted", "request.answered"]
    for line in lines:
        assert (line["request_id"], line["tenant"]) == ("a-1.b_2", "clinic")
        assert line["job_id"] == job_id
    await site.client.get(location, headers=headers)
    assert (lines[-1]["route"], lines[-1]["job_id"]) == ("/export-status/{job_id}", job_id)


async def test_the_status_is_a_number_also_in_a_text_log(site, lines):
    await site.put({"resourceType": "Patient", "id": "p1"})
    manifest = await site.manifest()

    await site.client.get(manifest["output"][0]["url"])

    assert {type(line["status"]) for line in lines if line["event"] == "request.answered"} == {int}


async def test_a_request_inherits_nothing_of_the_one_before(site, lines):
    await site.kick_off(headers={"X-Tenant-ID": "clinic"})

    await site.client.get("/_liveness")

    assert lines[-1]["route"] == "/_liveness"
    assert not lines[-1].keys() & set(BOUND)


@pytest.mark.parametrize(
    "given",
    [
        *([], [b""], [b"a b"], [b"x" * 65], [b"a\xff"], [b"<a>"], [b"one", b"two"]),
        [b"Patient/p1"],
    ],
)
async def test_a_request_without_a_usable_id_gets_one(site, lines, given):
    headers = [(b"x-request-id", value) for value in given]

    responses = [await site.client.get("/_liveness", headers=headers) for _ in range(2)]

    ids = [response.headers["x-request-id"] for response in responses]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert [line["request_id"] for line in lines] == ids


@pytest.mark.parametrize("path", ["/metadata", "/nothing", "/export-status/none", "/Patient?x=1"])
async def test_every_response_has_the_id_of_its_request(site, path):
    response = await site.client.get(path, headers={"X-Request-ID": "mine"})

    assert response.headers.get_list("x-request-id") == ["mine"]


async def test_usage_can_be_computed_from_the_bytes_of_responses(site, lines):
    manifest = await site.manifest()
    await site.put({"resourceType": "Patient", "id": "p1"})
    manifest = await site.manifest()

    file = await site.client.get(manifest["output"][0]["url"])

    assert lines[-1]["bytes"] == len(file.content) > 0
    assert lines[-1]["tenant"] == "default"
    [shard] = [line for line in lines if line["event"] == "shard.completed"]
    assert (shard["tenant"], shard["resources"]) == ("default", 1)
    assert shard["bytes"] > 0


async def test_every_line_of_an_authenticated_request_has_its_client(open_site, lines):
    client = principal("somebody", "system/*.rs")
    site = await open_site(token_verifier=StaticVerifier({"token": client}))

    await site.client.get("/Patient", headers=bearer("token"))

    assert (lines[-1]["client"], lines[-1]["tenant"]) == (client.owner, "default")


@pytest.mark.parametrize("tenant", ["default", "elsewhere"])
async def test_a_client_that_is_refused_is_in_the_log(open_site, lines, tenant):
    unlimited = principal("unlimited", "system/*.rs")
    limited = msgspec.structs.replace(unlimited, client_id="limited", groups=frozenset({"g"}))
    clients = {"limited": limited, "unlimited": unlimited}
    site = await open_site(token_verifier=StaticVerifier(clients))
    for name, client in clients.items():
        headers = bearer(name) | {"X-Tenant-ID": tenant}

        response = await site.client.get("/Patient", headers=headers)

        assert lines[-1]["status"] == response.status_code
        assert lines[-1]["client"] == client.owner


async def test_the_lines_of_a_worker_name_the_owner_of_the_job(site, lines):
    await site.put({"resourceType": "Patient", "id": "p1"})
    location = await site.kick_off()
    entry = next(iter(site.backends.job_store._entries.values()))
    entry.job = msgspec.structs.replace(entry.job, owner="https://issuer.example client")

    await site.finish(location)

    claimed = next(line for line in lines if line["event"] == "shard.claimed")
    assert claimed["client"] == "https://issuer.example client"
    assert claimed["tenant"] == "default"
