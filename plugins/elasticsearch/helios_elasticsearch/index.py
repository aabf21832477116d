"""The search index in Elasticsearch."""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

import msgspec
from elasticsearch import AsyncElasticsearch

from helios_core import (
    Dataset,
    IndexedVersion,
    IndexEntry,
    IndexQuery,
    IndexState,
    SearchIndex,
    TypeKey,
    in_thread,
)
from helios_core.fhir import to_stamp
from helios_elasticsearch.documents import build_prefix, encode, encode_deletions
from helios_elasticsearch.errors import translated
from helios_elasticsearch.mappings import aliases, create_index, entries_alias, entries_index
from helios_elasticsearch.responses import bulk, hits_of, refresh, total_of
from helios_elasticsearch.searching import Search
from helios_elasticsearch.settings import ElasticsearchSettings
from helios_elasticsearch.states import State, States, Stored

ENTRIES_AT_ONCE = 1000
"""How many entries are encoded in one call of a thread."""

REMEMBERED = 1000
"""For how many datasets the location of their entries is remembered."""

STALE_AT_ONCE = 5000
"""How many entries of earlier epochs are removed by one `advance`."""

_STORED = frozenset({200, 201, 409})
"""Status codes of an entry that is stored, or of which a newer version is stored."""

_REMOVED = frozenset({200, 404})
"""Status codes of a document that no longer exists."""


class ElasticsearchIndex(SearchIndex):
    """
    Keeps the entries of a FHIR version in one Elasticsearch index, marked with their build.

    Each epoch of a dataset has a build of its own. A page begins after the sort values of the last
    one (`search_after`), so nothing is kept open between pages.
    """

    def __init__(self, client: AsyncElasticsearch, settings: ElasticsearchSettings) -> None:
        self._client = client
        self._settings = settings
        self._states = States(client, settings)
        self._last = OrderedDict[Dataset, State]()
        """The last state of each dataset that was read, most recently read last."""

    async def state(self, dataset: Dataset) -> IndexState | None:
        """Return the state of a dataset, or None if it was never built."""
        stored = await self._read(dataset)
        return None if stored is None else stored.state.public

    async def datasets(self) -> Sequence[Dataset]:
        """Return all datasets that have a state."""
        return await self._states.datasets()

    async def reset(self, dataset: Dataset, epoch: str, *, expected: str | None) -> IndexState:
        """Begin a new build; `advance` removes the entries of the old ones gradually (I6)."""
        while True:
            before = await self._states.read(dataset)
            if before is not None and before.state.epoch != expected:
                return before.state.public
            stale = (before.state.build, *before.state.stale) if before else ()
            state = State(
                tenant=dataset.tenant,
                fhir_version=dataset.fhir_version,
                epoch=epoch,
                entries=await self._index_of(dataset),
                build=secrets.token_hex(8),
                stale=stale,
            )
            if await self._states.write(state, before):
                return state.public

    async def apply(self, dataset: Dataset, epoch: str, entries: Sequence[IndexEntry]) -> None:
        """Store entries in the build of their epoch, unless newer ones are stored (I1, I2)."""
        state = await self._present(dataset, epoch)
        if state is None:
            return
        remaining = iter(entries)
        while chunk := list(islice(remaining, ENTRIES_AT_ONCE)):
            for batch in await in_thread(encode, chunk, state.build):
                await bulk(
                    self._client, state.entries, batch.lines, batch.operations, fine=_STORED
                )
        # Even if all entries were stored before: their writer may have failed before its refresh.
        await refresh(self._client, state.entries)

    async def advance(
        self, dataset: Dataset, epoch: str, *, reached: datetime | None, note: str = ""
    ) -> bool:
        """Change the state, and remove some entries of earlier epochs (I5, I6)."""
        stamp = None if reached is None else to_stamp(reached)
        while (before := await self._states.read(dataset)) and before.state.epoch == epoch:
            if _is_before(stamp, before.state.reached):
                return True
            state = msgspec.structs.replace(
                before.state,
                reached=stamp,
                note=note,
                stale=await self._without_stale(before.state),
            )
            if await self._states.write(state, before):
                return True
        return False

    async def find(
        self,
        key: TypeKey,
        epoch: str,
        query: IndexQuery,
        *,
        count: int,
        after: IndexedVersion | None = None,
    ) -> Sequence[IndexedVersion]:
        """Return a page after a position, by as many requests as the prefilter takes (I3, I4)."""
        state = await self._known(_dataset(key), epoch)
        if state is None:
            return ()
        return await Search(self._client, state, key, query).page(count, after)

    async def count(self, key: TypeKey, epoch: str, query: IndexQuery) -> int:
        """Count what `find` returns, by one request where that is possible."""
        state = await self._known(_dataset(key), epoch)
        return 0 if state is None else await Search(self._client, state, key, query).total()

    async def size(self, dataset: Dataset, epoch: str) -> int:
        """Count the entries of an epoch."""
        state = await self._present(dataset, epoch)
        if state is None:
            return 0
        return await total_of(self._client, state.entries, _of_build(state.build))

    async def _read(self, dataset: Dataset) -> Stored | None:
        stored = await self._states.read(dataset)
        if stored is not None:
            # Notes can be large, and the list of stale builds changes.
            self._last[dataset] = msgspec.structs.replace(stored.state, note="", stale=())
            self._last.move_to_end(dataset)
            if len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
        return stored

    async def _present(self, dataset: Dataset, epoch: str) -> State | None:
        """Return the state of a dataset, if this is its epoch."""
        stored = await self._read(dataset)
        return stored.state if stored and stored.state.epoch == epoch else None

    async def _known(self, dataset: Dataset, epoch: str) -> State | None:
        """
        Return a state of a dataset that locates the entries of this epoch.

        They never move within an epoch, so a remembered state will do. Callers read the current
        state themselves before and after a search.
        """
        last = self._last.get(dataset)
        if last is not None and last.epoch == epoch:
            return last
        return await self._present(dataset, epoch)

    async def _index_of(self, dataset: Dataset) -> str:
        """Return the alias of the index for entries of a FHIR version; create a missing one."""
        pattern = entries_alias(self._settings, dataset.fhir_version, "*")
        if found := await aliases(self._client, pattern):
            return found[0]
        # A new name, so that a state refers to the index that it was written for, or to none.
        alias = entries_alias(self._settings, dataset.fhir_version, secrets.token_hex(4))
        await create_index(self._client, alias, entries_index(self._settings))
        return alias

    async def _without_stale(self, state: State) -> tuple[str, ...]:
        """Remove some entries of earlier builds; return the builds that may have more."""
        if not state.stale:
            return ()
        found = await hits_of(
            self._client,
            state.entries,
            parts=["_id"],
            query=_of_build(state.stale[0]),
            size=STALE_AT_ONCE,
            source=False,
        )
        with translated():
            names = [hit.id for hit in msgspec.convert(found, list[_Named])]
        if not names:
            return state.stale[1:]
        lines = encode_deletions(names)
        await bulk(self._client, state.entries, lines, len(names), fine=_REMOVED)
        await refresh(self._client, state.entries)
        return state.stale


class _Named(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="_id")


def _dataset(key: TypeKey) -> Dataset:
    return Dataset(key.tenant, key.fhir_version)


def _is_before(one: int | None, other: int | None) -> bool:
    """Return whether one instant is before another; None is before every instant."""
    return other is not None and (one is None or one < other)


def _of_build(build: str) -> dict[str, object]:
    return {"prefix": {"collection": {"value": build_prefix(build)}}}
