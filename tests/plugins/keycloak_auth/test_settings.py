"""The settings of the plugin, by their traditional names."""

from datetime import timedelta

import pytest

import helios_keycloak_auth
from helios_core import API_LEVEL, ConfigurationError, Secret
from helios_core.config.selection import configure
from helios_keycloak_auth import Algorithm, KeycloakAuthSettings

ISSUER = "https://login.example.org/realms/clinic"
ENVIRON = {
    "HFS_STORAGE_BACKEND": "memory",
    "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory",
    "HFS_AUTH_ENABLED": "true",
    "HFS_AUTH_ISSUER": ISSUER,
    "HFS_AUTH_AUDIENCE": "https://fhir.example.org",
}


def chosen(**environ):
    return configure(ENVIRON | environ).token_verifier.settings


def refusal(**environ):
    with pytest.raises(ConfigurationError) as caught:
        configure(ENVIRON | environ)
    return str(caught.value)


def test_the_plugin_is_the_one_that_is_selected_by_default():
    selected = configure(ENVIRON).token_verifier

    assert selected.origin.name == "keycloak_auth"
    assert selected.extension.api_level == API_LEVEL
    assert selected.extension.open is helios_keycloak_auth.helios_token_verifier().open


def test_issuer_and_audience_are_enough():
    assert chosen() == KeycloakAuthSettings(issuer=ISSUER, audience=("https://fhir.example.org",))


def test_settings_are_read_under_their_traditional_names():
    settings = chosen(
        HFS_AUTH_AUDIENCE="https://fhir.example.org, fhir",
        HFS_AUTH_JWKS_URL="https://login.example.org/keys?v=2",
        HFS_AUTH_ALGORITHMS="ES384,RS384",
        HFS_AUTH_TENANT_CLAIM="https://clinic.example.org/tenant",
        HFS_AUTH_REQUEST_TIMEOUT="0.5",
        HFS_AUTH_JWKS_MIN_REFRESH_INTERVAL="30",
        HFS_AUTH_JWKS_MAX_STALE="86400",
        HFS_AUTH_INTROSPECTION_CLIENT_ID="helios",
        HFS_AUTH_INTROSPECTION_CLIENT_SECRET="hidden",
        HFS_AUTH_INTROSPECTION_URL="https://login.example.org/introspect",
        HFS_AUTH_INTROSPECTION_TTL="5",
        HFS_SMART_TOKEN_ENDPOINT="https://login.example.org/1",
        HFS_SMART_AUTHORIZE_ENDPOINT="https://login.example.org/2",
        HFS_SMART_JWKS_URL="https://login.example.org/3",
        HFS_SMART_INTROSPECTION_ENDPOINT="https://login.example.org/4",
        HFS_SMART_MANAGEMENT_ENDPOINT="https://login.example.org/5",
        HFS_SMART_REGISTRATION_ENDPOINT="https://login.example.org/6",
        HFS_SMART_REVOCATION_ENDPOINT="https://login.example.org/7",
    )

    assert settings == KeycloakAuthSettings(
        issuer=ISSUER,
        audience=("https://fhir.example.org", "fhir"),
        jwks_url="https://login.example.org/keys?v=2",
        algorithms=(Algorithm.ES384, Algorithm.RS384),
        tenant_claim="https://clinic.example.org/tenant",
        request_timeout=timedelta(seconds=0.5),
        jwks_min_refresh_interval=timedelta(seconds=30),
        jwks_max_stale=timedelta(days=1),
        introspection_client_id="helios",
        introspection_client_secret=Secret("hidden"),
        introspection_url="https://login.example.org/introspect",
        introspection_ttl=timedelta(seconds=5),
        smart_token_endpoint="https://login.example.org/1",
        smart_authorize_endpoint="https://login.example.org/2",
        smart_jwks_url="https://login.example.org/3",
        smart_introspection_endpoint="https://login.example.org/4",
        smart_management_endpoint="https://login.example.org/5",
        smart_registration_endpoint="https://login.example.org/6",
        smart_revocation_endpoint="https://login.example.org/7",
    )


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"HFS_AUTH_ISSUER": ""}, "HFS_AUTH_ISSUER is not set"),
        ({"HFS_AUTH_AUDIENCE": ""}, "HFS_AUTH_AUDIENCE is not set"),
        ({"HFS_AUTH_AUDIENCE": ","}, "HFS_AUTH_AUDIENCE is ','"),
        ({"HFS_AUTH_ISSUER": "login.example.org"}, "HFS_AUTH_ISSUER is"),
        ({"HFS_AUTH_ISSUER": f"{ISSUER}?x=1"}, "HFS_AUTH_ISSUER is"),
        ({"HFS_AUTH_ISSUER": "https://user@login.example.org"}, "HFS_AUTH_ISSUER is"),
        ({"HFS_AUTH_ALGORITHMS": "none"}, "HFS_AUTH_ALGORITHMS is 'none'"),
        ({"HFS_AUTH_ALGORITHMS": "RS256,HS256"}, "RS256, RS384, ES256, ES384 and PS256"),
        ({"HFS_AUTH_JWKS_MIN_REFRESH_INTERVAL": "0"}, "a number of seconds above 0"),
        (
            {"HFS_AUTH_ISSUER": "http://login.example.org"},
            "HFS_AUTH_ALLOW_HTTP is not true; use https",
        ),
        (
            {"HFS_AUTH_JWKS_URL": "http://login.example.org"},
            "address of HFS_AUTH_JWKS_URL is http",
        ),
        ({"HFS_AUTH_INTROSPECTION_CLIENT_ID": "a"}, "set together"),
        ({"HFS_AUTH_INTROSPECTION_CLIENT_SECRET": "a"}, "set together"),
        ({"HFS_AUTH_INTROSPECTION_URL": "https://a.example.org"}, "is set without"),
        ({"HFS_AUTH_ISUER": "https://a.example.org"}, "nearest is HFS_AUTH_ISSUER"),
    ],
)
def test_what_is_wrong_stops_the_start(environ, problem):
    assert problem in refusal(**environ)


def test_http_is_used_where_that_is_allowed():
    settings = chosen(HFS_AUTH_ISSUER="http://127.0.0.1:8080/x", HFS_AUTH_ALLOW_HTTP="true")

    assert settings.issuer == "http://127.0.0.1:8080/x"


def test_a_secret_is_not_shown():
    problem = refusal(HFS_AUTH_INTROSPECTION_CLIENT_SECRET="hidden")

    assert "hidden" not in problem
    assert "hidden" not in repr(
        KeycloakAuthSettings(
            issuer=ISSUER,
            audience=("a",),
            introspection_client_id="a",
            introspection_client_secret=Secret("hidden"),
        )
    )
