"""A store as a transaction is going to leave it: what is stored, and changes not written yet."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from helios_core.fhir.resources import Resource
from helios_core.fhir.search import AllOf, AnyId, AnyOf, AnyTerm, Filter, Prefilter, terms_of
from helios_core.interactions.callers import Caller
from helios_core.interactions.conditions import require_search
from helios_core.storage.data_provider import (
    DataProvider,
    SearchPage,
    SearchQuery,
    StoredVersion,
    SupportsSearch,
)
from helios_core.storage.resource_keys import TypeKey


class PendingState(SupportsSearch):
    """
    Searches the resources that there will be once the changes it was given are written.

    Pages hold `count` stored resources at most; the first one has all pending matches besides.
    """

    def __init__(self, provider: DataProvider, caller: Caller) -> None:
        self._provider = provider
        self._caller = caller
        self._types = defaultdict[str, _PendingType](_PendingType)

    def put(self, resource: Resource) -> None:
        """Add a resource that will be stored, in place of the one with its id."""
        # Its version and instant are not known yet; no match on them has a meaning.
        now = datetime.now(UTC)
        content = resource.stamped(1, now)
        stored = StoredVersion(
            resource_type=resource.resource_type,
            id=resource.id,
            version_id=1,
            last_updated=now,
            content=content,
        )
        terms = resource.terms or terms_of(
            content, self._caller.fhir_version, resource.resource_type
        )
        self._types[resource.resource_type].put(stored, terms.terms)

    def delete(self, resource_type: str, resource_id: str) -> None:
        """Leave out a resource that will be deleted."""
        self._types[resource_type].delete(resource_id)

    def matching_ids(self, filter_: Filter) -> list[str]:
        """Return the ids of the pending resources that match."""
        return [stored.id for stored in self._types[filter_.resource_type].matching(filter_)]

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of matches, in no particular order."""
        pending = self._types[key.resource_type]
        page = await require_search(self._provider).search(key, query, count=count, after=after)
        stored = [match for match in page.resources if match.id not in pending.changed]
        if after is None:
            stored += pending.matching(query.filter)
        return SearchPage(resources=stored, next=page.next)


class _PendingType:
    """The pending changes of one type."""

    def __init__(self) -> None:
        self.changed = set[str]()
        """The ids whose stored resources no longer count."""
        self._resources = dict[str, StoredVersion]()
        self._by_term = defaultdict[int, set[str]](set)

    def put(self, stored: StoredVersion, terms: frozenset[int]) -> None:
        self.changed.add(stored.id)
        self._resources[stored.id] = stored
        for term in terms:
            self._by_term[term].add(stored.id)

    def delete(self, resource_id: str) -> None:
        self.changed.add(resource_id)
        self._resources.pop(resource_id, None)

    def matching(self, filter_: Filter) -> Iterator[StoredVersion]:
        ids = self._candidates(filter_.prefilter())
        for resource_id in list(self._resources) if ids is None else sorted(ids):
            stored = self._resources.get(resource_id)
            if stored is not None and filter_.matches(stored.content or b""):
                yield stored

    def _candidates(self, prefilter: Prefilter | None) -> set[str] | None:
        """Return ids that all matches are among, None if that may be any."""
        match prefilter:
            case AnyTerm(terms):
                return set[str]().union(*(self._by_term.get(term, ()) for term in terms))
            case AnyId(ids):
                return set(ids)
            case AllOf(parts):
                narrowed = (self._candidates(part) for part in parts)
                return next((ids for ids in narrowed if ids is not None), None)
            case AnyOf(parts):
                union = set[str]()
                for part in parts:
                    candidates = self._candidates(part)
                    if candidates is None:
                        return None
                    union |= candidates
                return union
        return None
