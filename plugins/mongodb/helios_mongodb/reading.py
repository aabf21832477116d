"""Reading: the resources of one shard that a view shows, batch by batch."""

from array import array
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import cast

import msgspec
from bson import decode_all
from bson.int64 import Int64
from pymongo.errors import CursorNotFound

from helios_core import (
    BackendError,
    BackendUnavailable,
    Batch,
    Damaged,
    ExportView,
    Level,
    ResourceSums,
    SeqRange,
    damage_of,
    extent_of,
    line_hash,
    shortfall_of,
    to_unsigned,
)
from helios_core.fhir import Prefilter, to_stamp
from helios_mongodb.clock import SHARED_CLOCK
from helios_mongodb.contents import CHUNK_BYTES, content_of
from helios_mongodb.databases import Collection, Database, Document, Session
from helios_mongodb.errors import translated
from helios_mongodb.extents import Extent, extent_from, extents_within
from helios_mongodb.indexing import condition_of
from helios_mongodb.integrity import (
    MARKED_EXTENTS,
    check_counts,
    damage_if_few,
    damage_in,
    damaged,
    shortfalls,
)
from helios_mongodb.settings import ReadFrom
from helios_mongodb.views import deleted_by, may_show, shown_by, within

PATIENTS_AT_ONCE = 10_000
"""How many patients of a cohort one query has; each patient is sent once per shard."""

SEQS_AT_ONCE = 500
"""How many picked versions one query has."""

DAMAGED_AT_ONCE = 1000

_FIELDS = {"i": 1, "n": 1, "h": 1, "b": 1}


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The range of a shard, and the view that it is read for."""

    view: ExportView
    resource_type: str
    seqs: SeqRange


class Reading:
    """Reads shards; between two batches, the server holds nothing but a cursor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batches(
        self, of: Slice, batch_bytes: int, *, prefilter: Prefilter | None = None
    ) -> AsyncIterator[Batch]:
        """Yield the resources of a shard that are shown, and may satisfy a prefilter."""
        extents = await self._extents(of)
        tally = Tally(of, extents) if prefilter is None else None
        async with self._members() as members:
            if of.view.cohort is None:
                condition = shown_by(of.view)
                if prefilter is not None:
                    condition = {"$and": [condition, condition_of(prefilter)]}
                versions = members.versions(of.seqs, condition)
            else:
                rows = sum(extent.rows for extent in extents)
                seqs = await members.picked(of, shown_by(of.view), prefilter, rows)
                versions = members.picked_versions(seqs)
            packed = members.packed(of.resource_type, versions, batch_bytes, tally)
            async for batch in packed:
                yield batch
                del batch  # or it would stay in memory while the next one is read
        if damage := await self._damage(of, extents, tally, is_whole=prefilter is None):
            yield Batch(damaged=damage)

    async def deleted(self, of: Slice, batch_rows: int) -> AsyncIterator[Sequence[str]]:
        """
        Yield the ids of deletions that are shown.

        Raises:
            BackendError: Versions are missing or damaged.
        """
        cohort = of.view.cohort
        extents = await self._extents(of)
        if await self._damage(of, extents, None, is_whole=True):
            raise damaged(f"deletions of {of.resource_type} may be missing")
        async with self._members() as members:
            ids = list[str]()
            async for versions in members.versions(
                of.seqs, deleted_by(of.view), fields={"i": 1, "p": 1}
            ):
                for version in versions:
                    if cohort is None or not cohort.patients.isdisjoint(version["p"]):
                        ids.append(version["i"])
                    if len(ids) == batch_rows:
                        yield ids
                        ids = []
            if ids:
                yield ids

    async def _extents(self, of: Slice) -> list[Extent]:
        """
        Return the extents of a shard from which the view may show something.

        Raises:
            BackendError: An extent is damaged.
        """
        with translated():
            found = self._database["extents"].find(extents_within(of.seqs)).sort("_id", 1)
            extents = [extent_from(document) async for document in found]
        check_counts(extents)
        return [extent for extent in extents if may_show(of.view, extent)]

    async def _damage(
        self, of: Slice, extents: Sequence[Extent], tally: "Tally | None", *, is_whole: bool
    ) -> list[Damaged]:
        """
        Return a report for each extent that is damaged or lacks versions (P9).

        Extents that were counted while they were read are not read again. The others are checked
        on the primary, which has everything that extents count. If a view shows a small part of
        many extents, their versions are only counted.
        """
        lost = list[Damaged]()
        unsure = list[Extent]()
        for extent in extents:
            counted = None if tally is None else tally.report(extent)
            if counted is None:
                unsure.append(extent)
            else:
                lost += counted
        versions = self._database["versions"]
        with translated():
            if of.view.cohort is not None:
                return lost + await damage_if_few(versions, of.resource_type, unsure)
            if is_whole or len(unsure) <= MARKED_EXTENTS:
                return lost + await damage_in(versions, of.resource_type, unsure)
            return lost + await shortfalls(versions, of.resource_type, unsure)

    @asynccontextmanager
    async def _members(self) -> AsyncIterator["_Members"]:
        """
        Open the collections on the members of the replica set that exports are read from.

        A secondary responds once it has replicated what the session has seen. The session reads
        the shared clock on the primary, which the kick-off advanced to the transaction time.
        """
        preference = self._database.settings.read_preference
        if preference is ReadFrom.PRIMARY:
            yield _Members(self._database["versions"], self._database["chunks"], None)
            return
        async with self._database.session() as session:
            with translated():
                await self._database["clocks"].find_one({"_id": SHARED_CLOCK}, session=session)
            yield _Members(
                self._database.exports("versions"), self._database.exports("chunks"), session
            )


