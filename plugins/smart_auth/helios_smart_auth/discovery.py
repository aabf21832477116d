"""The discovery document of this issuer, and the URLs of its routes."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from helios_smart_auth.public_keys import ALGORITHMS

PREFIX: Final = "/_plugins/smart_auth"
TOKEN_PATH: Final = "/token"  # noqa: S105  a path
JWKS_PATH: Final = "/jwks.json"
AUTHORIZE_PATH: Final = "/authorize"


def address(base: str, path: str) -> str:
    """Return the URL of a route of this plugin below the base URL."""
    return f"{base}{PREFIX}{path}"


def issuer_of(base: str, base_url: str | None) -> str:
    """
    Return the issuer and audience of tokens, the same for all tenants of a server.

    It is the configured base URL, or else the origin that the client used, without its tenant.
    """
    if base_url is not None:
        return base_url.rstrip("/")
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


def smart_configuration(base: str, issuer: str, *, stu2: bool) -> Mapping[str, Any]:
    """
    Return the members of the discovery document (SMART App Launch 2.2, section Conformance).

    `stu2` adds the authorization endpoint that STU 2.0 requires of every server.
    """
    authorization = {
        "authorization_endpoint": address(base, AUTHORIZE_PATH),
        "response_types_supported": ["code"],
    }
    return {
        "issuer": issuer,
        "jwks_uri": address(base, JWKS_PATH),
        **(authorization if stu2 else {}),
        "token_endpoint": address(base, TOKEN_PATH),
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "grant_types_supported": [
            "client_credentials",
            *(["authorization_code"] if stu2 else []),
        ],
        "code_challenge_methods_supported": ["S256"],
        "capabilities": [
            "client-confidential-asymmetric",
            "permission-v1",
            "permission-v2",
        ],
    }
