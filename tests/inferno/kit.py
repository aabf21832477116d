"""
What the Inferno Bulk Data test kit sends and asserts, request by request.

The requests are those of the kit's suites v2.0.0 and v1.0.1: their methods, headers, parameters,
the order in which they come, and what is kept from one for the next. The kit itself is Ruby and
cannot be run from the test suite.
"""

import re
import secrets
import ssl
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import Key

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE = "system/*.read"
FHIR_JSON = "application/fhir+json"
POLL_LIMIT_SECONDS = 600
RENEWED_SECONDS = 60
"""How long before its end a token is renewed; one that lives no longer is used once."""
OLD_VERSIONS = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
NEW_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@dataclass(frozen=True)
class Export:
    """What one level's export has left for later tests."""

    kit: "Kit"
    status: httpx.Response

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return list(self.status.json()["output"])

    @property
    def requires_access_token(self) -> bool:
        return bool(self.status.json()["requiresAccessToken"])

    @cached_property
    def files(self) -> list[tuple[str, httpx.Response]]:
        """The type that each output item names, and its download."""
        headers = self.kit.bearer if self.requires_access_token else {}
        return [(item["type"], self.kit.download(item["url"], headers)) for item in self.outputs]


@dataclass(frozen=True)
class Target:
    """A server, and a client that it knows."""

    base: str
    group: str
    client_id: str
    key: Key
    issued_at: bool = False
    """Whether assertions need `iat`; the kit sends none, and Keycloak refuses that."""
    requires_access_token: bool = True
    """What the manifests of this server must say."""
    jku: str | None = None
    """The address of keys that the kit names when it renews a token, if it has registered any."""


class Kit:
    """One run of a suite against a server."""

    def __init__(self, target: Target, *, authority: str) -> None:
        self.base = target.base
        self.target = target
        self._authority = authority
        self.http = httpx.Client(
            verify=ssl.create_default_context(cafile=authority),
            timeout=300,
            follow_redirects=True,
            trust_env=False,
        )
        self.configuration = self.http.get(
            f"{self.base}/.well-known/smart-configuration", headers={"Accept": "application/json"}
        )
        self._token, self._renew_at = "", 0.0

    def close(self) -> None:
        self.http.close()

    @property
    def token_url(self) -> str:
        return str(self.configuration.json()["token_endpoint"])

    def request_token(
        self, *, key: Key | None = None, jku: str | None = None, **changes: str
    ) -> httpx.Response:
        """Ask for a token, signing with the client's key; `changes` replace fields of the form."""
        client_id, key = self.target.client_id, key or self.target.key
        header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"} | ({"jku": jku} if jku else {})
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": client_id,
            "sub": client_id,
            "aud": self.token_url,
            "exp": now + 300,
            "jti": secrets.token_hex(32),
        }
        if self.target.issued_at:
            claims["iat"] = now
        assertion = jwt.encode(header, claims, key, algorithms=[str(key.alg)])
        form = {
            "scope": SCOPE,
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        headers = {"Accept": "application/json"}
        return self.http.post(self.token_url, data=form | changes, headers=headers)

    @property
    def bearer(self) -> dict[str, str]:
        """The token as a header, renewed as the kit does: while it is good for a minute more."""
        if time.monotonic() >= self._renew_at:
            issued = self.request_token(jku=self.target.jku).raise_for_status().json()
            self._token = issued["access_token"]
            self._renew_at = time.monotonic() + float(issued["expires_in"]) - RENEWED_SECONDS
        return {"Authorization": f"Bearer {self._token}"}

    def kick_off_url(self, level: str) -> str:
        path = {"group": f"/Group/{self.target.group}/$export", "patient": "/Patient/$export"}
        return f"{self.base}{path.get(level, '/$export')}"

    def kick_off(self, level: str, *, token: bool = True, query: str = "") -> httpx.Response:
        headers = {"Accept": FHIR_JSON, "Prefer": "respond-async"}
        if token:
            headers |= self.bearer
        return self.http.get(self.kick_off_url(level) + query, headers=headers)

    def raw_kick_off(self, level: str, authorization: str) -> tuple[int, str | None]:
        """Return the status and the challenge for a header that httpx would not send."""
        parts = urlsplit(self.kick_off_url(level))
        connection = HTTPSConnection(
            parts.hostname or "",
            parts.port,
            context=ssl.create_default_context(cafile=self._authority),
            timeout=300,
        )
        headers = {"Authorization": authorization, "Prefer": "respond-async"}
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        connection.close()
        return response.status, response.headers["www-authenticate"]

    def delete(self, status_url: str) -> httpx.Response:
        headers = {"Accept": "application/json"} | self.bearer
        return self.http.delete(status_url, headers=headers)

    def poll(self, status_url: str) -> httpx.Response:
        """Poll as the kit does, until something other than 202 comes."""
        waited, pause = 0.0, 2.0
        while waited <= POLL_LIMIT_SECONDS:
            headers = {"Accept": "application/json"} | self.bearer
            response = self.http.get(status_url, headers=headers)
            if response.status_code != httpx.codes.ACCEPTED:
                return response
            named = response.headers.get("retry-after", "")
            seconds = int(named) if re.fullmatch(r"[1-9]\d*", named) else pause
            pause *= 2
            time.sleep(seconds)
            waited += seconds
        raise AssertionError("the export took longer than the kit waits")

    def export(self, level: str) -> Export:
        started = self.kick_off(level)
        assert started.status_code == httpx.codes.ACCEPTED, started.text
        return Export(self, self.poll(started.headers["content-location"]))

    def download(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        return self.http.get(url, headers={"Accept": "application/fhir+ndjson", **headers})

    def spoken_versions(self, url: str) -> set[ssl.TLSVersion]:
        return spoken_versions(url, self._authority)


def spoken_versions(url: str, authority: str) -> set[ssl.TLSVersion]:
    """Return the versions of TLS in which a request to a URL is answered at all."""
    spoken = set()
    for version in (*OLD_VERSIONS, *NEW_VERSIONS):
        context = ssl.create_default_context(cafile=authority)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        try:
            with httpx.Client(verify=context, timeout=300, trust_env=False) as client:
                client.get(url)
        except httpx.ConnectError:
            continue
        spoken.add(version)
    return spoken
