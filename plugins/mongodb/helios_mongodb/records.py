"""Records of plugins in MongoDB."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from helios_core import Record
from helios_mongodb.databases import Database, Document
from helios_mongodb.errors import translated
from helios_mongodb.waits import from_now

_EXPIRED: Document = {
    "$and": [{"$ne": [{"$ifNull": ["$expires", None]}, None]}, {"$lte": ["$expires", "$$NOW"]}]
}
_THERE: Document = {"$expr": {"$not": [_EXPIRED]}}


class MongoRecords:
    """Keeps records beside the jobs; every change is one command on one document."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert_record(
        self, namespace: str, key: str, value: bytes, *, keep_for: timedelta | None = None
    ) -> bool:
        """Store a record where none is, and remove those whose time is over (K1, K3)."""
        records = self._database["records"]
        attempt = uuid4().bytes
        free = {"$or": [{"$eq": [{"$type": "$attempt"}, "missing"]}, _EXPIRED]}
        expires = None if keep_for is None else from_now(keep_for)

        def if_free(new: object, field: str) -> Document:
            return {"$cond": ["$$free", new, f"${field}"]}

        fields = {
            "value": if_free({"$literal": value}, "value"),
            "expires": if_free(expires, "expires"),
            "attempt": if_free({"$literal": attempt}, "attempt"),
        }
        change = {"$replaceWith": {"$mergeObjects": ["$$ROOT", _let_free(free, fields)]}}
        with translated():
            others = {"key": {"$ne": key}, "$expr": _EXPIRED}
            await records.delete_many(others)
            while True:
                try:
                    stored = await records.find_one_and_update(
                        {"namespace": namespace, "key": key},
                        [change],
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
                except DuplicateKeyError:
                    continue  # another call has inserted it in the meantime
                return bool(stored is not None and stored["attempt"] == attempt)

    async def replace_record(
        self, namespace: str, key: str, expected: bytes, value: bytes
    ) -> bool:
        """Replace the value of a record that has the expected one (K2)."""
        there = {"namespace": namespace, "key": key, "value": expected} | _THERE
        with translated():
            changed = await self._database["records"].update_one(there, {"$set": {"value": value}})
        return changed.matched_count == 1

    async def record(self, namespace: str, key: str) -> bytes | None:
        """Return the value of a record."""
        there = {"namespace": namespace, "key": key} | _THERE
        with translated():
            found = await self._database["records"].find_one(there, {"value": 1})
        return None if found is None else bytes(found["value"])

    async def records(
        self, namespace: str, *, after: str = "", limit: int = 100
    ) -> Sequence[Record]:
        """Return records of a namespace, by key (K5)."""
        if limit <= 0:
            return []
        there = {"namespace": namespace, "key": {"$gt": after}} | _THERE
        with translated():
            found = self._database["records"].find(there).sort("key", 1).limit(limit)
            return [Record(key=each["key"], value=each["value"]) async for each in found]

    async def delete_record(self, namespace: str, key: str) -> bool:
        """Delete a record."""
        there = {"namespace": namespace, "key": key} | _THERE
        with translated():
            deleted = await self._database["records"].delete_one(there)
        return deleted.deleted_count == 1


def _let_free(free: Document, fields: Document) -> Document:
    return {"$let": {"vars": {"free": free}, "in": fields}}
