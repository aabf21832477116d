"""The reference search index: entries of one process, looked at one by one."""

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

_TURN = 1000
"""After so many entries other tasks have their turn."""


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
        present = self._states.get(dataset)
        if (present.epoch if present else None) == expected:
            present = self._states[dataset] = IndexState(epoch=epoch)
            self._entries[dataset] = {}
        assert present is not None  # noqa: S101 - one was there, or has been made
        return present

    async def apply(self, dataset: Dataset, epoch: str, entries: Sequence[IndexEntry]) -> None:
        """Keep the entries that are newer than those kept (I1)."""
        if not self._is_present(dataset, epoch):
            return
        kept = self._entries[dataset]
        for entry in entries:
            name = (entry.resource_type, entry.id)
            present = kept.get(name)
            if present is None or present.version_id <= entry.version_id:
                kept[name] = entry

    async def advance(
        self, dataset: Dataset, epoch: str, *, reached: datetime | None, note: str = ""
    ) -> bool:
        """Change the state of an epoch, if it is the present one (I5, I6)."""
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
        """Look at all entries, and return those behind a position (I3, I4)."""
        found = await self._found(key, epoch, query)

        def place(each: IndexedVersion) -> tuple[int | str, ...]:
            return place_in_index(each, query.order)

        found.sort(key=place)
        start = 0 if after is None else bisect_right(found, place(after), key=place)
        return found[start : start + count]

    async def count(self, key: TypeKey, epoch: str, query: IndexQuery) -> int:
        """Count by looking at all entries."""
        return len(await self._found(key, epoch, query))

    async def size(self, dataset: Dataset, epoch: str) -> int:
        """Return the number of entries of a dataset."""
        return len(self._entries[dataset]) if self._is_present(dataset, epoch) else 0

    def _is_present(self, dataset: Dataset, epoch: str) -> bool:
        state = self._states.get(dataset)
        return state is not None and state.epoch == epoch

    async def _found(self, key: TypeKey, epoch: str, query: IndexQuery) -> list[IndexedVersion]:
        found = list[IndexedVersion]()
        for number, entry in enumerate(self._of_type(key, epoch)):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if _is_requested(entry, query):
                found.append(
                    IndexedVersion(
                        id=entry.id,
                        version_id=entry.version_id,
                        updated=entry.updated,
                        deleted=entry.terms is None,
                        value=_value(entry, query),
                    )
                )
        return found

    def _of_type(self, key: TypeKey, epoch: str) -> Sequence[IndexEntry]:
        dataset = Dataset(key.tenant, key.fhir_version)
        if not self._is_present(dataset, epoch):
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
