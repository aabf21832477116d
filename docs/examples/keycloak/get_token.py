# ruff: noqa: INP001  a script that stands alone
"""
Print an access token, as a client of SMART Backend Services gets it.

    python get_token.py ISSUER CLIENT KEYS [SCOPE ...]

ISSUER is the address of the realm, and KEYS the client's file of private keys (JWK Set).
"""

import argparse
import json
import sys
import time
import uuid
from pathlib import Path

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet


def main() -> None:
    """Print the token."""
    parser = argparse.ArgumentParser(description="Print an access token.")
    parser.add_argument("issuer")
    parser.add_argument("client")
    parser.add_argument("keys", type=Path)
    parser.add_argument("scopes", nargs="*", metavar="SCOPE", default=["system/*.rs"])
    options = parser.parse_args()
    url = f"{options.issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        endpoint = httpx.get(url).raise_for_status().json()["token_endpoint"]
    except httpx.HTTPError as error:
        sys.exit(f"{url} cannot be read ({error}); is the issuer running?")
    key = KeySet.import_key_set(json.loads(options.keys.read_text())).keys[0]
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
    header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
    response = httpx.post(
        endpoint,
        data={
            "grant_type": "client_credentials",
            "scope": " ".join(options.scopes),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode(header, assertion, key, algorithms=[str(key.alg)]),
        },
    )
    if response.is_error:
        sys.exit(f"the token endpoint returned {response.status_code}: {response.text}")
    sys.stdout.write(response.json()["access_token"] + "\n")


if __name__ == "__main__":
    main()
