"""Servers that let in who has a token, all over TLS: what a hospital would put on its network."""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import trustme
from joserfc.jwk import ECKey, Key, KeySet, RSAKey

from tests.keycloaks import Keycloak
from tests.processes import Site
from tests.proxies import Proxy
from tests.services import free_port

CLIENT = "backend"
SCOPE = "system/*.read"
KEY_SETS = ("suite.json", "core.json")
"""Where a client publishes its keys: Inferno names another one when it renews its token."""


@dataclass(frozen=True)
class Secured:
    """A server, and a client that it knows."""

    site: Site
    base: str
    client_id: str
    keys: Mapping[str, Key]
    """The client's key pairs, by algorithm."""
    issued_at: bool = False
    """Whether assertions need `iat`, as they do for Keycloak."""
    jku: str | None = None
    """One of the addresses of the client's keys, if they are read from there."""


class Certificates:
    """An authority of the test run, and a certificate of this machine."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.authority = str(folder / "authority.pem")
        self.certificate = str(folder / "certificate.pem")
        self.key = str(folder / "key.pem")
        authority.cert_pem.write_to_path(self.authority)
        Path(self.certificate).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)

    @property
    def settings(self) -> dict[str, str]:
        return {"HFS_TLS_CERT": self.certificate, "HFS_TLS_KEY": self.key}

    def before(self, url: str) -> Proxy:
        """Return a proxy that ends TLS in front of a server that has none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return Proxy((parts.hostname, parts.port), tls=context)


@contextmanager
def a_site(
    folder: Path, certificates: Certificates, source: Path, **settings: str
) -> Iterator[Site]:
    """Load resources into a new site, and end all its processes afterwards."""
    site = Site(folder, **certificates.settings, SSL_CERT_FILE=certificates.authority, **settings)
    try:
        site.run("migrate")
        site.run("load", str(source))
        yield site
    finally:
        site.end()


def key_pairs() -> dict[str, Key]:
    """Return a key for each algorithm that SMART names."""
    return {
        "ES384": ECKey.generate_key("P-384", {"alg": "ES384", "use": "sig"}, auto_kid=True),
        "RS384": RSAKey.generate_key(2048, {"alg": "RS384", "use": "sig"}, auto_kid=True),
    }


class _Published(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave the output of the tests alone."""


@contextmanager
def published(folder: Path) -> Iterator[str]:
    """Serve the files of a folder, and yield the address."""
    handler = partial(_Published, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def embedded(
    folder: Path,
    certificates: Certificates,
    source: Path,
    *,
    by_address: bool = False,
    **settings: str,
) -> Iterator[Secured]:
    """Serve with the embedded issuer, and one client: its keys are registered or published."""
    keys = key_pairs()
    public = folder / "public"
    public.mkdir()
    for name in KEY_SETS:
        (public / name).write_text(json.dumps(KeySet(list(keys.values())).as_dict(private=False)))
    authentication = {"HFS_AUTH_ENABLED": "true", "HFS_AUTH_PROVIDER": "smart"}
    options, jku = ["--jwks", str(public / KEY_SETS[0])], None
    with ExitStack() as stack:
        if by_address:
            authentication["HFS_SMART_AUTH_JWKS_ALLOW_PRIVATE"] = "true"
            front = stack.enter_context(
                certificates.before(stack.enter_context(published(public)))
            )
            urls = [f"{front.url}/{name}" for name in KEY_SETS]
            options, jku = [word for url in urls for word in ("--jwks-url", url)], urls[-1]
        site = stack.enter_context(
            a_site(folder, certificates, source, **authentication, **settings)
        )
        site.run("clients", "add", CLIENT, *options, "--scope", SCOPE)
        _, client = site.serve()
        yield Secured(site, client.base_url, CLIENT, keys, jku=jku)


@contextmanager
def by_keycloak(
    folder: Path,
    certificates: Certificates,
    source: Path,
    server: Keycloak,
    *,
    attributes: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Secured]:
    """Serve with the tokens of Keycloak, for a client with `attributes` of its own."""
    base = f"https://127.0.0.1:{free_port()}"
    with certificates.before(server.url) as front, server.realm(audience=base) as realm:
        server.admin("PUT", f"/{realm.name}", json={"attributes": {"frontendUrl": front.url}})
        client_id = realm.add_client(**attributes) if attributes else "backend-inline"
        authentication = {
            "HFS_SERVER_PORT": base.rpartition(":")[2],
            "HFS_BASE_URL": base,
            "HFS_AUTH_ENABLED": "true",
            "HFS_AUTH_PROVIDER": "keycloak",
            "HFS_AUTH_ISSUER": realm.url(front.url),
            "HFS_AUTH_AUDIENCE": base,
        }
        with a_site(folder, certificates, source, **authentication, **settings) as site:
            site.serve()
            keys = {str(key.alg): key for key in realm.keys[client_id]}
            yield Secured(site, base, client_id, keys, issued_at=True)


@contextmanager
def behind_tls(certificates: Certificates, bucket: Any) -> Iterator[dict[str, str]]:
    """Yield the settings of output in a bucket whose server is reached over TLS."""
    with certificates.before(bucket.endpoint) as front:
        yield bucket.settings | {
            "HFS_BULK_EXPORT_S3_ENDPOINT": front.url,
            "AWS_CA_BUNDLE": certificates.authority,
        }
