"""SMART Backend Services without an identity provider: client registry and token endpoint."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click

from helios_core import (
    API_LEVEL,
    Backends,
    CommandExtension,
    CommandHost,
    RouteExtension,
    TokenVerifierExtension,
    hookimpl,
)
from helios_smart_auth.settings import SmartAuthSettings
from helios_smart_auth.verifier import open_verifier

__all__ = ["SmartAuthSettings", "open_verifier"]


@asynccontextmanager
async def _routes(settings: SmartAuthSettings, backends: Backends) -> AsyncIterator[Sequence[Any]]:
    from helios_smart_auth.routes import open_routes  # noqa: PLC0415  commands work without it

    async with open_routes(settings, backends) as routes:
        yield routes


def _command(host: CommandHost) -> click.Command:
    from helios_smart_auth.commands import clients_command  # noqa: PLC0415  servers need no click

    return clients_command(host)


@hookimpl
def helios_token_verifier() -> TokenVerifierExtension:
    """Register the verifier of the tokens that this plugin issues."""
    return TokenVerifierExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, open=open_verifier
    )


@hookimpl
def helios_routes() -> RouteExtension:
    """Register the token endpoint and the key set, which need no access token."""
    return RouteExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, open=_routes, public=True
    )


@hookimpl
def helios_command() -> CommandExtension:
    """Register the command `helios clients`."""
    return CommandExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, command=_command, name="clients"
    )
