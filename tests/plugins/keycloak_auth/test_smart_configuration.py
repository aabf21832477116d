"""What clients read about the issuer in `.well-known/smart-configuration`."""

import json
import re

import pytest

from helios_core import BackendUnavailable
from helios_core.http.smart_configuration import smart_document
from tests.issuers import DISCOVERY

BASE = "http://fhir.example.org"


async def test_the_issuer_document_fills_what_is_not_set(verifier, issuer):
    assert await verifier.smart_configuration(BASE) == {
        "token_endpoint": f"{issuer.url}/token",
        "authorization_endpoint": f"{issuer.url}/authorize",
        "introspection_endpoint": f"{issuer.url}/introspection",
        "jwks_uri": f"{issuer.url}/keys",
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
    }
    assert issuer.asked[DISCOVERY] == 1


async def test_the_fields_that_inferno_requires_are_in_the_document(verifier):
    document = json.loads(smart_document(await verifier.smart_configuration(BASE)))

    assert re.match("https?://", document["token_endpoint"])
    assert re.match("https?://", document["authorization_endpoint"])
    assert {"authorization_code", "client_credentials"} <= set(document["grant_types_supported"])
    assert "S256" in document["code_challenge_methods_supported"]
    assert "plain" not in document["code_challenge_methods_supported"]
    assert document["capabilities"]
    # Only a server that says it does single sign-on names the issuer.
    assert "issuer" not in document


async def test_settings_go_before_the_document(verifier_for, settings, issuer):
    chosen = settings(
        smart_authorize_endpoint="https://login.example.org/authorize",
        smart_jwks_url="https://login.example.org/keys",
        smart_management_endpoint="https://login.example.org/apps",
    )
    async with verifier_for(chosen) as verifier:
        members = await verifier.smart_configuration(BASE)

    assert members["authorization_endpoint"] == "https://login.example.org/authorize"
    assert members["jwks_uri"] == "https://login.example.org/keys"
    assert members["management_endpoint"] == "https://login.example.org/apps"
    assert members["token_endpoint"] == f"{issuer.url}/token"


async def test_with_a_token_endpoint_the_issuer_is_not_asked(verifier_for, settings, issuer):
    chosen = settings(
        smart_token_endpoint="https://login.example.org/token",
        jwks_url="http://login.example.org/keys",
    )
    async with verifier_for(chosen) as verifier:
        members = await verifier.smart_configuration(BASE)

    assert members["token_endpoint"] == "https://login.example.org/token"
    assert members["grant_types_supported"] == ["client_credentials"]
    assert members["jwks_uri"] == "http://login.example.org/keys"
    assert "authorization_endpoint" not in members
    assert not issuer.asked


async def test_algorithms_are_those_that_smart_and_the_issuer_know(verifier, issuer):
    issuer.discovery = {
        "token_endpoint_auth_signing_alg_values_supported": ["HS256", "ES384", "RS256", 7]
    }

    members = await verifier.smart_configuration(BASE)

    assert members["token_endpoint_auth_signing_alg_values_supported"] == ["ES384"]


@pytest.mark.parametrize("wrong", ["/relative", "javascript:alert(1)", 7, "", "https://a b/"])
async def test_addresses_that_are_none_are_not_passed_on(verifier, issuer, wrong):
    issuer.discovery = {"authorization_endpoint": wrong, "revocation_endpoint": wrong}

    members = await verifier.smart_configuration(BASE)

    assert not {"authorization_endpoint", "revocation_endpoint"} & set(members)


@pytest.mark.parametrize("wrong", [None, "/relative"])
async def test_an_issuer_without_a_token_endpoint_is_unavailable(verifier, issuer, wrong):
    issuer.discovery = {"token_endpoint": wrong}

    with pytest.raises(BackendUnavailable, match="token_endpoint"):
        await verifier.smart_configuration(BASE)


async def test_an_issuer_that_is_down_is_unavailable(verifier, issuer):
    issuer.answers = {DISCOVERY: (503, b"")}

    with pytest.raises(BackendUnavailable, match="503"):
        await verifier.smart_configuration(BASE)
