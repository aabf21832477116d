"""Who gets in: the token of every request is verified before anything else happens."""

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta

import httpx
import pytest
from litestar import get
from msgspec.structs import replace

from helios_core import (
    API_LEVEL,
    BackendError,
    BackendUnavailable,
    InvalidToken,
    ResourceKey,
    RouteExtension,
)
from helios_core.config.extensions import SelectedExtension, open_routes
from helios_core.config.plugins import InstalledPlugin
from helios_core.http.access import ROUTES, Access, access_of
from helios_core.storage.backends import OpenedRoutes
from helios_core.storage.token_verifier import ContainedVerifier
from tests.http.conftest import ASYNC, litestar_of
from tests.tokens import StaticVerifier, bearer, principal

TOKEN = "token-of-somebody"
LIMIT = timedelta(seconds=5)


@get("/x")
async def anything() -> str:
    return "x"


def routes_of(site):
    """Return the routes of the application that a site serves."""
    return litestar_of(site.client._transport.app).routes


@pytest.fixture
def verifier():
    return StaticVerifier({TOKEN: principal("somebody", "system/*.cruds")})


@pytest.fixture
async def guarded(open_site, verifier):
    return await open_site(token_verifier=verifier)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer "}, {"Authorization": ""}])
async def test_no_credential_is_answered_with_a_challenge_without_an_error(guarded, headers):
    """B2-SEC-03, TR-08"""
    response = await guarded.client.get("/Patient/p", headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["issue"][0]["code"] == "login"


@pytest.mark.parametrize(
    "value", ["Bearer nobody", "Basic dTpw", "bearer nobody", "nobody", f"Bearer {TOKEN} {TOKEN}"]
)
async def test_a_token_that_is_not_valid_is_answered_with_the_class_of_the_reason(guarded, value):
    response = await guarded.client.get("/Patient/p", headers={"Authorization": value})

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert "nobody" not in response.text


async def test_two_tokens_are_refused(guarded):
    headers = httpx.Headers([("Authorization", f"Bearer {TOKEN}")] * 2)

    assert (await guarded.client.get("/Patient/p", headers=headers)).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_compared_without_case(guarded, scheme):
    headers = {"Authorization": f"{scheme} {TOKEN}"}

    assert (await guarded.client.get("/Patient/p", headers=headers)).status_code == 404


async def test_an_issuer_that_is_down_is_no_fault_of_the_token(guarded, verifier):
    verifier.up = False

    response = await guarded.client.get("/Patient/p", headers=bearer(TOKEN))

    assert response.status_code == 503
    assert "www-authenticate" not in response.headers


@pytest.mark.parametrize("path", ["/metadata", "/_liveness", "/health", "/_readiness"])
async def test_what_is_public_looks_at_no_token(guarded, verifier, path):
    verifier.up = False

    assert (await guarded.client.get(path, headers=bearer("x"))).status_code == 200
    assert verifier.asked == 0


@pytest.mark.parametrize("path", ["/Patient", "/Nothing", "/", "/Patient/_search"])
async def test_nothing_else_is_said_of_a_request_without_a_token(guarded, path):
    headers = {"Accept": "text/html", "X-Tenant-ID": "..", "Content-Type": "x/y"}

    response = await guarded.client.post(path, content=b"{", headers=headers)

    assert response.status_code == 401


KNOWN = principal("known", "system/*.cruds")


class Broken(StaticVerifier):
    def __init__(self, how):
        super().__init__({})
        self.how = how

    async def verify(self, token):
        if isinstance(self.how, BaseException):
            raise self.how
        return self.how


@pytest.mark.parametrize(
    "how",
    [
        *(SystemExit(), KeyboardInterrupt(), KeyError("x"), GeneratorExit(), None, "admin"),
        *(TimeoutError(), StopIteration(), asyncio.CancelledError()),
        # What claims that nobody looks at can be.
        *(
            replace(KNOWN, **{name: value})
            for name, value in (
                *(("client_id", None), ("client_id", ""), ("issuer", ""), ("issuer", 1)),
                *(("scopes", "system/*.cruds"), ("scopes", (1,)), ("groups", "g"), ("tenant", 1)),
                *(("expires_at", None), ("expires_at", datetime(2999, 1, 1))),  # noqa: DTZ001
            )
        ),
    ],
    ids=lambda how: type(how).__name__,
)
async def test_a_broken_verifier_lets_nobody_in(open_site, how):
    contained = ContainedVerifier(Broken(how), time_limit=LIMIT)
    site = await open_site(token_verifier=contained)

    response = await site.client.get("/Patient/p", headers=bearer(TOKEN))

    assert response.status_code in (500, 503)
    assert TOKEN not in response.text


async def test_a_principal_that_has_expired_is_refused_whatever_the_verifier_says():
    outdated = principal("x", valid_for=timedelta(seconds=-1))
    contained = ContainedVerifier(Broken(outdated), time_limit=LIMIT)

    with pytest.raises(InvalidToken):
        await contained.verify("x")


async def test_a_verifier_that_hangs_is_late_and_not_waited_for():
    class Hanging(StaticVerifier):
        async def verify(self, token):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.Event().wait()  # whoever cancels it is not heard

    contained = ContainedVerifier(Hanging({}), time_limit=timedelta(milliseconds=10))

    with pytest.raises(BackendError):
        await contained.verify("x")


async def test_every_route_of_the_application_has_an_entry(open_site, verifier):
    site = await open_site(
        token_verifier=verifier,
        routes=[
            OpenedRoutes(plugin="open", handlers=[anything], public=True),
            OpenedRoutes(plugin="closed", handlers=[anything], public=False),
        ],
    )

    routes = routes_of(site)

    assert {route.path_format for route in routes} >= {"/$export", "/_plugins/open/x"}
    undecided = [
        route.path_format
        for route in routes
        for handler in route.route_handlers
        if access_of(route.path_format, handler) is None
    ]
    assert undecided == []


async def test_no_entry_is_without_a_route(open_site, verifier):
    site = await open_site(token_verifier=verifier)

    assert set(ROUTES) <= {route.path_format for route in routes_of(site)}


async def test_a_route_without_an_entry_lets_nobody_in(guarded, monkeypatch):
    monkeypatch.setattr("helios_core.http.access.ROUTES", {})

    response = await guarded.client.get("/Patient/p", headers=bearer(TOKEN))

    assert response.status_code == 500


async def test_a_client_that_is_limited_to_groups_has_no_interaction(open_site, outcome):
    """B3-01: or it would read whatever its scopes allow, and change who is in its groups."""
    limited = replace(principal("limited", "system/*.cruds"), groups=frozenset({"g"}))
    site = await open_site(
        token_verifier=StaticVerifier({TOKEN: limited}),
        routes=[OpenedRoutes(plugin="closed", handlers=[anything], public=False)],
    )
    await site.put({"resourceType": "Group", "id": "g", "type": "person", "actual": True})
    batch = {"resourceType": "Bundle", "type": "batch", "entry": []}

    for route in routes_of(site):
        path = re.sub(r"\{\w+\}", "g", route.path_format.replace("{resource_type}", "Group"))
        for handler in route.route_handlers:
            access = access_of(route.path_format, handler)
            for method in sorted(handler.http_methods - {"OPTIONS"}):
                response = await site.client.request(
                    method, path, headers=bearer(TOKEN), json=batch if method == "POST" else None
                )
                if access is Access.INTERACTION:
                    assert response.status_code == 403, (method, path)
                elif access is Access.CLIENT:
                    assert response.status_code == 200, (method, path)
    refused = outcome(await site.client.get("/Patient", headers=bearer(TOKEN)), 403, "forbidden")
    assert "groups" in refused["diagnostics"]
    headers = bearer(TOKEN) | ASYNC
    assert (await site.client.get("/$export", headers=headers)).status_code == 403
    assert (await site.client.get("/Group/g/$export", headers=headers)).status_code == 202


async def test_everything_that_is_not_public_needs_a_token(open_site, verifier):
    site = await open_site(
        token_verifier=verifier,
        routes=[
            OpenedRoutes(plugin="open", handlers=[anything], public=True),
            OpenedRoutes(plugin="closed", handlers=[anything], public=False),
        ],
    )

    for route in routes_of(site):
        path = re.sub(r"\{\w+\}", "x", route.path_format)
        for method in sorted(route.methods):
            response = await site.client.request(method, path)
            public = any(
                access_of(route.path_format, handler) is Access.PUBLIC
                for handler in route.route_handlers
            )
            assert (response.status_code == 401) is not public, (method, path)


@pytest.mark.parametrize("accept", ["text/html", "application/fhir+xml", None])
async def test_the_smart_configuration_is_json_for_everybody(guarded, accept):
    """B2-SEC-03, TR-70, TR-71, RV-03"""
    headers = {"Accept": accept} if accept else {}

    response = await guarded.client.get("/.well-known/smart-configuration", headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document["token_endpoint"] == "http://fhir.example/token"
    assert {"client_credentials", "authorization_code"} <= {*document["grant_types_supported"]}
    assert document["authorization_endpoint"].startswith("http://")
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert "client-confidential-asymmetric" in document["capabilities"]
    assert "private_key_jwt" in document["token_endpoint_auth_methods_supported"]


async def test_an_open_server_has_no_smart_configuration(site):
    assert (await site.client.get("/.well-known/smart-configuration")).status_code == 404


async def test_the_capability_statement_says_whether_tokens_are_needed(site, guarded):
    secured = (await guarded.client.get("/metadata")).json()["rest"][0]

    assert secured["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    [extension] = secured["security"]["extension"]
    assert extension["url"].endswith("/oauth-uris")
    assert extension["extension"] == [
        {"url": "authorize", "valueUri": "http://fhir.example/authorize"},
        {"url": "token", "valueUri": "http://fhir.example/token"},
    ]
    assert "security" not in (await site.client.get("/metadata")).json()["rest"][0]


async def test_the_capability_statement_is_there_while_the_issuer_is_not(open_site):
    class Down(StaticVerifier):
        async def smart_configuration(self, base):
            raise BackendUnavailable("the issuer does not say")

    site = await open_site(token_verifier=Down({}))

    secured = (await site.client.get("/metadata")).json()["rest"][0]["security"]

    assert secured.keys() == {"service"}


async def test_an_endpoint_that_is_no_text_is_named_nowhere(open_site):
    class Odd(StaticVerifier):
        async def smart_configuration(self, base):
            return await super().smart_configuration(base) | {"token_endpoint": [f"{base}/token"]}

    site = await open_site(token_verifier=Odd({TOKEN: principal("somebody", "system/*.rs")}))

    for path in ("/metadata", "/openapi.json"):
        response = await site.client.get(path, headers=bearer(TOKEN))
        assert (response.status_code, "/token" in response.text) == (200, False)


@pytest.mark.parametrize(
    ("public", "token", "shown"),
    [(True, None, "p"), (False, TOKEN, "p"), (False, "of-another-type", ""), (False, None, None)],
)
async def test_a_route_of_a_plugin_reads_what_its_caller_may(
    open_site, backends, public, token, shown
):
    verifier = StaticVerifier(
        {
            TOKEN: principal("somebody", "system/*.cruds"),
            "of-another-type": principal("x", "system/Observation.rs"),
        }
    )
    secured = replace(backends, token_verifier=verifier)

    @asynccontextmanager
    async def opener(_settings, visible):
        @get("/reads")
        async def reads() -> str:
            stored = await visible.data_provider.get(ResourceKey("default", "R4", "Patient", "p"))
            return stored.id if stored else ""

        yield [reads]

    selected = SelectedExtension(
        origin=InstalledPlugin(name="tested", module="", distribution="tested", version="0"),
        extension=RouteExtension(api_level=API_LEVEL, open=opener, public=public),
        settings=None,
    )
    async with AsyncExitStack() as stack:
        opened = await open_routes(stack, [selected], secured)
        site = await open_site(token_verifier=verifier, routes=opened)
        await site.put({"resourceType": "Patient", "id": "p"})

        response = await site.client.get(
            "/_plugins/tested/reads", headers=bearer(token) if token else {}
        )

    if shown is None:
        assert response.status_code == 401
    else:
        assert (response.status_code, response.text) == (200, shown)
