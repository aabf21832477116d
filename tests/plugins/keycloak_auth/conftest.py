from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from helios_keycloak_auth import KeycloakAuthSettings
from helios_keycloak_auth.requests import issuer_requests
from helios_keycloak_auth.verifier import IssuerVerifier
from tests.issuers import Issuer, serving


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def issuer():
    """A new issuer with five keys."""
    with serving(Issuer()) as issuer:
        yield issuer


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def settings(issuer):
    """Return the settings for the test's issuer, with changes."""

    def settings(**changes):
        usual = {
            "issuer": issuer.url,
            "audience": (issuer.audience,),
            "allow_http": True,
            # Longer than any machine takes.
            "request_timeout": timedelta(seconds=60),
        }
        return KeycloakAuthSettings(**usual | changes)

    return settings


@pytest.fixture
def verifier_for(clock):
    """Open a verifier with some settings, on the test's clock."""

    @asynccontextmanager
    async def verifier_for(settings, **clocks):
        async with issuer_requests(settings.request_timeout, allow_http=True) as requests:
            verifier = IssuerVerifier(settings, requests, clock=clock, **clocks)
            try:
                yield verifier
            finally:
                await verifier.close()

    return verifier_for


@pytest.fixture
async def verifier(verifier_for, settings):
    async with verifier_for(settings()) as verifier:
        yield verifier
