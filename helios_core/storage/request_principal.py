"""
Backends that show only what the client of the current request may see.

REST routes and those of plugins read through them without knowing: even a route that forgets to
authorize a request shows only what its client may see.
"""

from contextvars import ContextVar
from typing import Final

from msgspec.structs import replace

from helios_core.fhir.search import Filter
from helios_core.model.principals import Principal
from helios_core.model.scopes import LETTERS, scopes_of
from helios_core.storage.backends import Backends
from helios_core.storage.permitted_reads import (
    nothing_of,
    permitted_filter,
    permitted_reads,
)
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.sealed_tokens import TokenSeal

ANY: Final = LETTERS
"""All letters of scopes, for `guarded_backends`: one of them is enough."""

_principal: ContextVar[Principal | None] = ContextVar("principal", default=None)


def set_principal(principal: Principal | None) -> None:
    """Note whose request the current task processes; None for a client without a token."""
    _principal.set(principal)


def guarded_backends(backends: Backends, letters: str) -> Backends:
    """
    Return backends whose data provider shows what the client of the request may see.

    That is what its scopes grant by one of `letters`, and nothing if no principal was noted. A
    server without authorisation shows everything.
    """
    if backends.token_verifier is None:
        return backends
    # The job store's identity is the same in every process, and never leaves the server.
    seal = TokenSeal(backends.job_store.identity)
    provider = permitted_reads(backends.data_provider, _permitted, letters, seal=seal)
    return replace(backends, data_provider=provider)


def _permitted(key: TypeKey, letters: str) -> Filter | None:
    principal = _principal.get()
    if principal is None:
        return nothing_of(key.resource_type)
    granted = scopes_of(principal.scopes).any_grant(key.resource_type, letters)
    return permitted_filter(key.fhir_version, key.resource_type, granted, base="")
