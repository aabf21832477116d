"""
A real Keycloak for the tests: installed, started once for a test run, with a realm for each test.

    python -m tests.keycloaks

installs it from Maven Central into the user's cache folder and reports what it does.
"""

import importlib.util
import json
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import httpx
from joserfc import jws, jwt
from joserfc.jwk import KeySet

from tests import maven
from tests.services import absent
from tests.shared_servers import CACHE, START_SECONDS, shared_server

VERSION = "26.5.6"
KEYCLOAK = CACHE / f"keycloak-{VERSION}"
NO_KEYCLOAK = (
    f"there is no Keycloak {VERSION}: `make services` installs it where there are Java and Maven"
)

EXAMPLE = Path(__file__).parents[1] / "docs/examples/keycloak"
ADMIN = "admin"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_BUILD = ("build", "--db=dev-mem", "--health-enabled=true")
_START = (
    *("start", "--optimized", "--cache=local", "--log-level=WARN"),
    *("--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1"),
)


def install() -> None:
    """Install Keycloak into the cache folder, unless it is there, and report what happens."""
    if KEYCLOAK.exists():
        click.echo(f"Keycloak is in {KEYCLOAK} already.")
        return
    if not maven.is_installed():
        click.echo(
            "Java or Maven is not installed, so there is no Keycloak: its tests are skipped."
        )
        return
    click.echo(
        f"Installing Keycloak {VERSION} into {KEYCLOAK}: a download of 160 MB, two minutes."
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        copy = [
            "mvn",
            "-q",
            "-B",
            "-Dstyle.color=never",
            _COPY,
            f"-Dartifact={_ARTIFACT}",
            f"-DoutputDirectory={folder}",
        ]
        subprocess.run(copy, check=True, cwd=folder)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        unpacked = folder / KEYCLOAK.name
        subprocess.run([unpacked / "bin/kc.sh", *_BUILD], check=True, stdout=subprocess.DEVNULL)
        with suppress(OSError):  # somebody else was quicker
            unpacked.rename(KEYCLOAK)


class Keycloak:
    """One server, on which every test can have a realm of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(timeout=START_SECONDS)

    @contextmanager
    def realm(
        self, *, audience: str = "http://fhir.example.org", jwks_url: str = "http://127.0.0.1:1"
    ) -> Iterator["Realm"]:
        """Yield the realm of the example, with new keys of its clients, gone afterwards."""
        prepare = _example()
        keys = {name: prepare.key_set() for name in ("backend-inline", "readonly")}
        document = prepare.fill(
            json.loads((EXAMPLE / "realm.json").read_text()),
            audience=audience,
            jwks_url=jwks_url,
            keys=keys,
        )
        name = f"helios-{uuid.uuid4().hex[:12]}"
        self.admin("POST", "", json=document | {"realm": name})
        try:
            with httpx.Client(timeout=START_SECONDS) as client:
                yield Realm(self, name, keys, client)
        finally:
            self.admin("DELETE", f"/{name}")

    def admin(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the response of the administration of realms."""
        response = self._client.post(
            f"{self.url}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": ADMIN,
                "password": ADMIN,
            },
        )
        bearer = {"Authorization": f"Bearer {response.raise_for_status().json()['access_token']}"}
        url = f"{self.url}/admin/realms{path}"
        return self._client.request(method, url, headers=bearer, **options).raise_for_status()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Realm:
    """A realm with the clients and scopes of the example."""

    def __init__(
        self, keycloak: Keycloak, name: str, keys: dict[str, KeySet], client: httpx.Client
    ) -> None:
        self.keycloak = keycloak
        self.name = name
        self.keys = keys
        """The key pairs of its clients, by the ids of the clients."""
        self._client = client

    def url(self, base: str | None = None) -> str:
        """Return the issuer, which depends on the address by which Keycloak is reached."""
        return f"{base or self.keycloak.url}/realms/{self.name}"

    def request_token(
        self,
        client: str = "backend-inline",
        *,
        scope: str = "system/*.rs",
        algorithm: str = "ES384",
        keys: KeySet | None = None,
        base: str | None = None,
    ) -> httpx.Response:
        """Return the response of the token endpoint to a client of SMART Backend Services."""
        endpoint = f"{self.url(base)}/protocol/openid-connect/token"
        key = next(key for key in keys or self.keys[client] if key.alg == algorithm)
        form = {"grant_type": "client_credentials", "scope": scope}
        return self._client.post(endpoint, data=form | _assertion(client, endpoint, key))

    def token(self, client: str = "backend-inline", **options: Any) -> str:
        """Return an access token."""
        return str(self.request_token(client, **options).raise_for_status().json()["access_token"])

    def key_ids(self, use: str) -> list[str]:
        """Return the ids of the keys that the realm publishes for `sig` or `enc`."""
        jwks = self._client.get(f"{self.url()}/protocol/openid-connect/certs").json()
        return [key["kid"] for key in jwks["keys"] if key["use"] == use]

    def rotate(self) -> None:
        """Sign with a new key from now on, and withdraw the old one."""
        provider = {"type": "org.keycloak.keys.KeyProvider"}
        old = self.keycloak.admin("GET", f"/{self.name}/components", params=provider).json()
        self.keycloak.admin(
            "POST",
            f"/{self.name}/components",
            json={
                "name": "newer",
                "providerId": "rsa-generated",
                "providerType": provider["type"],
                "config": {"priority": ["1000"], "algorithm": ["RS256"]},
            },
        )
        for component in old:
            if component["providerId"] == "rsa-generated":
                self.keycloak.admin("DELETE", f"/{self.name}/components/{component['id']}")

    def add_client(self, **attributes: str) -> str:
        """Add a client like `backend-inline`, but for some attributes, and return its id."""
        found = self._found_client("backend-inline")
        name = f"client-{uuid.uuid4().hex[:8]}"
        self.keys[name] = self.keys["backend-inline"]
        copied = ("defaultClientScopes", "optionalClientScopes", "clientAuthenticatorType")
        document = {
            **{member: found[member] for member in copied},
            "clientId": name,
            "serviceAccountsEnabled": True,
            "standardFlowEnabled": False,
            "attributes": found["attributes"] | attributes,
        }
        self.keycloak.admin("POST", f"/{self.name}/clients", json=document)
        return name

    def secret(self, client: str) -> str:
        """Return the secret of a client."""
        return str(self._found_client(client)["secret"])

    def _found_client(self, client: str) -> dict[str, Any]:
        path, query = f"/{self.name}/clients", {"clientId": client}
        return dict(self.keycloak.admin("GET", path, params=query).json()[0])

    def revoke(self, token: str) -> None:
        """Revoke a token (RFC 7009) of `backend-inline`, as this client does."""
        endpoint = f"{self.url()}/protocol/openid-connect/revoke"
        key = next(iter(self.keys["backend-inline"]))
        form = {"token": token} | _assertion("backend-inline", self.url(), key)
        self._client.post(endpoint, data=form).raise_for_status()


