"""Extents: runs of a collection, filled one after the other, and how much there is in each."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from bson.int64 import Int64

from helios_core import (
    COLLECTION_BITS,
    EXTENT_BITS,
    EXTENT_BYTES,
    EXTENT_ROWS,
    SUM_MASK,
    ResourceSums,
    SeqRange,
    collection_range,
    ending_mark,
    extent_of,
    line_hash,
    version_mark,
)
from helios_core.fhir import FOREVER
from helios_mongodb.databases import Document
from helios_mongodb.drafts import Draft, Head

_EXTENT_NUMBER_BITS = COLLECTION_BITS - EXTENT_BITS
"""How many lower bits of an extent's number its collection has for itself."""

UNSOUND = -1
"""In the place of a check, which is never negative."""

_COUNTS = (
    "rows",
    "bytes",
    "live",
    "live_bytes",
    "live_hash",
    "compartment_live",
    "compartment_bytes",
    "compartment_hash",
    "first",
    "last",
    "changed",
    "sum",
)


class Extent(msgspec.Struct, kw_only=True):
    """What must be in an extent, and when it was written."""

    number: int
    rows: int = 0
    bytes: int = 0
    live: int = 0
    """How many versions are no deletions and not ended."""
    live_bytes: int = 0
    live_hash: int = 0
    """The sum of the hashes of their lines."""
    compartment_live: int = 0
    """Of those, in the compartment of any patient."""
    compartment_bytes: int = 0
    compartment_hash: int = 0
    first: int = FOREVER
    last: int = -1
    """The stamps of its first and its last version."""
    changed: int = -1
    """The last stamp at which a version began or ended."""
    sum: int = 0
    """The sum of the marks of all versions and of their ends."""
    sound: bool = True
    """Whether it was read as it was written."""

    @property
    def seqs(self) -> SeqRange:
        """The range of its versions."""
        base = self.number << EXTENT_BITS
        return SeqRange(first=base, end=base + self.rows)

    def takes(self, size: int) -> bool:
        """Whether there is room for one more; the first one always has."""
        return self.rows == 0 or (self.rows < EXTENT_ROWS and self.bytes + size <= EXTENT_BYTES)

    def add(self, draft: Draft, stamp: int) -> None:
        """Make room for a version, number it, and count it."""
        draft.seq = (self.number << EXTENT_BITS) + self.rows
        self.rows += 1
        self.bytes += draft.size
        self.first, self.last = min(self.first, stamp), stamp
        self._count(draft, 1)
        self._mark(mark_of(draft, stamp), stamp)

    def end(self, version: Draft | Head, stamp: int) -> None:
        """Count the end of a version."""
        self._count(version, -1)
        self._mark(ending_mark(version.seq, stamp), stamp)

    def current(self, *, everybody: bool) -> ResourceSums:
        """Return what is current in it, of everybody or only in compartments."""
        if everybody:
            return ResourceSums(self.live, self.live_bytes, self.live_hash)
        return ResourceSums(self.compartment_live, self.compartment_bytes, self.compartment_hash)

    def document(self) -> Document:
        """Return it as it is stored; one that was not sound stays so."""
        counts = {name: Int64(getattr(self, name)) for name in _COUNTS}
        check = _check(self.number, counts) if self.sound else UNSOUND
        return {"_id": Int64(self.number), **counts, "check": Int64(check)}

    def _mark(self, mark: int, stamp: int) -> None:
        self.sum = (self.sum + mark) & SUM_MASK
        self.changed = max(self.changed, stamp)

    def _count(self, version: Draft | Head, by: int) -> None:
        if version.deleted:
            return
        self.live += by
        self.live_bytes += by * version.size
        self.live_hash = (self.live_hash + by * version.line_hash) & SUM_MASK
        if version.patients:
            self.compartment_live += by
            self.compartment_bytes += by * version.size
            self.compartment_hash = (self.compartment_hash + by * version.line_hash) & SUM_MASK


def extent_from(document: Mapping[str, Any]) -> Extent:
    """Return an extent as it was read, and whether that is as it was written."""
    counts: dict[str, Any] = {name: document.get(name) for name in _COUNTS}
    if not all(isinstance(count, int) for count in counts.values()):
        return Extent(number=document["_id"], sound=False)
    sound = document.get("check") == _check(document["_id"], counts)
    return Extent(number=document["_id"], sound=sound, **counts)


def place(drafts: Sequence[Draft], stored: Mapping[int, Extent], stamp: int) -> list[Extent]:
    """
    Number all drafts, ascending within a collection, and count what begins and ends.

    `stored` has, by their numbers, the last extent of each collection that has one, and those of
    the versions that end. Return those that change.
    """
    filling = {number >> _EXTENT_NUMBER_BITS: stored[number] for number in sorted(stored)}
    changed = dict[int, Extent]()
    for draft in drafts:
        collection = draft.key[0]
        extent = filling.get(collection)
        if extent is None or not extent.takes(draft.size):
            number = _first(collection) if extent is None else extent.number + 1
            extent = filling[collection] = Extent(number=number)
        changed[extent.number] = extent
        extent.add(draft, stamp)
        if draft.before is not None:
            number = extent_of(draft.before.seq)
            ended = changed.get(number) or stored.get(number)
            # What is lost is not to look as if it were there.
            changed[number] = ended = ended or Extent(number=number, sound=False)
            ended.end(draft.before, stamp)
    return list(changed.values())


def extents_within(seqs: SeqRange) -> Document:
    """Return the condition of the extents that a range touches."""
    first, last = seqs.extents
    return {"_id": {"$gte": Int64(first), "$lte": Int64(last)}}


def extents_of(collection: int) -> Document:
    """Return the condition of the extents of a collection."""
    return extents_within(collection_range(collection))


def mark_of(draft: Draft, stamp: int) -> int:
    """Return the mark of a version that begins."""
    patients = " ".join(draft.patients)
    return version_mark(
        (
            *(draft.seq, draft.key[1], draft.version_id, stamp, int(draft.deleted)),
            *(patients, draft.size, draft.line_hash),
        )
    )


def mark_of_stored(version: Mapping[str, Any]) -> int:
    """Return the mark of a version as it is stored."""
    patients = " ".join(map(str, version.get("p") or ()))
    fields = (version.get(name) for name in ("_id", "i", "v", "s"))
    return version_mark(
        (*fields, int(bool(version.get("d"))), patients, version.get("n"), version.get("h"))
    )


MARKED_FIELDS = {"i": 1, "v": 1, "s": 1, "d": 1, "p": 1, "n": 1, "h": 1, "u": 1}
"""What the mark of a version is about, and its end."""


def _first(collection: int) -> int:
    return collection << _EXTENT_NUMBER_BITS


def _check(number: int, counts: Mapping[str, Any]) -> int:
    text = " ".join(str(int(counts[name])) for name in _COUNTS)
    return line_hash(f"{number} {text}".encode()) & SUM_MASK
