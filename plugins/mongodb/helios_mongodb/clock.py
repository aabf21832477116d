"""
Stamps: instants that never go back, in microseconds since 1970.

Each tenant has a clock, a document that every write of the tenant advances in its transaction. So
writes of one tenant follow each other, and their stamps ascend in the order of their commits. A
kick-off advances all clocks to one stamp. Where a write is under way, MongoDB lets it wait for the
end of that transaction, or ends the transaction, which begins anew behind the kick-off.
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

EVERYBODY = ""
"""The clock of kick-offs, which those of new tenants begin at; no tenant is called so."""

WALL: dict[str, Any] = {"$multiply": [{"$toLong": "$$NOW"}, Int64(1000)]}
"""The clock of the server (P1)."""


class Clock:
    """The clocks of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready = set[str]()
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def settled_stamp(self) -> int:
        """Return a stamp that no committed one exceeds, and that every later one does (P1)."""
        with translated():
            clocks = self._database["clocks"]
            stamps = [clock["stamp"] async for clock in clocks.find({}, {"stamp": 1})]
            advanced = await clocks.find_one_and_update(
                {"_id": EVERYBODY},
                [{"$set": {"stamp": {"$max": [*_after(), Int64(max(stamps, default=0))]}}}],
                return_document=ReturnDocument.AFTER,
            )
            stamp = _stamp_of(advanced)
            # Counting makes it a change in any case: one that changes nothing would wait for
            # nobody. One update for each, since MongoDB repeats only such after a failover.
            settle = {"$max": {"stamp": Int64(stamp)}, "$inc": {"settled": 1}}
            tenants = clocks.find({"_id": {"$ne": EVERYBODY}}, {"_id": 1})
            if updates := [UpdateOne({"_id": each["_id"]}, settle) async for each in tenants]:
                await clocks.bulk_write(updates, ordered=False)
        return stamp

    async def write_stamp(self, session: Session, tenant: str) -> int:
        """Return the stamp of a transaction, whose first operation this is."""
        clock = await self._database["clocks"].find_one_and_update(
            {"_id": tenant},
            [{"$set": {"stamp": {"$max": _after()}}}],
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        return _stamp_of(clock)

    async def current_stamp(self, tenant: str) -> int:
        """Return the stamp of the tenant's last write, or a later one before the next write."""
        with translated():
            clock = await self._database["clocks"].find_one({"_id": tenant})
        return 0 if clock is None else int(clock["stamp"])

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """
        Let the writes of this process to a tenant follow each other.

        Raises:
            StoreBusy: Those before it take too long.
        """
        turn = self._turns[tenant]
        patience = self._database.settings.timeout
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await turn.acquire()
        except TimeoutError as error:
            raise StoreBusy(
                f"other writes took more than the {patience.total_seconds():g} s of"
                " HFS_MONGODB_TIMEOUT; try again later"
            ) from error
        try:
            yield
        finally:
            turn.release()

    async def prepare(self, tenant: str) -> None:
        """
        Let a tenant have a clock.

        It is there before the clock of everybody is read. So a kick-off has either advanced that
        one before, or finds the new one.
        """
        if tenant in self._ready:
            return
        clocks = self._database["clocks"]
        with translated():
            new = {"$setOnInsert": {"stamp": Int64(0)}}
            await clocks.update_one({"_id": tenant}, new, upsert=True)

        async def advance(session: Session) -> None:
            everybody = await clocks.find_one({"_id": EVERYBODY}, session=session)
            if everybody is not None:
                behind = {"_id": tenant, "stamp": {"$lt": everybody["stamp"]}}
                to = {"$set": {"stamp": everybody["stamp"]}}
                await clocks.update_one(behind, to, session=session)

        # In a transaction, or it would wait for those under way without end.
        await self._database.write(advance)
        self._ready.add(tenant)


def _stamp_of(clock: Document | None) -> int:
    assert clock is not None  # noqa: S101 - the schema or `prepare` has made it
    return int(clock["stamp"])


def _after() -> list[object]:
    """Return expressions of which the largest is the next stamp."""
    return [WALL, {"$add": [{"$ifNull": ["$stamp", Int64(0)]}, Int64(1)]}]
