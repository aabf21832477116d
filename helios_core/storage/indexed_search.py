"""
Searches of a data provider with an index, exact although the index lags behind.

The index has reached an instant S: of every resource it has the version that was current at S, or
a later one. A search is for a later settled instant T. A resource that did not change between S
and T has a valid entry in the index, with an instant up to S. A resource that did change is listed
by the change feed of the data provider. So all matches at T are among two sets: the entries up to
S that may match, and the resources that changed after S. Each of them is read from the data
provider as it was at T and checked against the filter. That the index lacks an entry proves
nothing.

The instant T of an export can be before S. A resource that matched at T can then have an entry of
a later version, so all entries later than T are candidates too.
"""

from bisect import bisect_right, insort
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from operator import itemgetter
from typing import Any

from helios_core.errors import BackendError, BackendUnavailable
from helios_core.fhir.instants import to_stamp
from helios_core.fhir.search import AllOf, Filter, Prefilter, UpdatedWithin, ValueOrder
from helios_core.storage.data_provider import (
    Batch,
    SearchPage,
    SearchQuery,
    SortOrder,
    StoredVersion,
    SupportsChangeFeed,
)
from helios_core.storage.index_lookups import IndexLookups, IndexUnusable, Reached
from helios_core.storage.index_work import changes_between
from helios_core.storage.integrity import DECODE_ERRORS, damaged_json
from helios_core.storage.ordered_search import FirstMatches, ValuePosition
from helios_core.storage.page_tokens import (
    PagePosition,
    collect_page,
    parse_page_token,
    place_in_order,
)
from helios_core.storage.resource_keys import TypeKey
from helios_core.storage.search_index import Dataset, IndexedVersion, IndexQuery
from helios_core.storage.stamped_lines import stored_line
from helios_core.storage.threads import compute

MAX_CHANGED = 5000
"""If more versions than this are not in the index yet, searches do not use it."""

MAX_CHANGED_BYTES = 64 * 1024 * 1024
"""If these versions have more bytes than this together, searches do not use the index either."""

MAX_CANDIDATES = 50_000
"""If the index has more candidates of a type, exports do not use it."""

FIRST_FETCH = 16
MAX_FETCH = 1000
FETCH_BYTES = 4 * 1024 * 1024
"""
How many resources are fetched at once: first `FIRST_FETCH`, which shows their mean size, then as
many as have about `FETCH_BYTES`, but at most `MAX_FETCH`.
"""

VERSIONS_AT_ONCE = 500
MAX_FOUND = 5000
"""The most entries that are read from the index at once."""

_Place = tuple[int | str, ...]
_Provider = Any
"""A data provider with any powers."""


