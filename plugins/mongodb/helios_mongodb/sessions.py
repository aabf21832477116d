"""
The sessions in which a process has its transactions, under a lease.

MongoDB keeps the transaction of a process that was killed for `transactionLifetimeLimitSeconds`,
and until then nobody can change what it has changed. So each process registers these sessions,
and renews that while it writes. Where it goes silent, any other process ends the sessions, with
what is open in them. A process that was only slow loses nothing: it is told that its transaction
is gone, and begins it anew.
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
from helios_mongodb.background import beside
from helios_mongodb.errors import DRIVER_ERRORS, translated
from helios_mongodb.waits import from_now, is_over, time_of

LEASE = timedelta(seconds=5)
"""
How long a process may be silent before its transactions are ended.

Such are looked for twice in this time, so nobody waits for one for more than two leases.
"""


class Writers:
    """The sessions of this process's transactions, and those of processes that went silent."""

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
        """Renew the lease, and end what others have left, for as long as the context lasts."""
        try:
            async with beside("writers", self._watch()):
                yield self
        finally:
            await run_to_end(self._close())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncClientSession]:
        """
        Lend a session that is registered, and that nobody else in this process uses.

        It is for transactions only: what else is open in it ends with the lease.
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
            # Whoever writes is told what is wrong with the server.
            with suppress(BackendError), translated():
                await self._end_silent()

    async def _end_silent(self) -> None:
        """End the sessions of other processes whose lease is over."""
        others = {"_id": {"$ne": self._id}}
        if await self._writers.find_one(others, {"_id": 1}) is None:
            return
        over = is_over("at", await time_of(self._client))
        async for writer in self._writers.find(others | over):
            sessions = [{"id": each} for each in writer["sessions"]]
            await self._client.admin.command("killSessions", sessions)
            # Unless it has been renewed meanwhile.
            await self._writers.delete_one({"_id": writer["_id"], "at": writer["at"]})

    async def _close(self) -> None:
        with suppress(*DRIVER_ERRORS):
            for session in self._sessions:
                await session.end_session()
            if self._sessions:
                await self._writers.delete_one({"_id": self._id})


def _half() -> float:
    return LEASE.total_seconds() / 2
