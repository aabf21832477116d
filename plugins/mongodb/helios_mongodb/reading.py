"""Read what a view shows of one shard, batch by batch."""

from array import array
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice

import msgspec
from bson.int64 import Int64
from pymongo.errors import CursorNotFound

from helios_core import (
    BackendError,
    Batch,
    Damaged,
    ExportView,
    SeqRange,
    damage_of,
    line_hash,
    to_unsigned,
)
from helios_core.fhir import Prefilter
from helios_mongodb.clock import EVERYBODY
from helios_mongodb.contents import CHUNK_BYTES, content_of
from helios_mongodb.databases import Collection, Database, Document, Session
from helios_mongodb.errors import translated
from helios_mongodb.extents import extents_within
from helios_mongodb.integrity import FEW_EXTENTS, damage_in
from helios_mongodb.settings import ReadFrom
from helios_mongodb.terms import condition_of
from helios_mongodb.views import deleted_by, shown_by, within

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
        async with self._members() as members:
            if of.view.cohort is None:
                condition = shown_by(of.view)
                if prefilter is not None:
                    condition = {"$and": [condition, condition_of(prefilter)]}
                versions = members.versions(of.seqs, condition)
            else:
                seqs = await members.picked(of, shown_by(of.view), prefilter)
                versions = members.picked_versions(seqs)
            if damaged := await members.damage(of):
                yield Batch(damaged=damaged)
            async for batch in members.packed(of.resource_type, versions, batch_bytes):
                yield batch
                del batch  # or it would be kept while the next one is read

    async def deleted(self, of: Slice, batch_rows: int) -> AsyncIterator[Sequence[str]]:
        """Yield the ids of the deletions that are shown."""
        cohort = of.view.cohort
        async with self._members() as members:
            ids = list[str]()
            async for version in members.versions(
                of.seqs, deleted_by(of.view), fields={"i": 1, "p": 1}
            ):
                if cohort is None or not cohort.patients.isdisjoint(version["p"]):
                    ids.append(version["i"])
                if len(ids) == batch_rows:
                    yield ids
                    ids = []
            if ids:
                yield ids

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
    ) -> AsyncIterator[Document]:
        """Yield the versions in a range, ascending; a cursor that was dropped is replaced."""
        left = seqs
        while True:
            query = {"$and": [within(left), condition]}
            try:
                with translated_cursor():
                    cursor = self._versions.find(query, fields, session=self._session)
                    async with cursor.sort("_id", 1) as found:
                        async for version in found:
                            left = SeqRange(first=version["_id"] + 1, end=seqs.end)
                            yield version
                    return
            except CursorNotFound:
                continue

    async def damage(self, of: Slice) -> list[Damaged]:
        """Return a report for each extent of a shard that lacks versions (P9)."""
        with translated():
            extents = await self._extents_of(of.seqs)
            if of.view.cohort is not None and len(extents) > FEW_EXTENTS:
                return []
            return await damage_in(self._versions, of.resource_type, extents, of.seqs)

    async def picked(
        self, of: Slice, condition: Document, prefilter: Prefilter | None
    ) -> Sequence[int]:
        """Return the seqs of a cohort's versions, looked up from the smaller side (P4)."""
        assert of.view.cohort is not None  # noqa: S101 - the caller looked
        patients = of.view.cohort.patients
        parts = [condition] if prefilter is None else [condition, condition_of(prefilter)]
        if prefilter is None and await self._is_small(of.seqs, len(patients)):
            return await self._looked_up(of.seqs, condition, patients)
        disjoint = patients.isdisjoint
        found = self.versions(of.seqs, {"$and": parts}, fields={"p": 1})
        return array("q", [each["_id"] async for each in found if not disjoint(each["p"])])

    async def picked_versions(self, seqs: Sequence[int]) -> AsyncIterator[Document]:
        """Yield versions by their seqs, which ascend."""
        for start in range(0, len(seqs), SEQS_AT_ONCE):
            some = seqs[start : start + SEQS_AT_ONCE]
            among = {"_id": {"$in": list(map(Int64, some))}}
            bounds = SeqRange(first=some[0], end=some[-1] + 1)
            async for version in self.versions(bounds, among):
                yield version

    async def packed(
        self, resource_type: str, versions: AsyncIterator[Document], batch_bytes: int
    ) -> AsyncIterator[Batch]:
        """Yield versions in batches; a large one is alone (P3, P6)."""
        lines, digests, damaged = list[bytes](), list[int](), list[Damaged]()
        room = batch_bytes
        async for version in versions:
            if (lines and version["n"] > room) or len(damaged) == DAMAGED_AT_ONCE:
                yield Batch(lines=lines, damaged=damaged, digests=digests)
                lines, digests, damaged, room = [], [], [], batch_bytes
            line = version.get("b")
            if version["n"] > CHUNK_BYTES:
                with translated():
                    line = await content_of(self._chunks, version, session=self._session)
            if not isinstance(line, bytes) or line_hash(line) != version["h"]:
                line = line if isinstance(line, bytes) else None
                damaged.append(damage_of(resource_type, version["i"], line))
                continue
            lines.append(line)
            digests.append(to_unsigned(version["h"]))
            room -= len(line)
            del line, version
        if lines or damaged:
            yield Batch(lines=lines, damaged=damaged, digests=digests)

    async def _is_small(self, seqs: SeqRange, patients: int) -> bool:
        """Whether there are fewer patients than versions to look at."""
        with translated():
            rows: int = sum(extent["rows"] for extent in await self._extents_of(seqs))
        return patients < rows

    async def _extents_of(self, seqs: SeqRange) -> list[Document]:
        """Return the extents of a range, of the primary, which has counted all there is."""
        extents = self._versions.database["extents"]
        return await extents.find(extents_within(seqs), {"rows": 1}).sort("_id", 1).to_list()

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
