"""Writing: new versions, the endings of old ones, and the counts of extents."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from helios_core import (
    AppliedChange,
    BackendUnavailable,
    CompartmentSums,
    Delete,
    Put,
    line_hash,
    read_statements,
    to_signed,
    to_unsigned,
)
from helios_core.fhir import FHIRVersion, IndexTerms, from_stamp, terms_of
from helios_postgres import extents
from helios_postgres.clock import Clock
from helios_postgres.collections import Collections
from helios_postgres.compartments import add_sums
from helios_postgres.connections import Connection
from helios_postgres.databases import Database
from helios_postgres.drafts import Draft, Drafting, Head, Key, changes_by_key
from helios_postgres.indexing import IndexSums, Postings

_SQL = read_statements("helios_postgres", "writing")

RETRIES = 10
"""How often a write is repeated because others created the same resources concurrently."""

_HEAD_COLUMNS = (
    *(
        "collection",
        "id",
        "seq",
        "content_hash",
        "version_id",
        "size",
        "deleted",
        "in_compartment",
    ),
    "since_stamp",
)
_VERSION_COLUMNS = (
    *("seq", "since_stamp", "line_hash", "size", "version_id", "deleted", "id", "patients"),
    "content",
)
_ENDING_COLUMNS = ("seq", "until_stamp", "collection", "version_id", "id")


class Writer:
    """
    Applies changes, concurrently with other writers.

    Writers of the same resource wait for each other at its head. Heads are locked in one order, so
    that there are no deadlocks. Writers of different resources never wait for each other.
    """

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
        put = {change.resource_type for change in changes if isinstance(change, Put)}
        collections = dict(await self._collections.intern(tenant, fhir_version, put))
        deleted = {change.resource_type for change in changes} - put
        collections |= await self._collections.find(tenant, fhir_version, deleted)
        keyed = changes_by_key(changes, collections)
        for _ in range(RETRIES):
            try:
                return await self._database.write(self._apply, fhir_version, keyed)
            except BackendUnavailable as error:
                race = error.__cause__
                if getattr(race, "constraint_name", None) != "resources_pkey":
                    raise
        return await self._database.write(self._apply, fhir_version, keyed)

    async def _apply(
        self,
        connection: Connection,
        fhir_version: FHIRVersion,
        changes: Sequence[tuple[Put | Delete, Key]],
    ) -> list[AppliedChange]:
        await connection.fetchrow(_SQL["patience"])
        drafting = Drafting(await _lock(connection, {key for _, key in changes}))
        outcomes = [drafting.apply(change, key) for change, key in changes]
        if not drafting.drafts:
            return [outcome.applied(None) for outcome in outcomes]
        await _look_up_patients(connection, drafting.drafts)
        held = await extents.hold(connection, {draft.key[0] for draft in drafting.drafts})
        stamp = await self._clock.write_stamp(connection)
        journal = _Journal(drafting, stamp, fhir_version)
        filled = await extents.assign_seqs(connection, journal.drafts, held)
        index = await journal.store(connection)
        sums = CompartmentSums()
        await extents.count_begun(connection, filled, stamp, index, sums)
        await extents.count_ended(connection, drafting.drafts, stamp, sums)
        await add_sums(connection, sums)
        return [outcome.applied(journal.instant) for outcome in outcomes]


class _Journal:
    """The rows that one transaction will write, sorted by collection."""

    def __init__(self, drafting: Drafting, stamp: int, fhir_version: FHIRVersion) -> None:
        self.stamp = stamp
        self.instant = from_stamp(stamp)
        self.drafts = sorted(drafting.drafts, key=lambda draft: draft.key[0])
        self._drafting = drafting
        self._fhir_version = fhir_version
        self._lines = [self._line(draft) for draft in self.drafts]

    def _line(self, draft: Draft) -> bytes | None:
        if draft.resource is None:
            return None
        line = draft.resource.stamped(draft.version_id, self.instant)
        draft.size, draft.line_hash = len(line), line_hash(line)
        return line

    async def store(self, connection: Connection) -> Mapping[int, IndexSums]:
        await self._store_versions(connection)
        await self._store_compartments(connection)
        sums = await self._store_terms(connection)
        await self._store_endings(connection)
        await self._store_heads(connection)
        return sums

    async def _store_versions(self, connection: Connection) -> None:
        rows = (
            (
                *(draft.seq, self.stamp, draft.line_hash, draft.size),
                *(draft.version_id, draft.deleted, draft.key[1], draft.patients, line),
            )
            for draft, line in zip(self.drafts, self._lines, strict=True)
        )
        await connection.copy_records_to_table("versions", records=rows, columns=_VERSION_COLUMNS)

    async def _store_compartments(self, connection: Connection) -> None:
        rows = sorted(
            (draft.key[0], patient, draft.seq)
            for draft in self.drafts
            for patient in (draft.patients or "").split()
        )
        if rows:
            await connection.copy_records_to_table(
                "compartments", records=rows, columns=("collection", "patient", "seq")
            )

    async def _store_terms(self, connection: Connection) -> Mapping[int, IndexSums]:
        postings = Postings()
        for draft, line in zip(self.drafts, self._lines, strict=True):
            postings.add(draft.seq, self._terms(draft, line))
        return await postings.store(connection)

    def _terms(self, draft: Draft, line: bytes | None) -> IndexTerms | None:
        if draft.resource is None or line is None:
            return None
        resource = draft.resource
        return resource.terms or terms_of(line, self._fhir_version, resource.resource_type)

    async def _store_endings(self, connection: Connection) -> None:
        rows = sorted(
            (draft.before.seq, self.stamp, collection, draft.before.version_id, resource_id)
            for draft in self.drafts
            for collection, resource_id in [draft.key]
            if draft.before is not None
        )
        if rows:
            await connection.copy_records_to_table(
                "endings", records=rows, columns=_ENDING_COLUMNS
            )

    async def _store_heads(self, connection: Connection) -> None:
        newest, stored = self._drafting.newest, self._drafting.stored
        moved = [_head(draft) for draft in newest if draft.key in stored]
        created = [(*_head(draft), self.stamp) for draft in newest if draft.key not in stored]
        if moved:
            *columns, in_compartment = zip(*moved, strict=True)
            await connection.execute(_SQL["move_heads"], *columns, self.stamp, in_compartment)
        if created:
            await connection.copy_records_to_table(
                "resources", records=created, columns=_HEAD_COLUMNS
            )


async def _lock(connection: Connection, keys: set[Key]) -> dict[Key, Head]:
    collections, ids = zip(*keys, strict=True)
    rows = await connection.fetch(_SQL["lock_heads"], collections, ids)
    return {
        (collection, resource_id): Head(seq, since_stamp, to_unsigned(content_hash), *rest)
        for collection, resource_id, seq, since_stamp, content_hash, *rest in rows
    }


async def _look_up_patients(connection: Connection, drafts: Iterable[Draft]) -> None:
    """Set the patients of deletions to those of the versions they end, for the same exports."""
    unknown = defaultdict[int, list[Draft]](list)
    for draft in drafts:
        if draft.patients is None and draft.before is not None:
            unknown[draft.before.seq].append(draft)
    if unknown:
        for seq, patients in await connection.fetch(_SQL["patients"], list(unknown)):
            for draft in unknown[seq]:
                draft.patients = patients


def _head(draft: Draft) -> tuple[object, ...]:
    return (
        *(*draft.key, draft.seq, to_signed(draft.content_hash), draft.version_id, draft.size),
        *(draft.deleted, draft.in_compartment),
    )
