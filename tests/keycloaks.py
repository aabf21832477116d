"""
A real Keycloak for the tests: installed, started once for a test run, with a realm for each test.

    python -m tests.keycloaks

installs it from Maven Central into the user's cache folder and reports what it does.
"""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
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

from tests.pace import Deadline
from tests.reaper import VARIABLE
from tests.services import absent, free_port

VERSION = "26.5.6"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "helios"
KEYCLOAK = CACHE / f"keycloak-{VERSION}"
NO_KEYCLOAK = (
    f"there is no Keycloak {VERSION}: `make services` installs it where there are Java and Maven"
)
START_SECONDS = 600
"""It needs 30 s on a machine that does nothing else."""

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs/examples/keycloak"
ADMIN = "admin"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_BUILD = ("build", "--db=dev-mem", "--health-enabled=true")
_START = (
    *("start", "--optimized", "--cache=local", "--log-level=WARN"),
    *("--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1"),
)


def can_be_installed() -> bool:
    """Return whether this machine has what Keycloak needs."""
    return all(map(shutil.which, ("mvn", "java")))


def install() -> None:
    """Install Keycloak into the cache folder, unless it is there, and report what happens."""
    if KEYCLOAK.exists():
        click.echo(f"Keycloak is in {KEYCLOAK} already.")
        return
    if not can_be_installed():
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

    def revoke(self, token: str, client: str = "backend-inline") -> None:
        """Revoke a token (RFC 7009), as its client does."""
        endpoint = f"{self.url()}/protocol/openid-connect/revoke"
        key = next(iter(self.keys[client]))
        form = {"token": token} | _assertion(client, self.url(), key)
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
    """
    Yield the Keycloak of all processes that name this folder.

    The first one starts it; it stops when the last one has left, or has ended in whatever way.
    """
    if not KEYCLOAK.exists():
        absent(NO_KEYCLOAK, obtainable=can_be_installed())
    with (folder / "users").open("w") as users:
        # Every user shares this lock, and a keeper stops the server when it has it for itself.
        fcntl.flock(users, fcntl.LOCK_SH)
        server = Keycloak(_started(folder))
        try:
            yield server
        finally:
            server.close()


def _started(folder: Path) -> str:
    address = folder / "url"
    with (folder / "starting").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not address.exists():
            (folder / "ended").unlink(missing_ok=True)
            port, management = free_port(), free_port()
            url = f"http://127.0.0.1:{port}"
            _start_keeper(folder, port, management)
            _wait_for(f"{url}/realms/master", folder)
            address.write_text(url)
        return address.read_text()


def _start_keeper(folder: Path, port: int, management: int) -> None:
    """Start what outlives this process where others still use the server."""
    keeper = [sys.executable, "-m", "tests.keycloaks", str(folder), str(port), str(management)]
    with (folder / "keeper.log").open("wb") as log:
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", *keeper],
            check=True,
            cwd=ROOT,
            # Other runs may use it when this one has ended; the keeper knows when nobody does.
            env={name: value for name, value in os.environ.items() if name != VARIABLE},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _wait_for(url: str, folder: Path) -> None:
    deadline = Deadline(START_SECONDS)
    while not deadline.has_passed() and not (folder / "ended").exists():
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=START_SECONDS).status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    raise AssertionError(f"Keycloak did not start:\n{(folder / 'log').read_text()}")


def _keep(folder: Path, port: str, management: str) -> None:
    """Run Keycloak until nobody uses it."""
    environ = {
        **os.environ,
        "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN,
    }
    ports = (f"--http-port={port}", f"--http-management-port={management}")
    with (folder / "log").open("wb") as log, (folder / "users").open("r") as users:
        server = subprocess.Popen(
            [KEYCLOAK / "bin/kc.sh", *_START, *ports],
            stdout=log,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
        while server.poll() is None:
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.5)
        (folder / "ended").touch()
        (folder / "url").unlink(missing_ok=True)
        # Java is a child of the script.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _keep(Path(sys.argv[1]), *sys.argv[2:])
    else:
        install()
