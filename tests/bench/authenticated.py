"""What access tokens cost: the same exports, downloads and polls with and without them."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import server
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from rows import MEGABYTE, Rows

CLIENT = "bench"
SETTINGS = {"HFS_AUTH_ENABLED": "true", "HFS_AUTH_PROVIDER": "smart"}
OPEN, WITH_TOKENS = "open", "with tokens"
SYSTEM = "/$export"
POLLS = 300
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Authenticated:
    """Compares a server that needs tokens with one that needs none, by turns."""

    def __init__(self, data: Path, runs: int) -> None:
        self._data = data
        self._runs = runs
        self._key = ECKey.generate_key("P-384", {"alg": "ES384", "use": "sig"}, auto_kid=True)

    def add_to(self, rows: Rows) -> None:
        """Measure, and add what was measured to the table."""
        public = self._data / "bench-keys.json"
        public.write_text(json.dumps(KeySet([self._key]).as_dict(private=False)))
        server.register(self._data, CLIENT, public, **SETTINGS)
        figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(self._runs):
            with server.serve(self._data) as running:
                self._measure(running, figures[OPEN])
            with self._serve_with_tokens() as running:
                self._measure(running, figures[WITH_TOKENS])
        for what, target in (("export", 0.95), ("download", 0.95), ("polls", None)):
            with_tokens = statistics.median(figures[WITH_TOKENS][what])
            ratio = with_tokens / statistics.median(figures[OPEN][what])
            unit = {"export": "/s", "download": " MB/s", "polls": "/s"}[what]
            measured = f"{with_tokens:,.0f}{unit}, {ratio:.2f} of open"
            name = f"with authentication, {what}"
            if target is None:
                rows.add(name, measured)
            else:
                rows.add(name, measured, f">= {target}", met=ratio >= target)

    @staticmethod
    def _measure(running: server.Server, figures: dict[str, list[float]]) -> None:
        running.delete(running.export(SYSTEM).status)
        export = running.export(SYSTEM)
        figures["export"].append(export.rate)
        started = time.perf_counter()
        size = running.download(export)
        figures["download"].append(size / MEGABYTE / (time.perf_counter() - started))
        figures["polls"].append(running.polls_per_second(export.status, POLLS))
        running.delete(export.status)

    @contextmanager
    def _serve_with_tokens(self) -> Iterator[server.Server]:
        with server.serve(self._data, **SETTINGS) as running:
            running.authorization = {"Authorization": f"Bearer {self._token(running.url)}"}
            yield running

    def _token(self, base: str) -> str:
        endpoint = httpx.get(f"{base}/.well-known/smart-configuration").json()["token_endpoint"]
        now = int(time.time())
        claims = {"iss": CLIENT, "sub": CLIENT, "aud": endpoint, "exp": now + 200, "jti": str(now)}
        header = {"alg": "ES384", "kid": self._key.kid, "typ": "JWT"}
        form = {
            "grant_type": "client_credentials",
            "scope": "system/*.rs",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": jwt.encode(header, claims, self._key, algorithms=["ES384"]),
        }
        response = httpx.post(endpoint, data=form).raise_for_status()
        return str(response.json()["access_token"])
