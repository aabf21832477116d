"""A verifier of static tokens, for tests: who a token belongs to is written in a dictionary."""

from datetime import UTC, datetime, timedelta

from helios_core import BackendUnavailable, InvalidToken, Principal, TokenVerifier

ISSUER = "https://issuer.example"


def principal(client, *scopes, issuer=ISSUER, tenant=None, valid_for=timedelta(hours=1)):
    """Return a client with scopes."""
    return Principal(
        issuer=issuer,
        subject=client,
        client_id=client,
        scopes=scopes,
        tenant=tenant,
        expires_at=datetime.now(UTC) + valid_for,
    )


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


class StaticVerifier(TokenVerifier):
    """Knows the principal of each token; nobody is known while it is not `up`."""

    def __init__(self, principals):
        self.principals = principals
        self.up = True
        self.asked = 0

    async def verify(self, token):
        self.asked += 1
        if not self.up:
            raise BackendUnavailable("the list of tokens is not there")
        found = self.principals.get(token)
        if found is None or found.expires_at <= datetime.now(UTC):
            raise InvalidToken("The token is not on the list.")
        return found

    async def smart_configuration(self, base):
        return {
            "token_endpoint": f"{base}/token",
            "authorization_endpoint": f"{base}/authorize",
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
        }
