"""Extents: numbered runs of a collection's versions, with counts and sums of each."""

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
"""How many low bits of an extent's number count within its collection."""

UNSOUND = -1
"""Stored as the check of an extent that is not sound; real checks are never negative."""

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
    """The counts and sums of an extent, which show whether something is lost or changed."""

    number: int
    rows: int = 0
    bytes: int = 0
    live: int = 0
    """How many versions are current and no deletions; `live_*` is about these."""
    live_bytes: int = 0
    live_hash: int = 0
    """The sum of the hashes of their lines."""
    compartment_live: int = 0
    """How many of the live ones are in a patient's compartment; `compartment_*` is about these."""
    compartment_bytes: int = 0
    compartment_hash: int = 0
    first: int = FOREVER
    last: int = -1
    """`first` and `last` are the stamps of its first and its last version."""
    changed: int = -1
    """The latest stamp at which one of its versions began or ended."""
    sum: int = 0
    """The sum of the marks of all its versions and of their ends."""
    sound: bool = True
    """Whether what was read is what was written."""

    @property
    def seqs(self) -> SeqRange:
        """The range of the seqs of its versions."""
        base = self.number << EXTENT_BITS
        return SeqRange(first=base, end=base + self.rows)

    def takes(self, size: int) -> bool:
        """Return whether a version of `size` bytes fits; the first one always does."""
        return self.rows == 0 or (self.rows < EXTENT_ROWS and self.bytes + size <= EXTENT_BYTES)

    def add(self, draft: Draft, stamp: int) -> None:
        """Append a version: set its seq, and count it."""
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

    def current(self, *, all_resources: bool) -> ResourceSums:
        """Return the sums of live resources, of all or only of those in compartments."""
        if all_resources:
            return ResourceSums(self.live, self.live_bytes, self.live_hash)
        return ResourceSums(self.compartment_live, self.compartment_bytes, self.compartment_hash)

    def document(self) -> Document:
        """Return its document; an extent that is not sound remains so."""
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
    """Return the extent of a document; `sound` is False if its check does not match."""
    counts: dict[str, Any] = {name: document.get(name) for name in _COUNTS}
    if not all(isinstance(count, int) for count in counts.values()):
        return Extent(number=document["_id"], sound=False)
    sound = document.get("check") == _check(document["_id"], counts)
    return Extent(number=document["_id"], sound=sound, **counts)


def assign_seqs(drafts: Sequence[Draft], stored: Mapping[int, Extent], stamp: int) -> list[Extent]:
    """
    Set the seqs of all drafts, ascending within a collection; return the extents that change.

    `stored` holds, by number, the last extent of each collection, and the extents of all versions
    that the drafts end.
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
            # An extent that is missing must not seem intact afterwards.
            changed[number] = ended = ended or Extent(number=number, sound=False)
            ended.end(draft.before, stamp)
    return list(changed.values())


def extents_within(seqs: SeqRange) -> Document:
    """Return the condition of the extents that overlap a range of seqs."""
    first, last = seqs.extents
    return {"_id": {"$gte": Int64(first), "$lte": Int64(last)}}


def extents_of(collection: int) -> Document:
    """Return the condition of the extents of a collection."""
    return extents_within(collection_range(collection))


def mark_of(draft: Draft, stamp: int) -> int:
    """Return the mark of a new version."""
    patients = " ".join(draft.patients)
    return version_mark(
        (
            *(draft.seq, draft.key[1], draft.version_id, stamp, int(draft.deleted)),
            *(patients, draft.size, draft.line_hash),
        )
    )


def mark_of_stored(version: Mapping[str, Any]) -> int:
    """Return the mark of a stored version, whose fields may be damaged."""
    patients = " ".join(map(str, version.get("p") or ()))
    fields = (version.get(name) for name in ("_id", "i", "v", "s"))
    return version_mark(
        (*fields, int(bool(version.get("d"))), patients, version.get("n"), version.get("h"))
    )


MARKED_FIELDS = {"i": 1, "v": 1, "s": 1, "d": 1, "p": 1, "n": 1, "h": 1, "u": 1}
"""The fields that the marks of a version and of its end are computed from."""


def _first(collection: int) -> int:
    return collection << _EXTENT_NUMBER_BITS


def _check(number: int, counts: Mapping[str, Any]) -> int:
    text = " ".join(str(int(counts[name])) for name in _COUNTS)
    return line_hash(f"{number} {text}".encode()) & SUM_MASK
