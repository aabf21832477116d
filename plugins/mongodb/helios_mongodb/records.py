"""Records that plugins keep in the job store."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError

from helios_core import Record
from helios_mongodb.databases import Database, Document
from helios_mongodb.errors import translated

EXPIRED_AT_ONCE = 16
"""How many expired records an insertion removes at most."""

_BEFORE_ALL_KEYS, _AFTER_ALL_KEYS = "\n", "\n\x7f"
"""Separators of namespace and key that sort before and after all printable characters."""

_MILLISECOND = timedelta(milliseconds=1)


class MongoRecords:
    """Keeps records beside the jobs; each change of a record is one command."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record unless one exists, and remove some expired ones (K1, K3)."""
        expires = (
            None if keep_for is None else {"$add": ["$$NOW", Int64(-(-keep_for // _MILLISECOND))]}
        )
        stored = [{"$set": {"value": {"$literal": value}, "expires": expires}}]
        records = self._database["records"]
        with translated():
            expired = {"expires": {"$lte": await self._database.now()}}
            rows = await records.find(expired, {"_id": 1}).limit(EXPIRED_AT_ONCE).to_list()
            if rows:
                ids = {"_id": {"$in": [row["_id"] for row in rows]}}
                await records.delete_many(ids | expired)
            try:
                await records.update_one(
                    {"_id": _id(namespace, key)} | expired, stored, upsert=True
                )
            except DuplicateKeyError:
                return False  # one exists that has not expired
        return True

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record if it is the expected one (K2)."""
        with translated():
            current = await self._current(namespace, key)
            changed = await self._database["records"].update_one(
                current | {"value": expected}, {"$set": {"value": value}}
            )
        return changed.matched_count == 1

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record, or None."""
        with translated():
            current = await self._current(namespace, key)
            found = await self._database["records"].find_one(current)
        return None if found is None else bytes(found["value"])

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return at most `limit` records of a namespace, by key (K5)."""
        following = {"$gt": _id(namespace, after), "$lt": namespace + _AFTER_ALL_KEYS}
        with translated():
            current = _not_expired(await self._database.now()) | {"_id": following}
            found = (
                await self._database["records"].find(current).sort("_id", 1).limit(limit).to_list()
            )
        begin = len(_id(namespace, ""))
        return [Record(key=row["_id"][begin:], value=bytes(row["value"])) for row in found]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record; return whether current was one."""
        with translated():
            current = await self._current(namespace, key)
            deleted = await self._database["records"].delete_one(current)
        return deleted.deleted_count == 1

    async def _current(self, namespace: str, key: str) -> Document:
        """Return the condition of a record that has not expired."""
        return _not_expired(await self._database.now()) | {"_id": _id(namespace, key)}


def _id(namespace: str, key: str) -> str:
    """Return the id of a record; ids of a namespace sort by key."""
    return namespace + _BEFORE_ALL_KEYS + key


def _not_expired(now: datetime) -> Document:
    return {"$or": [{"expires": None}, {"expires": {"$gt": now}}]}
