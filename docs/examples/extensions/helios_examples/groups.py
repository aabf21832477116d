"""An authorizer: a client exports the Groups that are listed for it, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec

from helios_core import (
    API_LEVEL,
    Backends,
    ConfigurationError,
    FileAuthorizerExtension,
    Principal,
    ScopeAuthorizer,
    hookimpl,
)


class GroupsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which client may export which Groups."""

    allowed: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="Entries CLIENT:GROUP; a client without one exports anything"),
    ] = ()

    def __post_init__(self) -> None:
        if not all(all(entry.partition(":")) for entry in self.allowed):
            raise ConfigurationError("HFS_GROUPS_ALLOWED has entries that are not CLIENT:GROUP")


class ListedGroups(ScopeAuthorizer):
    """Narrows the core's own rule: scopes, owners and limits hold as without it."""

    def __init__(self, settings: GroupsSettings) -> None:
        groups: dict[str, set[str]] = {}
        for entry in settings.allowed:
            client, _, group = entry.partition(":")
            groups.setdefault(client, set()).add(group)
        self._groups = {client: frozenset(listed) for client, listed in groups.items()}

    def groups(self, principal: Principal) -> frozenset[str] | None:
        """Return what is listed for a client, None without an entry (A5)."""
        return self._groups.get(principal.client_id)


@asynccontextmanager
async def open_authorizer(
    settings: GroupsSettings, _backends: Backends
) -> AsyncIterator[ListedGroups]:
    """Yield the authorizer; it keeps nothing open."""
    yield ListedGroups(settings)


@hookimpl
def helios_file_authorizer() -> FileAuthorizerExtension:
    """Offer to restrict clients to Groups."""
    return FileAuthorizerExtension(
        api_level=API_LEVEL, settings=GroupsSettings, open=open_authorizer
    )
