"""The reference search index: it examines every entry."""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime

from helios_core.fhir.search import ValueOrder, satisfies
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import (
    Dataset,
    IndexedVersion,
    IndexEntry,
    IndexQuery,
    IndexState,
    SearchIndex,
    place_in_index,
)

_ENTRIES_PER_TURN = 1000
"""After so many entries the event loop runs other tasks."""


class MemorySearchIndex(SearchIndex):
    """Keeps entries in the memory of one process; between awaits, each call is atomic."""

    def __init__(self) -> None:
        self._states: dict[Dataset, IndexState] = {}
        self._entries: dict[Dataset, dict[tuple[str, str], IndexEntry]] = {}

    async def state(self, dataset: Dataset) -> IndexState | None:
        """Return the state of a dataset."""
        return self._states.get(dataset)

    async def datasets(self) -> Sequence[Dataset]:
        """Return every dataset that has a state."""
        return list(self._states)

    async def reset(self, dataset: Dataset, epoch: str, *, expected: str | None) -> IndexState:
        """Forget the entries of a dataset if its epoch is the expected one (I6)."""
        current = self._states.get(dataset)
        if (current.epoch if current else None) == expected:
            current = self._states[dataset] = IndexState(epoch=epoch)
            self._entries[dataset] = {}
        assert current is not None  # noqa: S101 - there was one, or it was just made
        return current

    async def apply(self, dataset: Dataset, epoch: str, entries: Sequence[IndexEntry]) -> None:
        """Store each entry that is not older than the stored one (I1)."""
        if not self._is_current(dataset, epoch):
            return
        kept = self._entries[dataset]
        for entry in entries:
            name = (entry.resource_type, entry.id)
            current = kept.get(name)
            if current is None or current.version_id <= entry.version_id:
                kept[name] = entry

    async def advance(
        self, dataset: Dataset, epoch: str, *, reached: datetime | None, note: str = ""
    ) -> bool:
        """Change the state of an epoch, if it is the current one (I5, I6)."""
        state = self._states.get(dataset)
        if state is None or state.epoch != epoch:
            return False
        behind = state.reached is not None and (reached is None or reached < state.reached)
        if not behind:
            self._states[dataset] = IndexState(epoch=epoch, reached=reached, note=note)
        return True

    async def find(
        self,
        key: TypeKey,
        epoch: str,
        query: IndexQuery,
        *,
        count: int,
        after: IndexedVersion | None = None,
    ) -> Sequence[IndexedVersion]:
        """Examine all entries, and return those after a position (I3, I4)."""
        matches = await self._matches(key, epoch, query)

        def sort_key(version: IndexedVersion) -> tuple[int | str, ...]:
            return place_in_index(version, query.order)

        matches.sort(key=sort_key)
        start = 0 if after is None else bisect_right(matches, sort_key(after), key=sort_key)
        return matches[start : start + count]

    async def count(self, key: TypeKey, epoch: str, query: IndexQuery) -> int:
        """Count after examining all entries."""
        return len(await self._matches(key, epoch, query))

    async def size(self, dataset: Dataset, epoch: str) -> int:
        """Return the number of entries of a dataset."""
        return len(self._entries[dataset]) if self._is_current(dataset, epoch) else 0

    def _is_current(self, dataset: Dataset, epoch: str) -> bool:
        state = self._states.get(dataset)
        return state is not None and state.epoch == epoch

    async def _matches(self, key: TypeKey, epoch: str, query: IndexQuery) -> list[IndexedVersion]:
        matches = list[IndexedVersion]()
        for number, entry in enumerate(self._of_type(key, epoch)):
            if number % _ENTRIES_PER_TURN == _ENTRIES_PER_TURN - 1:
                await asyncio.sleep(0)
            if _is_requested(entry, query):
                matches.append(
                    IndexedVersion(
                        id=entry.id,
                        version_id=entry.version_id,
                        updated=entry.updated,
                        deleted=entry.terms is None,
                        value=_value(entry, query),
                    )
                )
        return matches

    def _of_type(self, key: TypeKey, epoch: str) -> Sequence[IndexEntry]:
        dataset = Dataset(key.tenant, key.fhir_version)
        if not self._is_current(dataset, epoch):
            return ()
        entries = self._entries[dataset].items()
        return [entry for (name, _), entry in entries if name == key.resource_type]


def _value(entry: IndexEntry, query: IndexQuery) -> tuple[int, int] | None:
    order = query.order
    if not isinstance(order, ValueOrder) or order.number >= len(entry.values):
        return None
    extremes = entry.values[order.number]
    if extremes is None:
        return None
    return extremes.greatest if order.descending else extremes.least


def _is_requested(entry: IndexEntry, query: IndexQuery) -> bool:
    if query.changed_after is not None and entry.updated > query.changed_after:
        return True
    if entry.terms is None:
        return False
    return query.prefilter is None or satisfies(
        query.prefilter, entry.terms, resource_id=entry.id, updated=entry.updated
    )
