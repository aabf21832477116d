"""The issuer's discovery document, and what `.well-known/smart-configuration` takes from it."""

import re
from collections.abc import Mapping
from typing import Any

from helios_core import BackendUnavailable
from helios_keycloak_auth.settings import KeycloakAuthSettings

WELL_KNOWN = "/.well-known/openid-configuration"

CLIENT_ALGORITHMS = ("RS384", "ES384")
"""The algorithms of SMART's client assertions, of which an issuer supports at least one."""

_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s#]*)?")


def discovery_url(issuer: str) -> str:
    """Return the address of an issuer's document (OpenID Connect Discovery 1.0, section 4)."""
    return issuer.removesuffix("/") + WELL_KNOWN


def check_issuer(document: Mapping[str, Any], issuer: str) -> None:
    """
    Check that a discovery document is the issuer's.

    Raises:
        BackendUnavailable: It names another issuer (OpenID Connect Discovery 1.0, section 4.3).
    """
    if document.get("issuer") != issuer:
        raise BackendUnavailable(
            "the issuer in the discovery document is not exactly HFS_AUTH_ISSUER"
        )


def endpoint(document: Mapping[str, Any], name: str) -> str:
    """
    Return the address of an endpoint that a discovery document names.

    Raises:
        BackendUnavailable: The document has no such address, or one that is not http or https.
    """
    url = document.get(name)
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise BackendUnavailable(f"the issuer's discovery document has no address as {name}")
    return url


def smart_members(
    settings: KeycloakAuthSettings, document: Mapping[str, Any] | None
) -> dict[str, Any]:
    """
    Return the members of `.well-known/smart-configuration` that describe the issuer.

    Settings take precedence over the document; `None` stands for no document.

    Raises:
        BackendUnavailable: The document has no token endpoint.
    """
    configured = {
        "token_endpoint": settings.smart_token_endpoint,
        "authorization_endpoint": settings.smart_authorize_endpoint,
        "jwks_uri": settings.smart_jwks_url or settings.jwks_url,
        "introspection_endpoint": settings.smart_introspection_endpoint,
        "revocation_endpoint": settings.smart_revocation_endpoint,
        "registration_endpoint": settings.smart_registration_endpoint,
        "management_endpoint": settings.smart_management_endpoint,
    }
    members: dict[str, Any] = {name: url for name, url in configured.items() if url is not None}
    if document is not None:
        members["token_endpoint"] = endpoint(document, "token_endpoint")
        for name in (
            "authorization_endpoint",
            "jwks_uri",
            "introspection_endpoint",
            "revocation_endpoint",
        ):
            url = document.get(name)
            if isinstance(url, str) and _URL.fullmatch(url):
                members.setdefault(name, url)
        if scopes := _scopes(document):
            members["scopes_supported"] = scopes
    return {
        **members,
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_signing_alg_values_supported": _client_algorithms(document or {}),
    }


def _scopes(document: Mapping[str, Any]) -> list[str]:
    """Return the SMART system scopes that the issuer lists; most issuers list none."""
    scopes = document.get("scopes_supported")
    if not isinstance(scopes, list):
        return []
    return [scope for scope in scopes if isinstance(scope, str) and scope.startswith("system/")]


def _client_algorithms(document: Mapping[str, Any]) -> list[str]:
    algorithms = document.get("token_endpoint_auth_signing_alg_values_supported")
    if not isinstance(algorithms, list):
        return list(CLIENT_ALGORITHMS)
    return [name for name in CLIENT_ALGORITHMS if name in algorithms]
