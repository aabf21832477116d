"""
The sessions of a process's transactions, under a lease.

MongoDB keeps the transaction of a killed process open for `transactionLifetimeLimitSeconds`, and
until then nobody else can change what it has changed. So each process registers its sessions, and
renews the registration while it writes. If it stops renewing, any other process ends the sessions
and their transactions. A process that was only slow loses nothing: it gets an error for its
transaction, and repeats it.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase

from helios_core import BackendError, run_to_end
from helios_mongodb.background import background_task
from helios_mongodb.errors import DRIVER_ERRORS, translated
from helios_mongodb.waits import from_now, is_over, time_of

LEASE = timedelta(seconds=5)
"""
How long a process may go without renewing before its transactions are ended.

Every process looks for expired leases twice in this time, so that a killed process blocks others
for at most two leases.
"""


class Writers:
    """Registers the sessions of this process, and ends those of processes that were killed."""

    def __init__(
        self, client: AsyncMongoClient[dict[str, Any]], database: AsyncDatabase[dict[str, Any]]
    ) -> None:
        self._client = client
        self._writers = database["writers"]
        self._id = str(uuid.uuid4())
        self._sessions = list[AsyncClientSession]()
        self._free = list[AsyncClientSession]()
        self._renewing = asyncio.Lock()
        self._renewed_at: float | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Writers"]:
        """Renew the lease, and end expired sessions of others, until the context ends."""
        try:
            async with background_task("writers", self._watch()):
                yield self
        finally:
            await run_to_end(self._close())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncClientSession]:
        """
        Lend a registered session that nobody else in this process uses.

        It is for transactions only: cursors in it would end if the lease expired.
        """
        session = self._free.pop() if self._free else self._new()
        try:
            if self._renewed_at is None or monotonic() - self._renewed_at >= _half():
                await self._renew()
            yield session
        finally:
            self._free.append(session)

    def _new(self) -> AsyncClientSession:
        session = self._client.start_session(causal_consistency=True)
        self._sessions.append(session)
        self._renewed_at = None
        return session

    async def _renew(self) -> None:
        async with self._renewing:
            began = monotonic()
            wait = from_now(LEASE)
            lease = {
                "sessions": [session.session_id["id"] for session in self._sessions],
                "at": wait,
                "wait": wait["$add"][1],
            }
            count = len(self._sessions)
            await self._writers.update_one({"_id": self._id}, [{"$set": lease}], upsert=True)
            if count == len(self._sessions):
                self._renewed_at = began

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_half() / 2)
            with suppress(BackendError), translated():
                if len(self._free) < len(self._sessions):
                    await self._renew()
            await asyncio.sleep(_half() / 2)
            # Writes report what is wrong with the server.
            with suppress(BackendError), translated():
                await self._end_silent()

    async def _end_silent(self) -> None:
        """End the sessions of other processes whose lease has expired."""
        others = {"_id": {"$ne": self._id}}
        if await self._writers.find_one(others, {"_id": 1}) is None:
            return
        over = is_over("at", await time_of(self._client))
        async for writer in self._writers.find(others | over):
            sessions = [{"id": session_id} for session_id in writer["sessions"]]
            await self._client.admin.command("killSessions", sessions)
            # Only if it has not been renewed meanwhile.
            await self._writers.delete_one({"_id": writer["_id"], "at": writer["at"]})

    async def _close(self) -> None:
        with suppress(*DRIVER_ERRORS):
            for session in self._sessions:
                await session.end_session()
            if self._sessions:
                await self._writers.delete_one({"_id": self._id})


def _half() -> float:
    return LEASE.total_seconds() / 2
