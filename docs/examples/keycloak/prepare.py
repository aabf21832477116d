# ruff: noqa: INP001  a script that stands alone
"""
Fill in the realm: keys for its clients, and the address of the server.

    python prepare.py FOLDER [--audience URL] [--jwks-url URL]

writes into FOLDER the realm to import (helios-realm.json), the private keys of its clients as JWK
Sets (backend.jwks.json, readonly.jwks.json), each with one for ES384 and one for RS384, and what
a client publishes that keeps its keys at an address (jwks.json). Whoever has a private key is the
client: keep it like a password.
"""

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey, KeySet, RSAKey

HERE = Path(__file__).parent


def key_set() -> KeySet:
    """Return new key pairs for ES384 and RS384."""
    identity = secrets.token_hex(8)
    return KeySet(
        [
            ECKey.generate_key(
                "P-384", {"kid": f"es384-{identity}", "alg": "ES384", "use": "sig"}
            ),
            RSAKey.generate_key(3072, {"kid": f"rs384-{identity}", "alg": "RS384", "use": "sig"}),
        ]
    )


def fill(
    realm: dict[str, Any], *, audience: str, jwks_url: str, keys: dict[str, KeySet]
) -> dict[str, Any]:
    """Return the realm with the audience of its tokens and the public keys of its clients."""
    helios = next(scope for scope in realm["clientScopes"] if scope["name"] == "helios")
    mapper = next(each for each in helios["protocolMappers"] if each["name"] == "audience")
    mapper["config"]["included.custom.audience"] = audience
    for client in realm["clients"]:
        attributes = client.get("attributes", {})
        if "jwks.url" in attributes:
            attributes["jwks.url"] = jwks_url
        if "jwks.string" in attributes:
            attributes["jwks.string"] = json.dumps(keys[client["clientId"]].as_dict())
    return realm


def main() -> None:
    """Write the files, and print their names and those of their keys."""
    parser = argparse.ArgumentParser(description="Fill in the realm.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--audience", default="http://127.0.0.1:8080")
    parser.add_argument("--jwks-url", default="http://127.0.0.1:8090/jwks.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    backend, readonly = key_set(), key_set()
    realm = fill(
        json.loads((HERE / "realm.json").read_text()),
        audience=options.audience,
        jwks_url=options.jwks_url,
        keys={"backend-inline": backend, "readonly": readonly},
    )
    written: dict[str, Any] = {
        "helios-realm.json": realm,
        "jwks.json": backend.as_dict(),
        "backend.jwks.json": backend.as_dict(private=True),
        "readonly.jwks.json": readonly.as_dict(private=True),
    }
    for name, content in written.items():
        path = options.folder / name
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2) + "\n")
        kids = [key["kid"] for key in content.get("keys", ())]
        sys.stdout.write(" ".join([str(path), *kids]) + "\n")


if __name__ == "__main__":
    main()
