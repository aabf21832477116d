"""Writing: new versions, the ends of old ones, and the counts of extents."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bson.int64 import Int64
from pymongo import ReplaceOne

from helios_core import AppliedChange, Delete, Put, extent_of, to_signed
from helios_core.fhir import FOREVER, FHIRVersion, IndexTerms, from_stamp, terms_of
from helios_mongodb.clock import Clock
from helios_mongodb.collections import Collections
from helios_mongodb.contents import CHUNK_BYTES, chunks_of
from helios_mongodb.databases import Database, Document, Session
from helios_mongodb.drafts import HEAD_FIELDS, Draft, Drafting, Head, Key, head_of
from helios_mongodb.extents import Extent, assign_seqs, extent_from, extents_of
from helios_mongodb.indexing import term_fields

_NOWHERE = 0
"""The number that stands for the missing collection of a type."""


class _NothingToWrite(Exception):
    """No change results in a new version, so the transaction is aborted."""

    def __init__(self, applied: list[AppliedChange]) -> None:
        super().__init__()
        self.applied = applied


class Writer:
    """Applies changes, one transaction at a time per tenant."""

    def __init__(self, database: Database, clock: Clock, collections: Collections) -> None:
        self._database = database
        self._clock = clock
        self._collections = collections

    async def write(
        self, tenant: str, fhir_version: FHIRVersion, changes: Sequence[Put | Delete]
    ) -> list[AppliedChange]:
        """
        Apply changes in order, in one transaction and under one stamp.

        Raises:
            VersionConflict: An `if_match` failed; nothing is changed.
        """
        if not changes:
            return []
        await self._clock.prepare(tenant)
        put = {change.resource_type for change in changes if isinstance(change, Put)}
        collections = dict(await self._collections.intern(tenant, fhir_version, put))
        deleted = {change.resource_type for change in changes} - put
        collections |= await self._collections.find(tenant, fhir_version, deleted)
        keyed = [
            (change, (collections.get(change.resource_type, _NOWHERE), change.id))
            for change in changes
        ]

        async def work(session: Session) -> list[AppliedChange]:
            stamp = await self._clock.write_stamp(session, tenant)
            return await self._apply(session, stamp, fhir_version, keyed)

        async with self._clock.turn(tenant):
            try:
                return await self._database.write(work)
            except _NothingToWrite as nothing:
                return nothing.applied

    async def _apply(
        self,
        session: Session,
        stamp: int,
        fhir_version: FHIRVersion,
        changes: Sequence[tuple[Put | Delete, Key]],
    ) -> list[AppliedChange]:
        drafting = Drafting(await self._heads(session, {key for _, key in changes}))
        instant = from_stamp(stamp)
        outcomes = [drafting.apply(change, key) for change, key in changes]
        applied = [outcome.applied(instant) for outcome in outcomes]
        drafts = drafting.drafts
        if not drafts:
            raise _NothingToWrite(applied)
        for draft in drafts:
            draft.stamp(instant)
        extents = assign_seqs(drafts, await self._extents(session, drafts), stamp)
        await self._end(session, stamp, drafts)
        await self._store(session, stamp, fhir_version, drafts)
        changed = [extent.document() for extent in extents]
        await self._database["extents"].bulk_write(
            [ReplaceOne({"_id": new["_id"]}, new, upsert=True) for new in changed],
            ordered=False,
            session=session,
        )
        return applied

    async def _heads(self, session: Session, keys: set[Key]) -> dict[Key, Head]:
        by_collection = defaultdict[int, list[str]](list)
        for collection, resource_id in keys:
            by_collection[collection].append(resource_id)
        heads = dict[Key, Head]()
        for collection, ids in by_collection.items():
            newest = {"c": collection, "i": {"$in": ids}, "u": FOREVER}
            found = self._database["versions"].find(newest, HEAD_FIELDS, session=session)
            async for version in found:
                heads[collection, version["i"]] = head_of(version)
        return heads

    async def _extents(self, session: Session, drafts: Sequence[Draft]) -> dict[int, Extent]:
        """Return the last extent of each collection, and those of versions that end, by number."""
        extents = self._database["extents"]
        found = dict[int, Extent]()
        for collection in {draft.key[0] for draft in drafts}:
            last = await extents.find_one(
                extents_of(collection), sort=[("_id", -1)], session=session
            )
            if last is not None:
                found[last["_id"]] = extent_from(last)
        ended = {extent_of(draft.before.seq) for draft in drafts if isinstance(draft.before, Head)}
        if further := [Int64(number) for number in ended - found.keys()]:
            async for document in extents.find({"_id": {"$in": further}}, session=session):
                found[document["_id"]] = extent_from(document)
        return found

    async def _end(self, session: Session, stamp: int, drafts: Iterable[Draft]) -> None:
        ended = [draft.before.seq for draft in drafts if isinstance(draft.before, Head)]
        if ended:
            await self._database["versions"].update_many(
                {"_id": {"$in": list(map(Int64, ended))}},
                {"$set": {"u": Int64(stamp)}},
                session=session,
            )

    async def _store(
        self, session: Session, stamp: int, fhir_version: FHIRVersion, drafts: Sequence[Draft]
    ) -> None:
        versions = [_document(draft, stamp, fhir_version) for draft in drafts]
        await self._database["versions"].insert_many(versions, session=session)
        for draft in drafts:
            if draft.line is not None and draft.size > CHUNK_BYTES:
                chunks = chunks_of(draft.seq, draft.line)
                await self._database["chunks"].insert_many(chunks, session=session)


def _document(draft: Draft, stamp: int, fhir_version: FHIRVersion) -> Document:
    collection, resource_id = draft.key
    document: Document = {
        "_id": Int64(draft.seq),
        "c": collection,
        "i": resource_id,
        "v": draft.version_id,
        "s": Int64(stamp),
        "u": Int64(stamp if draft.ended else FOREVER),
        "d": draft.deleted,
        "h": Int64(draft.line_hash),
        "g": Int64(to_signed(draft.content_hash)),
        "n": draft.size,
        "p": draft.patients,
    }
    if draft.line is not None:
        document |= term_fields(_terms(draft, draft.line, fhir_version))
        if draft.size <= CHUNK_BYTES:
            document["b"] = draft.line
    return document


def _terms(draft: Draft, line: bytes, fhir_version: FHIRVersion) -> IndexTerms:
    resource = draft.resource
    if resource is None:
        return IndexTerms()
    return resource.terms or terms_of(line, fhir_version, resource.resource_type)
