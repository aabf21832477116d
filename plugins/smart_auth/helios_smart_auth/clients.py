"""Registered clients, kept in the job store."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import field

from helios_core import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    JobStore,
    SupportsRecords,
)

NAMESPACE = "smart_auth.clients"

CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")
"""The form of a client id: readable in logs and safe in URLs."""

TRIES = 20
"""How often a change is attempted when other processes change the same client."""


class Client(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client that may request tokens; it has public keys and no secret."""

    id: str
    scopes: tuple[str, ...]
    """The `system/` scopes that it may request."""
    keys: tuple[dict[str, Any], ...] = ()
    """Its public keys, if they were registered by value."""
    jwks_urls: tuple[str, ...] = ()
    """The URLs of its key sets, if its keys were registered by URL."""
    tenant: str | None = None
    """The tenant of its tokens; None if its tokens have no tenant."""
    groups: tuple[str, ...] | None = None
    """The ids of the groups that it may export; None for every group."""
    disabled: bool = False
    registration: str = field(default_factory=lambda: uuid4().hex)
    """Tells a client from a later one with the same id, so that old tokens stay invalid."""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))


def records_of(job_store: JobStore) -> SupportsRecords:
    """
    Return the records of a job store.

    Raises:
        ConfigurationError: The job store does not keep records.
    """
    if not isinstance(job_store, SupportsRecords):
        raise ConfigurationError(
            "plugin smart_auth keeps clients in the job store, and this one lacks SupportsRecords;"
            " use the job store of plugin sqlite, postgres or mongodb"
        )
    return job_store


class Clients:
    """The registered clients of all processes on one job store."""

    def __init__(self, records: SupportsRecords) -> None:
        self._records = records

    async def add(self, client: Client) -> bool:
        """Register a client; return False if its id is taken."""
        return await self._records.insert_record(NAMESPACE, client.id, msgspec.json.encode(client))

    async def get(self, client_id: str) -> Client | None:
        """Return a client, or None for any text that is not the id of one."""
        if not CLIENT_ID.fullmatch(client_id):
            return None
        stored = await self._records.record(NAMESPACE, client_id)
        return None if stored is None else _decoded(stored)

    async def all(self) -> AsyncIterator[Client]:
        """Yield every client, by id."""
        last = ""
        while page := await self._records.records(NAMESPACE, after=last):
            for record in page:
                yield _decoded(record.value)
            last = page[-1].key

    async def change(self, client_id: str, change: Callable[[Client], Client]) -> Client | None:
        """
        Change a client atomically, and return the changed client; None if there is none.

        Raises:
            BackendUnavailable: Other processes changed the client at each of `TRIES` attempts.
        """
        for _ in range(TRIES):
            stored = await self._records.record(NAMESPACE, client_id)
            if stored is None:
                return None
            changed = change(_decoded(stored))
            new = msgspec.json.encode(changed)
            if await self._records.replace_record(NAMESPACE, client_id, stored, new):
                return changed
        raise BackendUnavailable("other processes keep changing this client; try again")

    async def remove(self, client_id: str) -> bool:
        """Delete a client; return whether there was one."""
        return await self._records.delete_record(NAMESPACE, client_id)


def _decoded(stored: bytes) -> Client:
    try:
        return msgspec.json.decode(stored, type=Client)
    except msgspec.MsgspecError:
        raise BackendError(
            "a registered client cannot be read: its record is damaged, or a newer version of"
            " Helios wrote it"
        ) from None
