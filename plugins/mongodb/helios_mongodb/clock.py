"""
Stamps: instants in microseconds since 1970 that only ever increase.

Each tenant has a clock, a document that every write of the tenant advances in its transaction.
That serializes the writes of a tenant, and their stamps ascend in the order of their commits.
A kick-off advances all clocks to one stamp. If a write is under way, MongoDB either makes the
kick-off wait for it, or aborts the write's transaction, which is repeated after the kick-off.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bson.int64 import Int64
from pymongo import ReturnDocument, UpdateOne

from helios_core import StoreBusy
from helios_mongodb.databases import Database, Document, Session
from helios_mongodb.errors import translated

SHARED_CLOCK = ""
"""The id of the clock that kick-offs advance, and new tenants start from; not a tenant's id."""

WALL: dict[str, Any] = {"$multiply": [{"$toLong": "$$NOW"}, Int64(1000)]}
"""The time of the server in microseconds (P1)."""


class Clock:
    """The clocks of all tenants of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready = set[str]()
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def settled_stamp(self) -> int:
        """Return a stamp not below any committed one, and below every later one (P1)."""
        with translated():
            clocks = self._database["clocks"]
            stamps = [clock["stamp"] async for clock in clocks.find({}, {"stamp": 1})]
            advanced = await clocks.find_one_and_update(
                {"_id": SHARED_CLOCK},
                [{"$set": {"stamp": {"$max": [*_after(), Int64(max(stamps, default=0))]}}}],
                return_document=ReturnDocument.AFTER,
            )
            stamp = _stamp_of(advanced)
            # The increment makes each update a change: one that changes nothing would not wait
            # for open transactions. One update per clock, since MongoDB retries only updates of
            # single documents after a failover.
            settle = {"$max": {"stamp": Int64(stamp)}, "$inc": {"settled": 1}}
            tenants = clocks.find({"_id": {"$ne": SHARED_CLOCK}}, {"_id": 1})
            if updates := [UpdateOne({"_id": clock["_id"]}, settle) async for clock in tenants]:
                await clocks.bulk_write(updates, ordered=False)
        return stamp

    async def write_stamp(self, session: Session, tenant: str) -> int:
        """Return the stamp of a transaction; this must be its first operation."""
        clock = await self._database["clocks"].find_one_and_update(
            {"_id": tenant},
            [{"$set": {"stamp": {"$max": _after()}}}],
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        return _stamp_of(clock)

    async def current_stamp(self, tenant: str) -> int:
        """Return a stamp not below the tenant's last write, and below its next one."""
        with translated():
            clock = await self._database["clocks"].find_one({"_id": tenant})
        return 0 if clock is None else int(clock["stamp"])

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """
        Serialize the writes of this process to a tenant.

        Raises:
            StoreBusy: Earlier writes took longer than HFS_MONGODB_TIMEOUT.
        """
        turn = self._turns[tenant]
        patience = self._database.settings.timeout
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await turn.acquire()
        except TimeoutError as error:
            raise StoreBusy(
                f"other writes of this tenant took more than {patience.total_seconds():g} s"
                " (HFS_MONGODB_TIMEOUT); try again later"
            ) from error
        try:
            yield
        finally:
            turn.release()

    async def prepare(self, tenant: str) -> None:
        """
        Create the clock of a tenant, unless it exists.

        The clock is created before the shared clock is read. So a kick-off has either advanced
        the shared clock already, or finds the new one and advances it.
        """
        if tenant in self._ready:
            return
        clocks = self._database["clocks"]
        with translated():
            new = {"$setOnInsert": {"stamp": Int64(0)}}
            await clocks.update_one({"_id": tenant}, new, upsert=True)

        async def advance(session: Session) -> None:
            shared = await clocks.find_one({"_id": SHARED_CLOCK}, session=session)
            if shared is not None:
                behind = {"_id": tenant, "stamp": {"$lt": shared["stamp"]}}
                to = {"$set": {"stamp": shared["stamp"]}}
                await clocks.update_one(behind, to, session=session)

        # In a transaction, since a plain update could wait endlessly for open transactions.
        await self._database.write(advance)
        self._ready.add(tenant)


def _stamp_of(clock: Document | None) -> int:
    assert clock is not None  # noqa: S101 - the schema or `prepare` created it
    return int(clock["stamp"])


def _after() -> list[object]:
    """Return expressions; the largest of their values is the next stamp."""
    return [WALL, {"$add": [{"$ifNull": ["$stamp", Int64(0)]}, Int64(1)]}]
