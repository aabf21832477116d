"""Choosing the verifier of access tokens."""

import pytest

from helios_core.config.selection import configure, open_backends, selected_names
from helios_core.config.settings import read_settings
from helios_core.errors import BrokenPlugin, ConfigurationError, UnknownPlugin

MEMORY = {"HFS_STORAGE_BACKEND": "memory", "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory"}
ON = MEMORY | {"HFS_AUTH_ENABLED": "true"}

VERIFIER = """
from contextlib import asynccontextmanager
from typing import Annotated
import msgspec
from helios_core import API_LEVEL, InvalidToken, TokenVerifier, TokenVerifierExtension, hookimpl

class Settings(msgspec.Struct, frozen=True, kw_only=True):
    issuer: Annotated[str, msgspec.Meta(extra={"name": "HFS_AUTH_ISSUER"})] = "none"

class Strict(TokenVerifier):
    async def verify(self, token):
        raise InvalidToken("Nobody gets in.")

    async def smart_configuration(self, base):
        return {}

@asynccontextmanager
async def open(settings, backends):
    yield Strict()

@hookimpl
def helios_token_verifier():
    return TokenVerifierExtension(api_level=API_LEVEL, settings=Settings, open=open)
"""


def refusal(**environ: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        configure(ON | environ)
    return caught.value


@pytest.mark.parametrize("plugin", ["door_auth", "door"])
def test_a_provider_names_a_plugin_with_or_without_its_ending(install, plugin):
    install(plugin, VERIFIER)

    selection = configure(ON | {"HFS_AUTH_PROVIDER": "door", "HFS_AUTH_ISSUER": "x"})

    assert selection.token_verifier.origin.name == plugin
    assert selection.token_verifier.settings.issuer == "x"
    assert plugin in selected_names(selection.settings)


def test_the_longer_name_comes_first(install):
    install("door", "")
    install("door_auth", VERIFIER)

    assert configure(ON | {"HFS_AUTH_PROVIDER": "door"}).token_verifier.origin.name == "door_auth"


def test_nothing_is_verified_and_no_verifier_imported_unless_it_is_enabled(install):
    install("keycloak_auth", "raise AssertionError")

    assert configure(MEMORY).token_verifier is None


def test_a_provider_that_is_not_installed_stops_the_start():
    assert isinstance(refusal(HFS_AUTH_PROVIDER="nobody"), UnknownPlugin)


def test_a_plugin_without_a_verifier_is_no_provider():
    error = refusal(HFS_AUTH_PROVIDER="sqlite")

    assert isinstance(error, BrokenPlugin)
    assert "token verifier" in str(error)


@pytest.mark.parametrize(
    "forgotten",
    [
        {"HFS_AUTH_ISSUER": "https://issuer.example"},
        {"HFS_SMART_TOKEN_ENDPOINT": "https://issuer.example/token"},
        {"HFS_SMART_AUTH_TOKEN_TTL": "60"},
        {"HFS_SMART_AUTH_TOKEN_TTL": "60", "HFS_PLUGINS": "smart_auth"},
        {"HFS_AUTH_PROVIDER": "smart"},
        {"HFS_AUTH_PROVIDER": "nobody"},
        {"HFS_AUTH_PROVIDER": "smart", "HFS_AUTH_ENABLED": "false"},
    ],
    ids=str,
)
def test_a_verifier_that_is_not_enabled_stops_the_start(forgotten):
    """Somebody who forgets the switch must not get a server that is open to everybody."""
    name = next(iter(forgotten))

    with pytest.raises(ConfigurationError) as caught:
        configure(MEMORY | forgotten)

    assert str(caught.value) == (
        f"{name} is for a verifier of access tokens, and HFS_AUTH_ENABLED is not true; set that "
        f"to true, or remove {name}"
    )


@pytest.mark.parametrize("serving", [True, False])
async def test_only_a_server_opens_the_verifier(install, serving):
    install("door", VERIFIER)
    settings, _ = read_settings(ON | {"HFS_AUTH_PROVIDER": "door"})

    async with open_backends(settings, serving=serving) as backends:
        assert (backends.token_verifier is not None) is serving


async def test_a_verifier_that_is_none_stops_the_start(install):
    install("door", VERIFIER.replace("yield Strict()", "yield object()"))
    settings, _ = read_settings(ON | {"HFS_AUTH_PROVIDER": "door"})

    with pytest.raises(BrokenPlugin, match="not a TokenVerifier"):
        async with open_backends(settings, serving=True):
            pass
