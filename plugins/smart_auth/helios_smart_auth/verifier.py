"""The verifier of the tokens that this server has issued."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from helios_core import Backends, Principal, TokenVerifier
from helios_smart_auth.access_tokens import AccessTokens
from helios_smart_auth.clients import Clients, records_of
from helios_smart_auth.discovery import issuer_of, smart_configuration
from helios_smart_auth.settings import SmartAuthSettings
from helios_smart_auth.signing_keys import SigningKeys


class SmartVerifier(TokenVerifier):
    """Verifies tokens by the keys in the job store."""

    def __init__(self, tokens: AccessTokens, settings: SmartAuthSettings) -> None:
        self._tokens = tokens
        self._settings = settings

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token of this server (V1, V2)."""
        return await self._tokens.verify(token)

    async def smart_configuration(self, base: str) -> Mapping[str, Any]:
        """Return the SMART discovery document of the token endpoint."""
        issuer = issuer_of(base, self._settings.base_url)
        return smart_configuration(base, issuer, stu2=self._settings.stu2_discovery)


@asynccontextmanager
async def open_verifier(
    settings: SmartAuthSettings, backends: Backends
) -> AsyncIterator[SmartVerifier]:
    """
    Yield the verifier.

    Raises:
        ConfigurationError: The job store keeps no records.
    """
    records = records_of(backends.job_store)
    tokens = AccessTokens(SigningKeys(records), Clients(records), base_url=settings.base_url)
    yield SmartVerifier(tokens, settings)
