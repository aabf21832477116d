"""A real server lets in who has a token of a real Keycloak, and nobody else."""

from urllib.parse import urlsplit

import pytest

from tests.keycloaks import claims_of
from tests.processes import Site, names
from tests.proxies import Proxy

AUDIENCE = "http://fhir.example.org"
PATIENT = {"resourceType": "Patient", "id": "a"}


@pytest.fixture
def proxy(keycloak_server):
    split = urlsplit(keycloak_server.url)
    with Proxy((split.hostname, split.port)) as proxy:
        yield proxy


@pytest.fixture
def serve(tmp_path, realm, proxy):
    site = Site(
        tmp_path,
        HFS_AUTH_ENABLED="true",
        HFS_AUTH_ISSUER=realm.url(proxy.url),
        HFS_AUTH_AUDIENCE=AUDIENCE,
        HFS_AUTH_ALLOW_HTTP="true",
        # Longer than the time limit of a verifier, so that a slow machine waits for as long.
        HFS_AUTH_REQUEST_TIMEOUT="10",
    )
    site.run("migrate")
    yield site.serve
    site.end()


def bearing(token):
    return {"Authorization": f"Bearer {token}"}


def test_an_export_is_for_clients_of_the_realm(serve, realm, proxy):
    process, client = serve()
    everything = realm.token(base=proxy.url, scope="system/*.cruds")

    refused = client.http.get("/$export", headers={"Prefer": "respond-async"})
    assert (refused.status_code, refused.json()["resourceType"]) == (401, "OperationOutcome")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")

    client.http.headers.update(bearing(everything))
    client.put(PATIENT)
    assert names(client.export(_type="Patient")) == ["Patient/a"]

    smart = client.http.get("/.well-known/smart-configuration").json()
    assert smart["token_endpoint"] == f"{realm.url(proxy.url)}/protocol/openid-connect/token"

    for part in (*everything.split("."), claims_of(everything)["sub"]):
        assert part not in process.output()


def test_the_server_goes_on_while_keycloak_changes_its_keys_and_while_it_is_down(
    serve, realm, proxy
):
    process, client = serve()
    old = realm.token(base=proxy.url, scope="system/*.cruds")
    assert client.http.get("/Patient", headers=bearing(old)).status_code == 200

    realm.rotate()
    new = realm.token(base=proxy.url, scope="system/*.cruds")
    assert client.http.get("/Patient", headers=bearing(new)).status_code == 200
    assert client.http.get("/Patient", headers=bearing(old)).status_code == 401

    proxy.close()
    assert client.http.get("/Patient", headers=bearing(new)).status_code == 200

    _, restarted = serve()
    unknown = restarted.http.get("/Patient", headers=bearing(new))
    assert (unknown.status_code, "Retry-After" in unknown.headers) == (503, True)
    assert "issuer.keys_read" in process.output()
