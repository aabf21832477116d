"""The plugin with a real Keycloak and the realm of docs/examples/keycloak."""

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

from helios_core import BackendUnavailable, InvalidToken, Secret, in_thread
from helios_keycloak_auth import KeycloakAuthSettings
from helios_keycloak_auth.tokens import LEEWAY_SECONDS
from helios_keycloak_auth.verifier import open_verifier
from tests.issuers import SIGNING, key_pair, sign
from tests.keycloaks import EXAMPLE, claims_of, header_of
from tests.proxies import Proxy

AUDIENCE = "http://fhir.example.org"
UNKNOWN = "system/Patient.cruds"


@pytest.fixture(scope="module")
def published():
    """Serve what is put into it, and give its address."""
    documents = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(documents[-1]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json", documents
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def shared_realm(keycloak_server, published):
    """A realm that no test changes but by adding clients."""
    url, documents = published
    with keycloak_server.realm(jwks_url=url) as realm:
        documents.append(realm.keys["backend-inline"].as_dict())
        yield realm


@asynccontextmanager
async def verifying(realm, *, base=None, **changes):
    settings = {
        "issuer": realm.url(base),
        "audience": (AUDIENCE,),
        "allow_http": True,
        "request_timeout": timedelta(seconds=60),
        **changes,
    }
    async with open_verifier(KeycloakAuthSettings(**settings)) as verifier:
        yield verifier


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
async def test_a_client_with_a_key_in_the_realm_gets_in(shared_realm, algorithm):
    token = shared_realm.token(algorithm=algorithm, scope="system/*.cruds system/Patient.rs")
    async with verifying(shared_realm) as verifier:
        principal = await verifier.verify(token)

    claims = claims_of(token)
    assert principal.issuer == shared_realm.url()
    assert (principal.subject, principal.client_id) == (claims["sub"], "backend-inline")
    assert set(principal.scopes) == {"system/*.cruds", "system/Patient.rs"}
    assert principal.tenant is None
    assert claims["exp"] - claims["iat"] == 300


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
async def test_a_client_that_publishes_its_keys_gets_in(shared_realm, algorithm):
    keys = shared_realm.keys["backend-inline"]
    token = shared_realm.token("backend-by-url", algorithm=algorithm, keys=keys)

    async with verifying(shared_realm) as verifier:
        assert (await verifier.verify(token)).client_id == "backend-by-url"


async def test_the_client_that_only_reads_has_a_tenant_and_no_scope_to_write(shared_realm):
    refused = shared_realm.request_token("readonly", scope="system/*.cruds")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")

    async with verifying(shared_realm) as verifier:
        principal = await verifier.verify(shared_realm.token("readonly"))

    assert (principal.tenant, principal.scopes) == ("north", ("system/*.rs",))


@pytest.mark.parametrize(
    "scope",
    [
        "system/*.cruds",
        "system/*.rs",
        "system/*.read",
        "system/Patient.rs",
        "system/Observation.rs",
        "system/Group.rs",
        "system/Observation.rs?category=laboratory",
    ],
)
async def test_every_scope_of_the_realm_arrives(shared_realm, scope):
    async with verifying(shared_realm) as verifier:
        assert (await verifier.verify(shared_realm.token(scope=scope))).scopes == (scope,)


async def test_a_scope_that_the_realm_does_not_have_is_refused(shared_realm):
    assert shared_realm.request_token(scope=UNKNOWN).json()["error"] == "invalid_scope"


async def test_a_client_with_another_key_is_refused(shared_realm):
    response = shared_realm.request_token("backend-inline", keys=shared_realm.keys["readonly"])

    assert response.status_code in (400, 401)


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_tokens_signed_by_each_algorithm_are_verified(shared_realm, algorithm):
    client = shared_realm.add_client(**{"access.token.signed.response.alg": algorithm})
    token = shared_realm.token(client)

    async with verifying(shared_realm) as verifier:
        assert (await verifier.verify(token)).client_id == client
    others = [each for each in SIGNING if each != algorithm]
    async with verifying(shared_realm, algorithms=tuple(others)) as verifier:
        with pytest.raises(InvalidToken, match="algorithm"):
            await verifier.verify(token)


@pytest.mark.parametrize("algorithm", ["HS256", "RS512", "EdDSA"])
async def test_tokens_signed_by_other_algorithms_are_refused(shared_realm, algorithm):
    client = shared_realm.add_client(**{"access.token.signed.response.alg": algorithm})

    async with verifying(shared_realm) as verifier:
        with pytest.raises(InvalidToken, match="algorithm"):
            await verifier.verify(shared_realm.token(client))


async def test_a_token_for_another_server_or_of_another_realm_is_refused(
    keycloak_server, shared_realm
):
    async with verifying(shared_realm, audience=("http://other.example.org",)) as verifier:
        with pytest.raises(InvalidToken, match="audience"):
            await verifier.verify(shared_realm.token())
    with keycloak_server.realm() as other:
        async with verifying(shared_realm) as verifier:
            with pytest.raises(InvalidToken, match="does not publish"):
                await verifier.verify(other.token())


async def test_a_token_that_was_got_by_another_address_is_of_another_issuer(shared_realm):
    base = shared_realm.keycloak.url.replace("127.0.0.1", "localhost")
    with_other_name = shared_realm.token(base=base)

    async with verifying(shared_realm) as verifier:
        with pytest.raises(InvalidToken, match="issuer"):
            await verifier.verify(with_other_name)


async def test_a_token_that_has_expired_is_refused(shared_realm):
    client = shared_realm.add_client(**{"access.token.lifespan": "1"})
    token = shared_realm.token(client)

    async with verifying(shared_realm) as verifier:
        while claims_of(token)["exp"] + LEEWAY_SECONDS > time.time():
            await asyncio.sleep(0.1)
        with pytest.raises(InvalidToken, match="expired"):
            await verifier.verify(token)


async def test_a_forged_token_with_the_id_of_a_real_key_is_refused(shared_realm):
    token = shared_realm.token()
    kid = header_of(token)["kid"]
    [encrypting] = shared_realm.key_ids("enc")
    assert kid in shared_realm.key_ids("sig")

    async with verifying(shared_realm) as verifier:
        assert await verifier.verify(token)
        forged = sign({"alg": "RS256", "kid": kid}, claims_of(token), key_pair("forger"))
        with pytest.raises(InvalidToken, match="signature"):
            await verifier.verify(forged)
        with pytest.raises(InvalidToken, match="does not publish"):
            await verifier.verify(
                sign({"alg": "RS256", "kid": encrypting}, claims_of(token), key_pair("forger"))
            )


async def test_a_new_key_of_the_realm_is_used_at_once(realm):
    async with verifying(realm) as verifier:
        old = realm.token()
        await verifier.verify(old)
        realm.rotate()
        new = realm.token()

        assert await verifier.verify(new)
        with pytest.raises(InvalidToken, match="does not publish"):
            await verifier.verify(old)


async def test_while_keycloak_is_down_known_keys_stay_in_use(shared_realm):
    split = urlsplit(shared_realm.keycloak.url)
    with Proxy((split.hostname, split.port)) as proxy:
        base = proxy.url
        token = shared_realm.token(base=base)
        options = {"base": base, "jwks_min_refresh_interval": timedelta(milliseconds=1)}
        async with (
            verifying(shared_realm, **options) as verifier,
            verifying(shared_realm, **options) as fresh,
        ):
            await verifier.verify(token)
            proxy.close()

            # Keycloak says no-cache, so that every token would read the keys again.
            for _ in range(3):
                assert await verifier.verify(token)
            with pytest.raises(BackendUnavailable):
                await fresh.verify(token)

            proxy.open()
            assert await fresh.verify(shared_realm.token(base=base))


async def test_a_revoked_token_is_refused_where_keycloak_is_asked(shared_realm):
    options = {
        "introspection_client_id": "helios-server",
        "introspection_client_secret": Secret(shared_realm.secret("helios-server")),
        "introspection_ttl": timedelta(milliseconds=1),
    }
    token = shared_realm.token()
    async with verifying(shared_realm) as trusting, verifying(shared_realm, **options) as asking:
        assert await asking.verify(token)
        shared_realm.revoke(token)

        with pytest.raises(InvalidToken, match="revoked"):
            await asking.verify(token)
        # What it costs not to ask: the token is good until it expires.
        assert await trusting.verify(token)


async def test_a_client_that_asks_may_have_any_id_and_any_secret(shared_realm):
    client, secret = "https://fhir.example:8443/r4", "a+b:c%20%&= ä"
    document = {"clientId": client, "secret": secret, "serviceAccountsEnabled": True}
    shared_realm.keycloak.admin("POST", f"/{shared_realm.name}/clients", json=document)
    options = {
        "introspection_client_id": client,
        "introspection_client_secret": Secret(secret),
    }
    async with verifying(shared_realm, **options) as verifier:
        assert await verifier.verify(shared_realm.token())


async def test_a_wrong_secret_lets_nobody_in(shared_realm):
    options = {
        "introspection_client_id": "helios-server",
        "introspection_client_secret": Secret("wrong"),
    }
    async with verifying(shared_realm, **options) as verifier:
        with pytest.raises(BackendUnavailable, match="401"):
            await verifier.verify(shared_realm.token())


async def test_the_script_of_the_example_gets_a_token(shared_realm, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(shared_realm.keys["readonly"].as_dict(private=True)))
    arguments = [shared_realm.url(), "readonly", keys, "system/Patient.rs"]

    token = await in_thread(printed, "get_token.py", *arguments)

    async with verifying(shared_realm) as verifier:
        assert (await verifier.verify(token)).scopes == ("system/Patient.rs",)


def test_the_script_of_the_example_prepares_the_realm(tmp_path):
    printed("prepare.py", tmp_path, "--audience", "https://fhir.example.org")

    realm = json.loads((tmp_path / "helios-realm.json").read_text())
    assert "https://fhir.example.org" in json.dumps(realm)
    inline = next(each for each in realm["clients"] if each["clientId"] == "backend-inline")
    backend = json.loads((tmp_path / "backend.jwks.json").read_text())
    published = json.loads(inline["attributes"]["jwks.string"])["keys"]
    assert [key["kid"] for key in published] == [key["kid"] for key in backend["keys"]]
    assert [key["alg"] for key in published] == ["ES384", "RS384"]
    assert all("d" in key for key in backend["keys"])
    assert not any("d" in key for key in published)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def printed(script, *arguments):
    """Return what a script of the example prints."""
    command = [sys.executable, EXAMPLE / script, *map(str, arguments)]
    return subprocess.check_output(command, text=True, stderr=subprocess.STDOUT).strip()


async def test_clients_read_where_the_realm_is(shared_realm):
    async with verifying(shared_realm) as verifier:
        members = await verifier.smart_configuration("http://fhir.example.org")

    protocol = f"{shared_realm.url()}/protocol/openid-connect"
    assert members["token_endpoint"] == f"{protocol}/token"
    assert members["authorization_endpoint"] == f"{protocol}/auth"
    assert members["jwks_uri"] == f"{protocol}/certs"
    assert members["introspection_endpoint"] == f"{protocol}/token/introspect"
    assert members["revocation_endpoint"] == f"{protocol}/revoke"
    assert {"system/*.cruds", "system/*.read"} < set(members["scopes_supported"])
    assert members["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