class _Members:
    """The collections that a shard is read from, with their read preference and session."""

    def __init__(self, versions: Collection, chunks: Collection, session: Session | None) -> None:
        self._versions = versions
        self._chunks = chunks
        self._session = session

    async def versions(
        self, seqs: SeqRange, condition: Document, *, fields: Mapping[str, int] = _FIELDS
    ) -> AsyncIterator[list[Document]]:
        """
        Yield the versions in a range by ascending seq, in the batches that the server sends.

        A cursor that the server has dropped is replaced.
        """
        left = seqs
        while True:
            begun_at = left
            query = {"$and": [within(left), condition]}
            try:
                with translated_cursor():
                    cursor = self._versions.find_raw_batches(query, fields, session=self._session)
                    async with cursor.sort("_id", 1) as found:
                        async for raw in found:
                            if not (versions := decode_all(cast("bytes", raw))):
                                continue
                            left = SeqRange(first=versions[-1]["_id"] + 1, end=seqs.end)
                            del raw
                            yield versions
                            del versions  # or they would stay in memory while the next ones arrive
                    return
            except CursorNotFound as error:
                if left == begun_at:
                    raise BackendUnavailable(
                        "MongoDB drops cursors before their first batch; try again later"
                    ) from error

    async def picked(
        self, of: Slice, condition: Document, prefilter: Prefilter | None, rows: int
    ) -> Sequence[int]:
        """Return the seqs of a cohort's versions, by patients or by versions, if fewer (P4)."""
        assert of.view.cohort is not None  # noqa: S101 - checked by the caller
        patients = of.view.cohort.patients
        parts = [condition] if prefilter is None else [condition, condition_of(prefilter)]
        if prefilter is None and len(patients) < rows:
            return await self._looked_up(of.seqs, condition, patients)
        disjoint = patients.isdisjoint
        found = self.versions(of.seqs, {"$and": parts}, fields={"p": 1})
        return array(
            "q",
            [row["_id"] async for rows in found for row in rows if not disjoint(row["p"])],
        )

    async def picked_versions(self, seqs: Sequence[int]) -> AsyncIterator[list[Document]]:
        """Yield the versions with these seqs, which ascend."""
        for start in range(0, len(seqs), SEQS_AT_ONCE):
            chunk = seqs[start : start + SEQS_AT_ONCE]
            among = {"_id": {"$in": list(map(Int64, chunk))}}
            bounds = SeqRange(first=chunk[0], end=chunk[-1] + 1)
            async for versions in self.versions(bounds, among):
                yield versions
                del versions

    async def packed(
        self,
        resource_type: str,
        versions: AsyncIterator[list[Document]],
        batch_bytes: int,
        tally: "Tally | None",
    ) -> AsyncIterator[Batch]:
        """Yield batches of versions; one above `batch_bytes` gets a batch of its own (P3, P6)."""
        lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
        room = batch_bytes
        async for received in versions:
            received.reverse()
            while received:
                version = received.pop()  # or it would stay in memory with all of `received`
                size, stored_hash = version["n"], version["h"]
                if tally is not None:
                    tally.count(version)
                if (lines and size > room) or len(damaged) == DAMAGED_AT_ONCE:
                    yield Batch(lines=lines, damaged=damaged, digests=digests)
                    lines, digests, damaged, room = [], [], [], batch_bytes
                line = version.get("b")
                if size > CHUNK_BYTES:
                    with translated():
                        line = await content_of(self._chunks, version, session=self._session)
                if not isinstance(line, bytes) or line_hash(line) != stored_hash:
                    line = line if isinstance(line, bytes) else None
                    damaged.append(damage_of(resource_type, version["i"], line))
                    continue
                lines.append(line)
                digests.append(to_unsigned(stored_hash))
                room -= size
                del line, version
        if lines or damaged:
            yield Batch(lines=lines, damaged=damaged, digests=digests)

    async def _looked_up(
        self, seqs: SeqRange, condition: Document, patients: Iterable[str]
    ) -> Sequence[int]:
        picked = set[int]()
        for chunk in _chunks(patients):
            of_chunk = {"$and": [{"p": {"$in": chunk}}, within(seqs), condition]}
            with translated():
                found = self._versions.find(of_chunk, {"_id": 1}, session=self._session)
                picked.update([row["_id"] async for row in found])
        return array("q", sorted(picked))


