"""The contract suite of token verifiers, against an issuer on this machine."""

import time

import pytest

import helios_keycloak_auth
from helios_core import Principal
from helios_core.testing import TokenVerifierSuite
from tests.issuers import DISCOVERY, KEYS, Issuer, key_pair, serving, sign


class TestKeycloakAuth(TokenVerifierSuite):
    @pytest.fixture(autouse=True)
    def serve(self):
        with serving(Issuer()) as self.issuer:
            self.settings = {
                "issuer": self.issuer.url,
                "audience": (self.issuer.audience,),
                "allow_http": True,
            }
            yield

    @pytest.fixture
    def extension(self):
        return helios_keycloak_auth.helios_token_verifier()

    async def valid_token(self):
        return self.issuer.token(exp=int(time.time()) + 3600, tenant_id="north")

    def principal(self):
        return Principal(
            issuer=self.issuer.url,
            subject="service-account",
            client_id="client-1",
            scopes=("system/*.rs",),
            tenant="north",
            expires_at=None,
        )

    async def invalid_tokens(self):
        now, claims = int(time.time()), self.issuer.claims()
        return {
            "expired": self.issuer.token(exp=now - 60),
            "not valid yet": self.issuer.token(nbf=now + 3600),
            "of another issuer": self.issuer.token(iss="https://issuer.example.org"),
            "for another audience": self.issuer.token(aud="https://fhir.example.net"),
            "signed with another key": sign(
                {"alg": "RS256", "kid": "key-RS256"}, claims, key_pair("another")
            ),
            "of an unknown key": self.issuer.token(header={"kid": "unknown"}),
            "without an id of its key": self.issuer.token(header={"kid": None}),
        }

    async def make_unavailable(self):
        self.issuer.answers = {DISCOVERY: (503, b""), KEYS: (503, b"")}
        return self.issuer.token()
