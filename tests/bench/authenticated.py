"""What access tokens cost: the same exports, downloads and polls with and without them."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import processor
import server
import verification
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from rows import MEGABYTE, Rows

CLIENT = "bench"
SETTINGS = {"HFS_AUTH_ENABLED": "true", "HFS_AUTH_PROVIDER": "smart"}
OPEN, WITH_TOKENS = "open", "with tokens"
SYSTEM = "/$export"
POLLS = 200
REPEATS = 5
"""How often one server is measured before the other one's turn; each turn counts as its median."""
FIGURES = (
    ("export", "/s", 0.95),
    ("download", " MB/s", 0.95),
    ("polls", "/s", None),
    ("polls of a second of processor time", "", None),
)
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
        for run in range(self._runs):
            turns = [(OPEN, self._serve_without), (WITH_TOKENS, self._serve_with_tokens)]
            for name, serve in turns if run % 2 == 0 else reversed(turns):
                with serve() as running:
                    self._measure(running, figures[name])
        for what, unit, target in FIGURES:
            # Of what was measured one after the other, so that a slow minute slows both.
            turns = zip(figures[WITH_TOKENS][what], figures[OPEN][what], strict=True)
            ratios = sorted(with_tokens / unprotected for with_tokens, unprotected in turns)
            ratio, with_tokens = map(statistics.median, (ratios, figures[WITH_TOKENS][what]))
            spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            measured = f"{with_tokens:,.0f}{unit}, {ratio:.2f} of open {spread}"
            name = f"with authentication, {what}"
            if target is None:
                rows.add(name, measured)
            else:
                rows.add(name, measured, f">= {target}", met=ratio >= target)
        verification.add_to(rows, self._data)

    @staticmethod
    def _measure(running: server.Server, figures: dict[str, list[float]]) -> None:
        """Add the median of each figure of a server; what it does first counts for nothing."""
        exports, downloads = [], []
        running.delete(running.export(SYSTEM).status)
        for repeat in range(REPEATS):
            export = running.export(SYSTEM)
            exports.append(export.rate)
            if repeat + 1 < REPEATS:
                running.delete(export.status)
        running.download(export)
        running.polls_per_second(export.status, POLLS)
        for _ in range(REPEATS):
            started = time.perf_counter()
            size = running.download(export)
            downloads.append(size / MEGABYTE / (time.perf_counter() - started))
        with processor.using(running.pid) as used:
            polls = [running.polls_per_second(export.status, POLLS) for _ in range(REPEATS)]
        running.delete(export.status)
        measured = (exports, downloads, polls, [POLLS * REPEATS / used.seconds])
        for (name, *_), values in zip(FIGURES, measured, strict=True):
            figures[name].append(statistics.median(values))

    def _serve_without(self) -> AbstractContextManager[server.Server]:
        return server.serve(self._data)

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
