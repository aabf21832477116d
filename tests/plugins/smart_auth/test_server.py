"""A server that authenticates its clients itself, from discovery to the refusal of a request."""

import asyncio
import json
import secrets
import time
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace

import helios_smart_auth
from helios_core.config.settings import Settings, TenantRouting
from helios_core.export.worker import WorkerOptions, run_worker
from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.resources import parse_resource
from helios_core.http.app import create_app
from helios_core.memory import MemoryDataProvider, MemoryJobStore, MemoryOutputStore
from helios_core.storage.backends import Backends, OpenedRoutes
from helios_core.storage.data_provider import Put
from helios_core.storage.token_verifier import ContainedVerifier
from helios_smart_auth.settings import SmartAuthSettings
from tests.plugins.smart_auth.issuing import EC, RSA, Server, claims, form, header, signed

ORIGIN = "http://fhir.example"
ROOT = f"{ORIGIN}/base"
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


class Site:
    """A client of an application, and the registry behind its back."""

    def __init__(self, backends, client):
        self.backends = backends
        self.registry = Server(backends.job_store, now=time.time())
        self.client = client

    async def discovered(self):
        response = await self.client.get("/.well-known/smart-configuration")
        assert response.status_code == 200
        return response.json()

    async def asked(self, *, key=EC, client="lab", headers=None, aud=None, **changes):
        endpoint = (await self.discovered())["token_endpoint"]
        body = claims(client, aud=aud or endpoint, exp=int(time.time()) + 300, jti=uuid4().hex)
        fields = form(signed(key, head=header(key), body=body), **changes)
        path = endpoint.removeprefix(ROOT)
        return await self.client.post(path, data=fields, headers=headers)

    async def bearer(self, **changes):
        response = await self.asked(**changes)
        assert response.status_code == 200, response.text
        return {"Authorization": f"Bearer {response.json()['access_token']}"}

    async def load(self, *resources):
        """Store resources behind the server's back."""
        changes = [
            Put(resource=parse_resource(json.dumps(each).encode(), FHIRVersion.R4))
            for each in resources
        ]
        await self.backends.data_provider.write("default", FHIRVersion.R4, changes)

    async def finish(self, location):
        """Work until an export has ended."""
        stop = asyncio.Event()
        job_id = location.rpartition("/")[2]
        async with asyncio.TaskGroup() as group:
            group.create_task(run_worker("w", self.backends, WorkerOptions(), stop=stop))
            while (await self.backends.job_store.get("default", job_id)).status.active:
                await asyncio.sleep(0.005)
            stop.set()

    async def get(self, path, headers=None):
        async with self.client.stream("GET", path, headers=headers) as response:
            await response.aread()
            return response


@pytest.fixture
def options():
    return {}


@pytest.fixture
async def site(options):
    settings = SmartAuthSettings(base_url=ROOT, **options)
    backends = Backends(
        data_provider=MemoryDataProvider(),
        job_store=MemoryJobStore(),
        output_store=MemoryOutputStore(),
        announce=lambda _: None,
    )
    routes = helios_smart_auth.helios_routes()
    verifier = helios_smart_auth.helios_token_verifier()
    async with AsyncExitStack() as stack:
        handlers = await stack.enter_async_context(routes.open(settings, backends))
        opened = await stack.enter_async_context(verifier.open(settings, backends))
        backends = replace(
            backends,
            routes=[OpenedRoutes(plugin="smart_auth", handlers=handlers, public=routes.public)],
            token_verifier=ContainedVerifier(opened, time_limit=verifier.time_limit),
        )
        app = create_app(Settings(base_url=ROOT, tenant_routing_mode=TenantRouting.BOTH), backends)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        site = Site(backends, await stack.enter_async_context(client))
        await site.registry.register()
        yield site


