"""Query a search index, and find out whether its results can be used."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

import msgspec
import structlog

from helios_core.errors import BackendError
from helios_core.storage.index_notes import (
    ENTRIES_VERSION,
    IndexNote,
    entries_version,
    read_note,
)
from helios_core.storage.isolation import Overdue, call_within, contained
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import (
    Dataset,
    IndexedVersion,
    IndexQuery,
    IndexState,
    SearchIndex,
)

log = structlog.stdlib.get_logger()

TIME_LIMIT = timedelta(seconds=10)
"""How long an index may take to respond; a search waits as long."""

REST_SECONDS = 5.0
"""How long an index that did not respond is left alone, so that not every search waits for it."""

RECENT_SECONDS = 0.2
"""
How old the state of an index may be with which a search begins.

Changes since then are looked up in the data, so an older state would cost more than a new one.
"""

REMEMBERED = 1000
"""Maximum number of datasets whose state is remembered."""

LISTED_AT_ONCE = 10_000
"""How many entries are requested at once when all of them are read."""

P = ParamSpec("P")
T = TypeVar("T")


class IndexUnusable(Exception):
    """The index cannot be used now; its message is a clause that says why."""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an index that can be relied on: all changes up to the instant `at`."""

    dataset: Dataset
    epoch: str
    at: datetime
    note: IndexNote


class IndexLookups:
    """An index as searches use it: its results are complete, or it raises IndexUnusable."""

    def __init__(
        self,
        index: SearchIndex,
        *,
        time_limit: timedelta = TIME_LIMIT,
        rest_seconds: float = REST_SECONDS,
        recent_seconds: float = RECENT_SECONDS,
        on_failure: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._index = index
        self._on_failure = on_failure
        self._time_limit = time_limit
        self._rest_seconds = rest_seconds
        self.recent_seconds = recent_seconds
        self._resting_until: float | None = None
        """Until when an index that did not respond is left alone; None if it did."""
        self._logged_reason = ""
        self._known = OrderedDict[Dataset, tuple[float, Reached]]()
        """The state read last of each usable dataset, and when it was read."""

    async def reached(self, key: TypeKey, *, recently: bool = False) -> Reached:
        """
        Return how far the index of a collection has come; `recently` allows a remembered state.

        Raises:
            IndexUnusable: It is down, not built, or built by another release.
        """
        dataset = Dataset(key.tenant, key.fhir_version)
        if recently and dataset in self._known:
            read, reached = self._known[dataset]
            if time.monotonic() - read <= self.recent_seconds:
                return reached
        return await self._reached(dataset)

    async def check(self, reached: Reached) -> None:
        """
        Require that the epoch of earlier lookups is still the current one.

        Raises:
            IndexUnusable: The epoch has ended, so that they may be incomplete; or it is down.
        """
        present = await self._reached(reached.dataset)
        if present.epoch != reached.epoch:
            raise self._unusable("it was built anew")
        self._logged_reason = ""

    async def _reached(self, dataset: Dataset) -> Reached:
        read = time.monotonic()
        state: IndexState | None = await self._call(self._index.state, dataset)
        self._known.pop(dataset, None)
        if state is None or state.reached is None:
            raise self._unusable("it is being built")
        if entries_version(state) != ENTRIES_VERSION:
            raise self._unusable("it was built by another release")
        note = read_note(state)
        reached = Reached(dataset=dataset, epoch=state.epoch, at=state.reached, note=note)
        self._known[dataset] = read, reached
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return reached

    async def find(
        self,
        reached: Reached,
        resource_type: str,
        query: IndexQuery,
        *,
        count: int,
        after: IndexedVersion | None,
    ) -> Sequence[IndexedVersion]:
        """
        Return a page of entries, like `SearchIndex.find`.

        Raises:
            IndexUnusable: It is down.
        """
        key = reached.dataset.type(resource_type)
        return await self._call(
            self._index.find, key, reached.epoch, query, count=count, after=after
        )

    async def ids(
        self, reached: Reached, resource_type: str, query: IndexQuery, *, most: int
    ) -> set[str] | None:
        """
        Return the ids of all entries that a query finds, or None if there are more than `most`.

        Raises:
            IndexUnusable: It is down.
        """
        key = reached.dataset.type(resource_type)
        if await self._call(self._index.count, key, reached.epoch, query) > most:
            return None
        ids = set[str]()
        async for page in self._pages(reached, resource_type, query):
            ids.update(entry.id for entry in page)
        return ids if len(ids) <= most else None

    async def _pages(
        self, reached: Reached, resource_type: str, query: IndexQuery
    ) -> AsyncIterator[Sequence[IndexedVersion]]:
        after = None
        while True:
            page = await self.find(
                reached, resource_type, query, count=LISTED_AT_ONCE, after=after
            )
            yield page
            if len(page) < LISTED_AT_ONCE:
                return
            after = page[-1]

    async def _call(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._resting_until is not None:
            if time.monotonic() < self._resting_until:
                raise IndexUnusable("it is down")
            # This call finds out whether the index is back; meanwhile no other call waits for it.
            self._resting_until = time.monotonic() + self._time_limit.total_seconds()
        with self._noting_failures():
            result = await call_within(self._time_limit, function, *args, **kwargs)
        self._resting_until = None
        return result

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            with contained():
                yield
        except BackendError as error:
            self._resting_until = time.monotonic() + self._rest_seconds
            late = isinstance(error.__cause__, Overdue)
            reason = "it is late" if late else str(error)
            log.warning("index.unavailable", reason=reason)
            self._on_failure(reason)
            raise IndexUnusable("it is down") from error

    def _unusable(self, reason: str) -> IndexUnusable:
        if reason != self._logged_reason:
            self._logged_reason = reason
            log.warning("index.unusable", reason=reason)
        return IndexUnusable(reason)