class Tally:
    """
    Counts what is read of a shard, extent by extent, to compare it with the extents.

    It covers the extents of which the view shows all that is current.
    """

    def __init__(self, of: Slice, extents: Sequence[Extent]) -> None:
        request, at = of.view.request, to_stamp(of.view.transaction_time)
        shows_all = of.view.cohort is None and request.since is None and request.until is None
        self._resource_type = of.resource_type
        self._all_resources = request.level is Level.SYSTEM
        self._sums = {
            extent.number: [0, 0, 0]
            for extent in extents
            if shows_all
            and extent.changed <= at
            and of.seqs.first <= extent.seqs.first
            and extent.seqs.end <= of.seqs.end
        }

    def count(self, version: Document) -> None:
        """Count a version that was read."""
        sums = self._sums.get(extent_of(version["_id"]))
        if sums is not None:
            sums[0] += 1
            sums[1] += version["n"]
            sums[2] += version["h"]

    def report(self, extent: Extent) -> list[Damaged] | None:
        """Return the damage of an extent, or None if it was not counted."""
        sums = self._sums.get(extent.number)
        if sums is None:
            return None
        current = extent.current(all_resources=self._all_resources)
        if ResourceSums(*sums).agree(current):
            return []
        return [shortfall_of(self._resource_type, found=sums[0], expected=current.count)]


@contextmanager
def translated_cursor() -> Iterator[None]:
    """Turn errors into those of the contract, except CursorNotFound."""
    try:
        with translated():
            yield
    except BackendError as error:
        if isinstance(error.__cause__, CursorNotFound):
            raise error.__cause__ from error
        raise


def _chunks(patients: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(patients)
    while chunk := list(islice(remaining, PATIENTS_AT_ONCE)):
        yield chunk