async def test_the_discovery_document_is_public_json(site):
    """SM-01, TR-70: whatever a client accepts, and without a token."""
    for accept in ("application/json", "text/html", "*/*"):
        response = await site.get("/.well-known/smart-configuration", {"Accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("application/json")


async def test_the_discovery_document_has_what_clients_and_inferno_require(site):
    """SM-02, SM-03, SM-04, SM-05, TR-71: the required fields of SMART 2.2, STU 2.0 and Inferno."""
    found = await site.discovered()

    for name in ("issuer", "jwks_uri", "token_endpoint", "authorization_endpoint"):
        assert found[name].startswith(ROOT), name
    assert {"client_credentials", "authorization_code"} <= set(found["grant_types_supported"])
    assert "S256" in found["code_challenge_methods_supported"]
    assert "plain" not in found["code_challenge_methods_supported"]
    assert "client-confidential-asymmetric" in found["capabilities"]
    assert all(isinstance(each, str) for each in found["capabilities"])
    assert found["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert set(found["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384"}
    assert found["scopes_supported"]


@pytest.mark.parametrize("tenant", ["", "/north"])
async def test_the_capability_statement_names_the_same_token_endpoint(site, tenant):
    """RC-01: a client that reads it first would go on without a token."""
    found = (await site.get(f"{tenant}/.well-known/smart-configuration")).json()
    statement = (await site.get(f"{tenant}/metadata")).json()

    [extension] = statement["rest"][0]["security"]["extension"]
    assert extension["url"] == OAUTH_URIS
    assert {part["url"]: part["valueUri"] for part in extension["extension"]} == {
        "authorize": found["authorization_endpoint"],
        "token": found["token_endpoint"],
    }


@pytest.mark.parametrize("options", [{"stu2_discovery": False}])
async def test_an_authorization_endpoint_need_not_be_published(site):
    """SM-04: version 2.2 wants one of servers that launch apps only."""
    found = await site.discovered()

    assert "authorization_endpoint" not in found
    statement = (await site.get("/metadata")).json()
    assert "extension" not in statement["rest"][0]["security"], "it would need one"
    assert "authorization_code" not in found["grant_types_supported"]
    assert (await site.get("/_plugins/smart_auth/authorize")).status_code in (401, 404)


async def test_the_authorization_endpoint_refuses_everybody(site):
    response = await site.get("/_plugins/smart_auth/authorize?response_type=code&client_id=lab")

    assert response.status_code == 400
    assert response.json()["error"] == "unauthorized_client"


async def test_every_scope_that_is_supported_works(site):
    """SM-06."""
    await site.registry.register("all", scopes=("system/*.cruds",))

    for scope in (await site.discovered())["scopes_supported"]:
        response = await site.asked(client="all", scope=scope)
        assert (response.status_code, response.json()["scope"]) == (200, scope)


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
async def test_a_token_opens_what_is_closed_without(site, key):
    """SM-08, SM-09, SM-19, SM-20, SM-21, TR-76."""
    assert (await site.get("/Patient")).status_code == 401

    response = await site.asked(key=key)

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert answer.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert answer["token_type"].lower() == "bearer"
    assert 0 < answer["expires_in"] <= 300
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    assert (await site.get("/Patient", headers)).status_code == 200
    kicked = await site.get("/$export", headers | {"Prefer": "respond-async"})
    assert kicked.status_code == 202


async def test_a_type_that_the_scopes_do_not_have_is_refused(site):
    """SM-18, SM-22, TR-80: the kick-off fails, and nothing is left out in silence."""
    await site.registry.register("few", scopes=("system/Patient.rs",))
    headers = await site.bearer(client="few") | {"Prefer": "respond-async"}

    refused = await site.get("/$export?_type=Observation", headers)
    narrowed = await site.get("/$export", headers)

    assert refused.status_code == 403
    assert refused.json()["resourceType"] == "OperationOutcome"
    assert narrowed.status_code == 202


async def test_a_client_with_groups_exports_those_and_nothing_else(site):
    """B3-01: whether or not there is such a group."""
    await site.registry.register("some", groups=("a", "b"))
    headers = await site.bearer(client="some") | {"Prefer": "respond-async"}

    for path in ("/$export", "/Patient/$export", "/Group/c/$export", "/Group/%2E%2E/$export"):
        assert (await site.get(path, headers)).status_code in (403, 404), path
    assert (await site.get("/Group/c/$export", headers)).status_code == 403
    assert (await site.get("/Group/a/$export", headers)).status_code == 404


async def test_errors_are_those_of_oauth(site):
    """SM-16: JSON with error and error_description, status 400."""
    for changes, error in (
        ({"grant_type": "not_a_grant_type"}, "unsupported_grant_type"),
        ({"client_assertion_type": "not_an_assertion_type"}, "invalid_client"),
        ({"client_assertion": "not a jwt"}, "invalid_client"),
        ({"scope": "nothing"}, "invalid_scope"),
    ):
        response = await site.asked(**changes)
        assert (response.status_code, response.json()["error"]) == (400, error)
        assert response.json()["error_description"]
        assert response.headers["cache-control"] == "no-store"


async def test_the_audience_is_the_configured_address(site):
    """SM-11: and never one that a client chose."""
    headers = {"Host": "attacker.example"}
    aud = "http://attacker.example/_plugins/smart_auth/token"

    response = await site.asked(headers=headers, aud=aud)

    assert (response.status_code, response.json()["error"]) == (400, "invalid_client")
    assert (await site.asked(headers=headers)).status_code == 200


async def test_a_body_of_another_kind_or_size_is_an_error_of_the_client(site):
    path = "/_plugins/smart_auth/token"
    for body, content_type in (
        (b"{}", "application/json"),
        (b"x" * 10_000_000, "application/x-www-form-urlencoded"),
        (b"\xff" * 100, "application/x-www-form-urlencoded"),
    ):
        response = await site.client.post(
            path, content=body, headers={"Content-Type": content_type}
        )
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        refused = await site.client.request(method, path)
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"OPTIONS", "POST"}


async def test_a_token_of_a_tenants_address_is_one_of_the_server(site):
    """RC-03: the discovery document keeps the form of the address, and the issuer is one."""
    await site.registry.register("northern", tenant="north")
    found = (await site.get("/north/.well-known/smart-configuration")).json()
    assert found["token_endpoint"] == f"{ROOT}/north/_plugins/smart_auth/token"
    assert found["issuer"] == ROOT
    aud = found["token_endpoint"]
    body = claims("northern", aud=aud, exp=int(time.time()) + 300, jti=uuid4().hex)

    response = await site.client.post(
        "/north/_plugins/smart_auth/token", data=form(signed(body=body))
    )

    headers = {"Authorization": f"Bearer {response.json()['access_token']}"}
    assert (await site.get("/north/Patient", headers)).status_code == 200
    assert (await site.get("/Patient", headers)).status_code == 200


async def test_the_public_keys_are_published(site):
    response = await site.get("/_plugins/smart_auth/jwks.json")

    [key] = response.json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert response.headers["cache-control"] == "public, max-age=60"
    head = await site.client.head("/_plugins/smart_auth/jwks.json")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_token_of_another_issuer_is_refused(site):
    other = Server(MemoryJobStore(), now=time.time())
    client = await other.register()
    token = await other.issuer.issue(client, ("system/*.rs",), ROOT)

    response = await site.get("/Patient", {"Authorization": f"Bearer {token}"})

    assert response.status_code == 401


async def reference_token(site, key):
    """Ask for a token as the reference client does."""
    endpoint = (await site.discovered())["token_endpoint"]
    now = time.time()
    body = {
        "iss": "lab",
        "sub": "lab",
        "aud": endpoint,
        "iat": int(now),
        "exp": round(now) + 300,
        "jti": secrets.token_hex(10),
    }
    response = await site.client.post(
        endpoint.removeprefix(ROOT),
        data=form(signed(key, head=header(key), body=body), scope="system/*.rs"),
        headers={"Accept": "application/json"},
    )
    found = response.json()
    assert response.status_code == 200
    assert found["access_token"]
    assert 0 < found["expires_in"] <= 300
    return {"Authorization": f"Bearer {found['access_token']}"}


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_reference_client_exports_with_tokens(site, key, method):
    """
    RC-01, RC-02, RC-03, RC-04, RC-05, RC-06, RC-08, RC-13, RC-17, RC-19, TR-48.

    It looks for the token endpoint at the root, and has a new token for every step.
    """
    binary = {"resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "aGk="}
    document = {
        "resourceType": "DocumentReference",
        "id": "d",
        "status": "current",
        "subject": {"reference": "Patient/p"},
        "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b"}}],
    }
    await site.load({"resourceType": "Patient", "id": "p"}, binary, document)
    configuration = await site.get("/.well-known/smart-configuration")
    assert configuration.json()["token_endpoint"].startswith(ROOT)
    assert (await site.get("/metadata", {"Accept": "*/*"})).status_code == 200
    asking = {
        "Accept": "application/fhir+json",
        "Prefer": "respond-async, handling=lenient",
        **await reference_token(site, key),
    }
    if method == "GET":
        path = "/Patient/$export?_type=Patient%2CDocumentReference"
        started = await site.client.get(path, headers=asking)
    else:
        types = ["Patient", "DocumentReference"]
        parameters = [{"name": "_type", "valueString": name} for name in types]
        started = await site.client.post(
            "/Patient/$export",
            json={"resourceType": "Parameters", "parameter": parameters},
            headers=asking,
        )
    assert started.status_code == 202, started.text
    assert started.content == b""
    location = started.headers["content-location"].removeprefix(ROOT)
    accepts = {"Accept": "application/json"}
    polled = await site.get(location, accepts | await reference_token(site, key))
    assert (polled.status_code, polled.content) == (202, b"")

    await site.finish(location)
    manifest = (await site.get(location, accepts | await reference_token(site, key))).json()

    assert manifest["requiresAccessToken"] is True
    resources = {}
    for item in manifest["output"]:
        path = item["url"].removeprefix(ROOT)
        assert (await site.get(path)).status_code == 401
        file = await site.get(path, await reference_token(site, key))
        [resources[item["type"]]] = map(json.loads, file.text.splitlines())
    assert resources.keys() == {"Patient", "DocumentReference"}
    url = resources["DocumentReference"]["content"][0]["attachment"]["url"].removeprefix(ROOT)
    attachment = {"Accept": "text/plain"}
    assert (await site.get(url, attachment)).status_code == 401
    fetched = await site.get(url, attachment | await reference_token(site, key))
    assert (fetched.status_code, fetched.content) == (200, b"hi")
    ended = await site.client.delete(location, headers=await reference_token(site, key))
    assert ended.status_code == 202
    gone = await site.get(location, accepts | await reference_token(site, key))
    assert gone.status_code == 404
