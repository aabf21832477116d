"""The settings that the guide to Keycloak and other issuers shows are accepted."""

import re
from pathlib import Path

import pytest

from helios_core.config.selection import configure

GUIDE = (Path(__file__).parents[2] / "docs/how-to/keycloak.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
SETTINGS = [
    dict(re.findall(r"^\$ export (HFS_\w+)=(.*)$", block, re.MULTILINE)) for block in BLOCKS
]
ISSUERS = [settings for settings in SETTINGS if "HFS_AUTH_ISSUER" in settings]
ON = {
    "HFS_STORAGE_BACKEND": "memory",
    "HFS_BULK_EXPORT_OUTPUT_BACKEND": "memory",
    "HFS_AUTH_ENABLED": "true",
}


def test_the_guide_has_settings_for_four_issuers_and_a_trial():
    assert len(ISSUERS) == 5


@pytest.mark.parametrize("shown", ISSUERS, ids=lambda shown: shown["HFS_AUTH_ISSUER"])
def test_the_settings_of_an_issuer_are_accepted(shown):
    chosen = configure(ON | shown).token_verifier

    assert chosen.origin.name == "keycloak_auth"
    assert chosen.settings.issuer == shown["HFS_AUTH_ISSUER"]


def test_the_settings_of_introspection_are_accepted_beside_those():
    [introspection] = [
        settings for settings in SETTINGS if "HFS_AUTH_INTROSPECTION_CLIENT_ID" in settings
    ]

    assert configure(ON | ISSUERS[0] | introspection).token_verifier
