# ruff: noqa: INP001  a script that stands alone
"""
Print an access token, as a client of SMART Backend Services gets it.

    python get_token.py ADDRESS CLIENT KEYS [SCOPE ...]

ADDRESS is the base URL of the FHIR server or the address of the realm, and KEYS the file with the
client's private key: PEM, a JWK or a JWK set, whose first key is used.
"""

import argparse
import json
import sys
import time
import uuid
from pathlib import Path

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

ALGORITHMS = {"EC": "ES384", "RSA": "RS384"}


def main() -> None:
    """Print the token."""
    parser = argparse.ArgumentParser(description="Print an access token.")
    parser.add_argument("address")
    parser.add_argument("client")
    parser.add_argument("keys", type=Path)
    parser.add_argument("scopes", nargs="*", metavar="SCOPE", default=["system/*.rs"])
    options = parser.parse_args()
    endpoint = find_endpoint(options.address.rstrip("/"))
    key = read_key(options.keys.read_text())
    algorithm = ALGORITHMS[key.key_type]
    now = int(time.time())
    assertion = {
        "iss": options.client,
        "sub": options.client,
        "aud": endpoint,
        # Keycloak refuses an assertion without it that is valid for more than a minute.
        "iat": now,
        "exp": now + 240,
        "jti": str(uuid.uuid4()),
    }
    header = {"alg": algorithm, "kid": key.kid or key.thumbprint(), "typ": "JWT"}
    response = httpx.post(
        endpoint,
        data={
            "grant_type": "client_credentials",
            "scope": " ".join(options.scopes),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode(header, assertion, key, algorithms=[algorithm]),
        },
    )
    if response.is_error:
        sys.exit(f"the token endpoint returned {response.status_code}: {response.text}")
    sys.stdout.write(response.json()["access_token"] + "\n")


def find_endpoint(address: str) -> str:
    """Return the token endpoint that a FHIR server, or else an OpenID Connect issuer, names."""
    try:
        found = httpx.get(f"{address}/.well-known/smart-configuration")
        if found.is_error:
            found = httpx.get(f"{address}/.well-known/openid-configuration").raise_for_status()
        return str(found.json()["token_endpoint"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        sys.exit(f"{address} names no token endpoint ({error!r}); is it running?")


def read_key(text: str) -> ECKey | RSAKey:
    """Return the first private key of a file."""
    if not text.startswith("-----BEGIN"):
        document = json.loads(text)
        member = document.get("keys", [document])[0]
        return (ECKey if member["kty"] == "EC" else RSAKey).import_key(member)
    try:
        return ECKey.import_key(text)
    except (JoseError, ValueError, TypeError):
        return RSAKey.import_key(text)


if __name__ == "__main__":
    main()
