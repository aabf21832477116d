"""What it costs to verify an access token whose key is known, in processor time."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import RSAKey
from rows import Rows

from helios_keycloak_auth.settings import Algorithm
from helios_keycloak_auth.tokens import TokenClaims, read_header
from helios_smart_auth.access_tokens import AccessTokens, Issuer
from helios_smart_auth.clients import Client, Clients
from helios_smart_auth.signing_keys import SigningKeys
from helios_sqlite import SQLiteSettings, open_job_store

TOKENS = 100
BATCHES = 5
BASE = "https://fhir.example.org"
SCOPES = ("system/*.rs",)
GOAL = 0.3


def add_to(rows: Rows, folder: Path) -> None:
    """Measure tokens of both algorithms, and what of it is the library's."""
    first, again = asyncio.run(_embedded(folder))
    library = asyncio.run(_library())
    measured = f"{first:.2f} ms, {library:.2f} ms of it in OpenSSL; {again:.4f} ms from then on"
    rows.add("token at first sight, ES384", measured, f"< {GOAL} ms", met=first < GOAL)
    of_rsa = asyncio.run(_rsa())
    rows.add("token at first sight, RS256", f"{of_rsa:.2f} ms", f"< {GOAL} ms", met=of_rsa < GOAL)


async def _embedded(folder: Path) -> tuple[float, float]:
    """Return the milliseconds that a token of the embedded issuer takes at first, and then."""
    async with open_job_store(SQLiteSettings(data_dir=str(folder))) as store:
        keys, clients = SigningKeys(store), Clients(store)
        client = Client(id=f"bench-{uuid4().hex}", scopes=SCOPES, keys=({},))
        await clients.add(client)
        issuer = Issuer(keys, valid_for=300)
        verifier = AccessTokens(keys, clients, base_url=BASE)
        await verifier.verify(await issuer.issue(client, SCOPES, BASE))
        tokens = [await issuer.issue(client, SCOPES, BASE) for _ in range(TOKENS * BATCHES)]
        first = await _median(verifier.verify, tokens)
        again = await _median(verifier.verify, tokens)
        await clients.remove(client.id)
        return first, again


async def _rsa() -> float:
    """Return the milliseconds for a token of another issuer, as most of these sign them."""
    key = RSAKey.generate_key(2048, {"kid": "bench"})
    known = TokenClaims(issuer=BASE, audience=[BASE], tenant_claim="tenant", clock=time.time)
    now = int(time.time())
    claims = {"iss": BASE, "aud": BASE, "sub": "bench", "exp": now + 300, "scope": SCOPES[0]}
    token = jwt.encode({"alg": "RS256", "kid": "bench", "typ": "JWT"}, claims, key)

    async def verify(token: str) -> None:
        known.verify(token, read_header(token, [Algorithm.RS256]), key)

    return await _median(verify, [token] * TOKENS * BATCHES)


async def _library() -> float:
    """Return the milliseconds that the library takes for a signature on P-384, and no more."""
    key = ec.generate_private_key(ec.SECP384R1())
    public, scheme, message = key.public_key(), ec.ECDSA(hashes.SHA384()), b"x" * 500
    signature = key.sign(message, scheme)

    async def verify(_: str) -> None:
        public.verify(signature, message, scheme)

    return await _median(verify, [""] * TOKENS * BATCHES)


async def _median(verify: Callable[[str], Awaitable[object]], tokens: list[str]) -> float:
    """Return the milliseconds of processor time for one token, in the median batch."""
    times = []
    for start in range(0, len(tokens), TOKENS):
        began = time.process_time()
        for token in tokens[start : start + TOKENS]:
            await verify(token)
        times.append((time.process_time() - began) / TOKENS * 1000)
    return statistics.median(times)
