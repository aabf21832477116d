"""Read what a view shows of one shard, batch by batch."""

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
from helios_mongodb.clock import EVERYBODY
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
"""How many patients of a cohort are sent together; each is sent once for a shard."""

SEQS_AT_ONCE = 500
"""How many picked versions are asked for together."""

DAMAGED_AT_ONCE = 1000

_FIELDS = {"i": 1, "n": 1, "h": 1, "b": 1}


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a shard."""

    view: ExportView
    resource_type: str
    seqs: SeqRange


class Reading:
    """Reads shards; nothing is held by the server between two batches but a cursor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batches(
        self, of: Slice, batch_bytes: int, *, prefilter: Prefilter | None = None
    ) -> AsyncIterator[Batch]:
        """Yield what is shown of a shard, of what may satisfy a prefilter if there is one."""
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
                del batch  # or it would be kept while the next one is read
        if damage := await self._damage(of, extents, tally, is_whole=prefilter is None):
            yield Batch(damaged=damage)

    async def deleted(self, of: Slice, batch_rows: int) -> AsyncIterator[Sequence[str]]:
        """
        Yield the ids of the deletions that are shown.

        Raises:
            BackendError: Versions are not as they were written.
        """
        cohort = of.view.cohort
        extents = await self._extents(of)
        if await self._damage(of, extents, None, is_whole=True):
            raise damaged(f"what was deleted of {of.resource_type} is not known")
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
        Return the extents of a shard that the view may show something of.

        Raises:
            BackendError: They are not as they were written.
        """
        with translated():
            found = self._database["extents"].find(extents_within(of.seqs)).sort("_id", 1)
            extents = [extent_from(each) async for each in found]
        check_counts(extents)
        return [extent for extent in extents if may_show(of.view, extent)]

    async def _damage(
        self, of: Slice, extents: Sequence[Extent], tally: "Tally | None", *, is_whole: bool
    ) -> list[Damaged]:
        """
        Return a report for each extent that is not as it was written (P9).

        What was counted while it was read is not read again. The rest is looked at on the primary,
        which has all that extents count; where a view shows a small part of many extents, their
        versions are only counted.
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
        Open the members of the replica set that exports are read from.

        A secondary answers when it has reached what the session has seen. That is the clock of
        everybody on the primary, which was advanced to the transaction time or later.
        """
        preference = self._database.settings.read_preference
        if preference is ReadFrom.PRIMARY:
            yield _Members(self._database["versions"], self._database["chunks"], None)
            return
        async with self._database.session() as session:
            with translated():
                await self._database["clocks"].find_one({"_id": EVERYBODY}, session=session)
            yield _Members(
                self._database.exports("versions"), self._database.exports("chunks"), session
            )


class _Members:
    """The collections of those members that a shard is read from."""

    def __init__(self, versions: Collection, chunks: Collection, session: Session | None) -> None:
        self._versions = versions
        self._chunks = chunks
        self._session = session

    async def versions(
        self, seqs: SeqRange, condition: Document, *, fields: Mapping[str, int] = _FIELDS
    ) -> AsyncIterator[list[Document]]:
        """
        Yield the versions in a range, ascending, as many at once as the server sends together.

        A cursor that the server dropped is replaced.
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
                            del versions  # or they would be kept while the next ones come
                    return
            except CursorNotFound as error:
                if left == begun_at:
                    raise BackendUnavailable(
                        "MongoDB drops each cursor before it gives anything; try again later"
                    ) from error

    async def picked(
        self, of: Slice, condition: Document, prefilter: Prefilter | None, rows: int
    ) -> Sequence[int]:
        """Return the seqs of a cohort's versions, looked up from the smaller side (P4)."""
        assert of.view.cohort is not None  # noqa: S101 - the caller looked
        patients = of.view.cohort.patients
        parts = [condition] if prefilter is None else [condition, condition_of(prefilter)]
        if prefilter is None and len(patients) < rows:
            return await self._looked_up(of.seqs, condition, patients)
        disjoint = patients.isdisjoint
        found = self.versions(of.seqs, {"$and": parts}, fields={"p": 1})
        return array(
            "q",
            [each["_id"] async for some in found for each in some if not disjoint(each["p"])],
        )

    async def picked_versions(self, seqs: Sequence[int]) -> AsyncIterator[list[Document]]:
        """Yield versions by their seqs, which ascend."""
        for start in range(0, len(seqs), SEQS_AT_ONCE):
            some = seqs[start : start + SEQS_AT_ONCE]
            among = {"_id": {"$in": list(map(Int64, some))}}
            bounds = SeqRange(first=some[0], end=some[-1] + 1)
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
        """Yield versions in batches; a large one is alone (P3, P6)."""
        lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
        room = batch_bytes
        async for some in versions:
            some.reverse()
            while some:
                version = some.pop()  # or it would be kept as long as those that came with it
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
        for some in _chunks(patients):
            theirs = {"$and": [{"p": {"$in": some}}, within(seqs), condition]}
            with translated():
                found = self._versions.find(theirs, {"_id": 1}, session=self._session)
                picked.update([each["_id"] async for each in found])
        return array("q", sorted(picked))


class Tally:
    """What was read of a shard, extent by extent, if that must be all that is current there."""

    def __init__(self, of: Slice, extents: Sequence[Extent]) -> None:
        request, at = of.view.request, to_stamp(of.view.transaction_time)
        all_of_it = of.view.cohort is None and request.since is None and request.until is None
        self._resource_type = of.resource_type
        self._everybody = request.level is Level.SYSTEM
        self._sums = {
            extent.number: [0, 0, 0]
            for extent in extents
            if all_of_it
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
        """Return what an extent lacks, None if that is not known."""
        sums = self._sums.get(extent.number)
        if sums is None:
            return None
        current = extent.current(everybody=self._everybody)
        if ResourceSums(*sums).agree(current):
            return []
        return [shortfall_of(self._resource_type, found=sums[0], expected=current.count)]


@contextmanager
def translated_cursor() -> Iterator[None]:
    """Turn errors into those of the contract, but for that of a cursor the server dropped."""
    try:
        with translated():
            yield
    except BackendError as error:
        if isinstance(error.__cause__, CursorNotFound):
            raise error.__cause__ from error
        raise


def _chunks(patients: Iterable[str]) -> Iterator[list[str]]:
    left = iter(patients)
    while some := list(islice(left, PATIENTS_AT_ONCE)):
        yield some
