"""Records of plugins in MongoDB."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError

from helios_core import Record
from helios_mongodb.databases import Database, Document
from helios_mongodb.errors import translated

EXPIRED_AT_ONCE = 16
"""How many records whose time is over make way for a new one."""

_BEFORE_ALL_KEYS, _BEHIND_ALL_KEYS = "\n", "\n\x7f"
"""What lies around the printable characters of keys, between a namespace and them."""

_MILLISECOND = timedelta(milliseconds=1)


class MongoRecords:
    """Keeps records beside the jobs; every change is one command on one document."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record where none is, and remove some whose time is over (K1, K3)."""
        expires = (
            None if keep_for is None else {"$add": ["$$NOW", Int64(-(-keep_for // _MILLISECOND))]}
        )
        stored = [{"$set": {"value": {"$literal": value}, "expires": expires}}]
        records = self._database["records"]
        with translated():
            over = {"expires": {"$lte": await self._database.now()}}
            some = await records.find(over, {"_id": 1}).limit(EXPIRED_AT_ONCE).to_list()
            if some:
                theirs = {"_id": {"$in": [each["_id"] for each in some]}}
                await records.delete_many(theirs | over)
            try:
                await records.update_one(
                    {"_id": _place(namespace, key)} | over, stored, upsert=True
                )
            except DuplicateKeyError:
                return False  # there is one whose time is not over
        return True

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record that has the expected one (K2)."""
        with translated():
            there = await self._there(namespace, key)
            changed = await self._database["records"].update_one(
                there | {"value": expected}, {"$set": {"value": value}}
            )
        return changed.matched_count == 1

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record."""
        with translated():
            there = await self._there(namespace, key)
            found = await self._database["records"].find_one(there)
        return None if found is None else bytes(found["value"])

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return records of a namespace, by key (K5)."""
        following = {"$gt": _place(namespace, after), "$lt": namespace + _BEHIND_ALL_KEYS}
        with translated():
            there = _lasting(await self._database.now()) | {"_id": following}
            found = (
                await self._database["records"].find(there).sort("_id", 1).limit(limit).to_list()
            )
        begin = len(_place(namespace, ""))
        return [Record(key=each["_id"][begin:], value=bytes(each["value"])) for each in found]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record."""
        with translated():
            there = await self._there(namespace, key)
            deleted = await self._database["records"].delete_one(there)
        return deleted.deleted_count == 1

    async def _there(self, namespace: str, key: str) -> Document:
        """Return the condition of a record whose time is not over."""
        return _lasting(await self._database.now()) | {"_id": _place(namespace, key)}


def _place(namespace: str, key: str) -> str:
    """Return the id of a record, by which those of a namespace are in the order of their keys."""
    return namespace + _BEFORE_ALL_KEYS + key


def _lasting(now: datetime) -> Document:
    return {"$or": [{"expires": None}, {"expires": {"$gt": now}}]}
