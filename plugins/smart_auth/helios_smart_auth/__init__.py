"""SMART Backend Services without another server: registered clients and a token endpoint."""

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
    from helios_smart_auth.routes import open_routes  # noqa: PLC0415  commands need no Litestar

    async with open_routes(settings, backends) as routes:
        yield routes


def _command(host: CommandHost) -> click.Command:
    from helios_smart_auth.commands import clients_command  # noqa: PLC0415  servers need no click

    return clients_command(host)


@hookimpl
def helios_token_verifier() -> TokenVerifierExtension:
    """Offer the verifier of the tokens that are issued here."""
    return TokenVerifierExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, open=open_verifier
    )


@hookimpl
def helios_routes() -> RouteExtension:
    """Offer the token endpoint and the keys, which everybody may call."""
    return RouteExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, open=_routes, public=True
    )


@hookimpl
def helios_command() -> CommandExtension:
    """Offer `helios clients`."""
    return CommandExtension(
        api_level=API_LEVEL, settings=SmartAuthSettings, command=_command, name="clients"
    )
