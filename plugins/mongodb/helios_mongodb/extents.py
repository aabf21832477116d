"""Extents: runs of a collection, filled one after the other, and how much there is in each."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from bson.int64 import Int64
from pymongo import UpdateOne

from helios_core import (
    COLLECTION_BITS,
    EXTENT_BITS,
    EXTENT_BYTES,
    EXTENT_ROWS,
    SeqRange,
    collection_range,
    extent_of,
)
from helios_mongodb.databases import Document
from helios_mongodb.drafts import Draft, Head


class Extent(msgspec.Struct, kw_only=True):
    """What is in an extent, and what a transaction changes about it."""

    number: int
    rows: int = 0
    bytes: int = 0
    added_rows: int = 0
    added_bytes: int = 0
    live: int = 0
    """How many more versions are no deletions and not ended."""
    live_bytes: int = 0
    compartment_live: int = 0
    """Of those, in the compartment of any patient."""
    compartment_bytes: int = 0

    def takes(self, size: int) -> bool:
        """Whether there is room for one more; the first one always has."""
        rows, filled = self.rows + self.added_rows, self.bytes + self.added_bytes
        return rows == 0 or (rows < EXTENT_ROWS and filled + size <= EXTENT_BYTES)

    def add(self, draft: Draft) -> None:
        """Make room for a version, and number it."""
        draft.seq = (self.number << EXTENT_BITS) + self.rows + self.added_rows
        self.added_rows += 1
        self.added_bytes += draft.size
        self.count(draft, 1)

    def count(self, version: Draft | Head, by: int) -> None:
        """Count a version that begins or ends."""
        if version.deleted:
            return
        self.live += by
        self.live_bytes += by * version.size
        if version.patients:
            self.compartment_live += by
            self.compartment_bytes += by * version.size

    def change(self, stamp: int) -> UpdateOne:
        """Return the change of its document."""
        change: Document = {
            "$inc": {
                "rows": self.added_rows,
                "bytes": Int64(self.added_bytes),
                "live": self.live,
                "live_bytes": Int64(self.live_bytes),
                "compartment_live": self.compartment_live,
                "compartment_bytes": Int64(self.compartment_bytes),
            }
        }
        if self.added_rows:
            change["$min"] = {"first": Int64(stamp)}
            change["$max"] = {"last": Int64(stamp)}
        return UpdateOne({"_id": Int64(self.number)}, change, upsert=True)


def place(drafts: Sequence[Draft], latest: Mapping[int, Extent]) -> Iterable[Extent]:
    """
    Number all drafts, ascending within a collection, and count what begins and ends.

    `latest` has the last extent of each collection that has one.
    """
    filling = dict(latest)
    extents = {extent.number: extent for extent in filling.values()}
    for draft in drafts:
        collection = draft.key[0]
        extent = filling.get(collection)
        if extent is None or not extent.takes(draft.size):
            number = _first(collection) if extent is None else extent.number + 1
            extent = filling[collection] = extents[number] = Extent(number=number)
        extent.add(draft)
        if draft.before is not None:
            number = extent_of(draft.before.seq)
            extents.setdefault(number, Extent(number=number)).count(draft.before, -1)
    return extents.values()


def extents_within(seqs: SeqRange) -> Document:
    """Return the condition of the extents that a range touches."""
    first, last = seqs.extents
    return {"_id": {"$gte": Int64(first), "$lte": Int64(last)}}


def extents_of(collection: int) -> Document:
    """Return the condition of the extents of a collection."""
    return extents_within(collection_range(collection))


def _first(collection: int) -> int:
    return collection << (COLLECTION_BITS - EXTENT_BITS)