class IndexedSearch:
    """One search with the index, at one settled instant of the data provider."""

    def __init__(
        self,
        provider: _Provider,
        lookups: IndexLookups,
        key: TypeKey,
        query: SearchQuery,
    ) -> None:
        self._provider = provider
        self._lookups = lookups
        self._key = key
        self._query = query

    async def page(self, *, count: int, after: str | None) -> SearchPage:
        """
        Return a page of the search.

        Raises:
            InvalidParameter: `after` is not the token of a page in this order.
            IndexUnusable: Matches may be missing.
        """
        last = None if after is None else parse_page_token(after, self._query.order)
        start = None if last is None else _position(last)
        reached = await self._lookups.reached(self._key, recently=True)
        page = await collect_page(
            self._matches(reached, start, count + 1),
            self._query,
            count=count,
            after=after,
            count_all=lambda: self._count(reached),
        )
        await self._lookups.check(reached)
        return page

    async def first(
        self, order: ValueOrder, *, count: int, after: ValuePosition | None
    ) -> FirstMatches:
        """
        Return the first matches in an order of values, at a settled instant after the lookup.

        These are the matches among the next `count` entries, and all matches that have changed
        since the instant reached, whatever their values.

        Raises:
            IndexUnusable: Matches may be missing.
        """
        reached = await self._lookups.reached(self._key, recently=True)
        start = None if after is None else _position_of_value(after)
        entries = self._entries(reached, order)
        page = await self._lookups.find(
            reached, self._key.resource_type, entries, count=count, after=start
        )
        now, seen = await self._settled(), set[str]()
        matches = await self._changed(reached, reached.at, now, at=now, seen=seen)
        end = page[-1] if len(page) == count else None
        size = sum(len(match.content or b"") for match in matches)
        async with aclosing(
            self._fetched([entry.id for entry in page if entry.id not in seen], now)
        ) as unchanged:
            async for stored in unchanged:
                matches.append(stored)
                size += len(stored.content or b"")
                if size > self._query.max_bytes:
                    end = next(entry for entry in page if entry.id == stored.id)
                    break
        await self._lookups.check(reached)
        return FirstMatches(
            resources=matches, end=None if end is None else ValuePosition(end.value, end.id)
        )

    async def _count(self, reached: Reached) -> int:
        async with aclosing(self._matches(reached, None, MAX_FOUND)) as matches:
            return sum([1 async for _ in matches])

    async def _matches(
        self, reached: Reached, after: IndexedVersion | None, size: int
    ) -> AsyncGenerator[StoredVersion]:
        """
        Yield the matches in order, at the first settled instant after the first lookup.

        Each round also reads what has changed since the round before: the entry of such a resource
        may have been replaced before its lookup.
        """
        entries = self._entries(reached, self._query.order)
        pending = _PendingMatches(self._end(after))
        at, known, seen = None, reached.at, set[str]()
        while True:
            page = await self._lookups.find(
                reached, self._key.resource_type, entries, count=size, after=after
            )
            now = await self._settled()
            at = at or now
            for stored in await self._changed(reached, known, now, at=at, seen=seen):
                pending.add(self._place_of(stored), stored)
            known = now
            unchanged = [entry.id for entry in page if entry.id not in seen]
            async for stored in self._fetched(unchanged, at):
                for earlier in pending.before(self._place_of(stored)):
                    yield earlier
                yield stored
            end = page[-1] if len(page) == size else None
            for earlier in pending.before(self._end(end)):
                yield earlier
            if end is None:
                return
            after, size = end, min(2 * size, MAX_FOUND)

    async def _settled(self) -> datetime:
        try:
            now: datetime = await self._provider.transaction_time()
        except BackendUnavailable as error:
            # A write takes long; a search without the index does not have to wait for it.
            raise IndexUnusable("a long write keeps the data unsettled") from error
        return now

    async def _changed(
        self, reached: Reached, since: datetime, until: datetime, *, at: datetime, seen: set[str]
    ) -> list[StoredVersion]:
        """
        Return those resources that changed in a period and match at the instant `at`.

        Leave out the ids in `seen`, and add the ids of all that changed to it.

        Raises:
            IndexUnusable: The data is older than the index, or too much has changed.
        """
        if until < reached.at:
            raise IndexUnusable("it is ahead of the data and must be rebuilt")
        matches = list[StoredVersion]()
        ids = _unreadable_ids(reached, self._key.resource_type)
        async for versions in _changes(self._provider, self._key, since=since, until=until):
            if at == until:
                seen.update(version.id for version in versions)
                matches += await self._matching(versions)
            else:
                ids.update(version.id for version in versions)
        ids -= seen
        seen |= ids
        return matches + [stored async for stored in self._fetched(sorted(ids), at)]

    def _entries(self, reached: Reached, order: SortOrder | ValueOrder) -> IndexQuery:
        """Return the query of the entries that may match and are up to the instant reached."""
        prefilter: Prefilter = UpdatedWithin(until=to_stamp(reached.at))
        own = self._query.filter.prefilter()
        if own is not None:
            prefilter = AllOf((own, prefilter))
        return IndexQuery(prefilter=prefilter, order=order)

    async def _fetched(self, ids: Sequence[str], at: datetime) -> AsyncGenerator[StoredVersion]:
        """Yield the resources of these ids that match at an instant, in the order of `ids`."""
        start, count = 0, FIRST_FETCH
        while start < len(ids):
            batch: Batch = await self._provider.fetch(self._key, ids[start : start + count], at=at)
            if batch.damaged:
                raise BackendError(batch.damaged[0].reason)
            size = sum(map(len, batch.lines))
            for stored in await compute(size, _matching_lines, self._query.filter, batch.lines):
                yield stored
            start += count
            mean = max(1, size // max(1, len(batch.lines)))
            count = max(1, min(MAX_FETCH, FETCH_BYTES // mean, 8 * count))

    async def _matching(self, versions: Sequence[StoredVersion]) -> list[StoredVersion]:
        size = sum(len(version.content or b"") for version in versions)
        return await compute(size, _matching_versions, self._query.filter, versions)

    def _end(self, last: IndexedVersion | None) -> _Place | None:
        return None if last is None else self._place(last.updated, last.id)

    def _place(self, stamp: int, resource_id: str) -> _Place:
        return place_in_order(stamp, resource_id, self._query.order)

    def _place_of(self, stored: StoredVersion) -> _Place:
        return self._place(to_stamp(stored.last_updated), stored.id)


class _PendingMatches:
    """Matches that were read before their turn, in order."""

    def __init__(self, begin: _Place | None) -> None:
        self._begin = begin
        self._matches: list[tuple[_Place, StoredVersion]] = []

    def add(self, place: _Place, stored: StoredVersion) -> None:
        """Keep a match, unless its place has been passed."""
        if self._begin is None or place > self._begin:
            insort(self._matches, (place, stored), key=itemgetter(0))

    def before(self, place: _Place | None) -> list[StoredVersion]:
        """
        Remove and return the matches up to a place, or all if it is None.

        From then on `add` ignores matches up to that place.
        """
        if place is None:
            count = len(self._matches)
        else:
            count, self._begin = bisect_right(self._matches, place, key=itemgetter(0)), place
        taken = [stored for _, stored in self._matches[:count]]
        del self._matches[:count]
        return taken


def _unreadable_ids(reached: Reached, resource_type: str) -> set[str]:
    """Return the ids of the resources that were unreadable when they were indexed."""
    return {key.id for key in reached.note.unreadable if key.resource_type == resource_type}


async def candidate_ids(
    provider: _Provider,
    lookups: IndexLookups,
    about: tuple[TypeKey, datetime, Prefilter],
) -> frozenset[str] | None:
    """
    Return the ids of the resources that may satisfy a prefilter at an instant.

    Return None if there are more than `MAX_CANDIDATES`, or if the index is not complete for an
    instant so early.

    Raises:
        IndexUnusable: Ids may be missing.
    """
    key, at, prefilter = about
    reached, stamp = await lookups.reached(key), to_stamp(at)
    if reached.note.complete_from is None or stamp < reached.note.complete_from:
        return None
    query = IndexQuery(prefilter=prefilter, changed_after=stamp)
    ids = await lookups.ids(reached, key.resource_type, query, most=MAX_CANDIDATES)
    if ids is None:
        return None
    async for versions in _changes(provider, key, since=reached.at, until=at):
        ids.update(version.id for version in versions)
    await lookups.check(reached)
    return frozenset(ids | _unreadable_ids(reached, key.resource_type))


async def _changes(
    provider: SupportsChangeFeed, key: TypeKey, *, since: datetime, until: datetime
) -> AsyncGenerator[list[StoredVersion]]:
    """
    Yield the resources of a type that changed after `since` and up to `until`, as at `until`.

    Raises:
        IndexUnusable: There are more than `MAX_CHANGED` versions or `MAX_CHANGED_BYTES`.
    """
    if since >= until:
        return
    dataset = Dataset(key.tenant, key.fhir_version)
    query = changes_between(dataset, (key.resource_type,), since, until)
    seen, count, size, after = set[str](), 0, 0, None
    while True:
        page = await provider.versions(query, count=VERSIONS_AT_ONCE, after=after)
        count += len(page.versions)
        size += sum(len(version.content or b"") for version in page.versions)
        if count > MAX_CHANGED or size > MAX_CHANGED_BYTES:
            raise IndexUnusable("it is too far behind the data")
        # Newest first: the first version of a resource is the one that is current at `until`.
        newest = {
            version.id: version for version in reversed(page.versions) if version.id not in seen
        }
        seen |= newest.keys()
        yield list(newest.values())
        after = page.next
        if after is None:
            return


def _position(last: PagePosition) -> IndexedVersion:
    return IndexedVersion(id=last.id, version_id=0, updated=last.stamp, deleted=False)


def _position_of_value(after: ValuePosition) -> IndexedVersion:
    return IndexedVersion(id=after.id, version_id=0, updated=0, deleted=False, value=after.value)


def _matching_lines(filter_: Filter, lines: Sequence[bytes]) -> list[StoredVersion]:
    matching = list[StoredVersion]()
    for line in lines:
        try:
            if filter_.matches(line):
                matching.append(stored_line(filter_.resource_type, line))
        except DECODE_ERRORS as error:
            raise BackendError(damaged_json(filter_.resource_type, line).reason) from error
    return matching


def _matching_versions(filter_: Filter, versions: Sequence[StoredVersion]) -> list[StoredVersion]:
    try:
        return [
            version for version in versions if version.content and filter_.matches(version.content)
        ]
    except DECODE_ERRORS as error:
        raise BackendError("a stored resource is not JSON; store it again") from error
