"""Access tokens of Keycloak, or of any other OpenID Connect issuer."""

from contextlib import AbstractAsyncContextManager

from helios_core import API_LEVEL, Backends, TokenVerifier, TokenVerifierExtension, hookimpl
from helios_keycloak_auth.settings import Algorithm, KeycloakAuthSettings

__all__ = ["Algorithm", "KeycloakAuthSettings", "helios_token_verifier"]


def _open(
    settings: KeycloakAuthSettings, _: Backends
) -> AbstractAsyncContextManager[TokenVerifier]:
    from helios_keycloak_auth.verifier import open_verifier  # noqa: PLC0415  no httpx for lists

    return open_verifier(settings)


@hookimpl
def helios_token_verifier() -> TokenVerifierExtension:
    """Offer a verifier of the tokens of one issuer."""
    return TokenVerifierExtension(api_level=API_LEVEL, settings=KeycloakAuthSettings, open=_open)
