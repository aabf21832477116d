"""An OpenID Connect issuer on this machine: a real HTTP server with keys of its own."""

import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

DISCOVERY = "/realm/.well-known/openid-configuration"
KEYS = "/realm/keys"
INTROSPECTION = "/realm/introspection"

SIGNING = ("RS256", "RS384", "ES256", "ES384", "PS256")

Key = RSAKey | ECKey | OctKey


@cache
def key_pair(kid: str, algorithm: str = "RS256") -> Key:
    """Return the key pair of that id, the same for every issuer of this process."""
    match algorithm[:2]:
        case "ES":
            return ECKey.generate_key(f"P-{algorithm[2:]}", {"kid": kid})
        case _:
            return RSAKey.generate_key(2048, {"kid": kid})


def sign(header: Mapping[str, Any], claims: Mapping[str, Any] | bytes, key: Key) -> str:
    """Return a compact JWS of whatever is asked for, right or wrong."""
    algorithm = header["alg"]
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jws.serialize_compact(dict(header), payload, key, registry=registry)


class Issuer:
    """What an issuer publishes, and the tokens that it signs; both can be changed at any time."""

    audience = "http://fhir.example.org"

    def __init__(self) -> None:
        self.url = ""
        self.keys = {f"key-{name}": key_pair(f"key-{name}", name) for name in SIGNING}
        self.published: list[dict[str, Any]] | None = None
        """The JWK Set's keys where they are not those it signs with."""
        self.algorithms: dict[str, str] = {f"key-{name}": name for name in SIGNING}
        self.headers: dict[str, str] = {"Cache-Control": "max-age=300"}
        self.discovery: dict[str, Any] = {}
        """What the discovery document has otherwise than usual."""
        self.answers: dict[str, tuple[int, bytes]] = {}
        """Statuses and bodies instead of the usual ones, by path."""
        self.inactive: set[str] = set()
        """Tokens that have been revoked."""
        self.asked = Counter[str]()
        """How often each path was requested."""
        self.credentials: list[str] = []
        """Authorization headers of requests for introspection."""
        self.may_answer = threading.Event()
        """Requests wait for it."""
        self.may_answer.set()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a token that is valid for a minute; None removes one."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "service-account",
            "azp": "client-1",
            "scope": "system/*.rs",
            "iat": now,
            "exp": now + 60,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, algorithm: str = "RS256", *, header: Mapping[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a token, signed with the key of that algorithm."""
        kid = next(kid for kid, name in reversed(self.algorithms.items()) if name == algorithm)
        full = {"alg": algorithm, "kid": kid, "typ": "JWT", **(header or {})}
        present = {name: value for name, value in full.items() if value is not None}
        return sign(present, self.claims(**claims), self.keys[kid])

    def rotate(self, kid: str) -> None:
        """Sign RS256 with a new key from now on, and publish it instead of the old one."""
        for old in [old for old, name in self.algorithms.items() if name == "RS256"]:
            del self.keys[old], self.algorithms[old]
        self.keys[kid] = key_pair(kid, "RS256")
        self.algorithms[kid] = "RS256"

    def jwks(self) -> dict[str, Any]:
        """Return the JWK Set."""
        if self.published is not None:
            return {"keys": self.published}
        return {"keys": [public(kid, key) for kid, key in self.keys.items()]}

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of a response."""
        if path in self.answers:
            return self.answers[path]
        match path:
            case _ if path == DISCOVERY:
                document: Mapping[str, Any] = {
                    "issuer": self.url,
                    "jwks_uri": self.url.removesuffix("/realm") + KEYS,
                    "token_endpoint": f"{self.url}/token",
                    "authorization_endpoint": f"{self.url}/authorize",
                    "introspection_endpoint": f"{self.url}/introspection",
                    **self.discovery,
                }
            case _ if path == KEYS:
                document = self.jwks()
            case _ if path == INTROSPECTION:
                token = dict(parse_qsl(body.decode())).get("token")
                document = {"active": token not in self.inactive}
            case _:
                return 404, b""
        return 200, json.dumps(document).encode()


def public(kid: str, key: Key, **members: Any) -> dict[str, Any]:
    """Return a public key as an issuer publishes it."""
    return {**key.as_dict(private=False), "kid": kid, "use": "sig", **members}


@contextmanager
def serving(issuer: Issuer, tls: ssl.SSLContext | None = None) -> Iterator[Issuer]:
    """Serve an issuer, over TLS if there is a context; nothing answers there afterwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            issuer.asked[self.path] += 1
            issuer.may_answer.wait(30)
            if "Authorization" in self.headers:
                issuer.credentials.append(self.headers["Authorization"])
            length = int(self.headers.get("Content-Length", 0))
            status, body = issuer.answer(self.path, self.rfile.read(length))
            self.send_response(status)
            for name, value in issuer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  as the server looks for it

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            # A client that does not wait for the end is not an error of the server.
            with suppress(OSError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    issuer.url = f"{scheme}://127.0.0.1:{server.server_port}/realm"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()