def _assertion(client: str, audience: str, key: Any) -> dict[str, str]:
    now = int(time.time())
    claims = {
        "iss": client,
        "sub": client,
        "aud": audience,
        "iat": now,
        "exp": now + 240,
        "jti": str(uuid.uuid4()),
    }
    header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
    return {
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": jwt.encode(header, claims, key, algorithms=[key.alg]),
    }


def header_of(token: str) -> dict[str, Any]:
    """Return the header of a token without verifying anything."""
    return dict(jws.extract_compact(token.encode()).protected)


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token without verifying anything."""
    return dict(json.loads(jws.extract_compact(token.encode()).payload or b""))


@contextmanager
def keycloak(folder: Path) -> Iterator[Keycloak]:
    """Yield the Keycloak of all processes that name this folder."""
    if not KEYCLOAK.exists():
        absent(NO_KEYCLOAK, obtainable=maven.is_installed())
    environ = {
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
    }
    with shared_server(folder, _command, ready="/realms/master", environ=environ) as url:
        server = Keycloak(url)
        try:
            yield server
        finally:
            server.close()


def _command(port: int, management: int) -> list[str]:
    ports = (f"--http-port={port}", f"--http-management-port={management}")
    return [str(KEYCLOAK / "bin/kc.sh"), *_START, *ports]


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    install()
