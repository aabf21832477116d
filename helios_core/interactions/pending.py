"""The state that a transaction will leave: stored resources with the changes not yet written."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Final

from helios_core.errors import TooCostly, VersionConflict
from helios_core.fhir.resources import Resource
from helios_core.fhir.search import Filter, id_term, necessary_terms, terms_of
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
from helios_core.storage.threads import compute

MAX_MATCHED_BYTES: Final = 64 * 1024 * 1024
"""Maximum total bytes of the stored resources that conditions match."""


class PendingState(SupportsSearch):
    """
    Searches resources as they will be once the pending changes are written.

    Pages have at most `count` stored resources; the first page also has all pending matches.
    """

    def __init__(self, provider: DataProvider, caller: Caller) -> None:
        self._provider = provider
        self._caller = caller
        self._types = defaultdict[str, _PendingType](_PendingType)
        self._matched_bytes = 0

    def put(self, resource: Resource) -> None:
        """Add a resource that will be stored, in place of the one with its id."""
        # Its version and instant are not known yet, so matches on them mean nothing.
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
        """Remove a resource that will be deleted."""
        self._types[resource_type].delete(resource_id)

    def matching_ids(self, filter_: Filter) -> list[str]:
        """Return the ids of the pending resources that match."""
        pending = self._types[filter_.resource_type].pending
        return [stored.id for stored in pending.matching(filter_)]

    async def check_moment(self, filter_: Filter, matches: Sequence[StoredVersion]) -> None:
        """
        Check that a condition sees the same state of the store as the earlier conditions.

        `matches` are all matches, or at least two of them. Not everything that conditions match is
        written in the end, so the versions that the write expects cannot show this.

        Raises:
            VersionConflict: Others have changed matching resources in between.
            TooCostly: The resources that conditions match are too large together.
        """
        size = sum(len(match.content or b"") for match in matches)
        if not await compute(size, self._is_of_one_moment, filter_, matches):
            raise VersionConflict(
                "Others kept changing what the conditions of the transaction match; send it again."
            )

    def _is_of_one_moment(self, filter_: Filter, matches: Sequence[StoredVersion]) -> bool:
        resource_type, version = filter_.resource_type, self._caller.fhir_version
        changes = self._types[resource_type]
        for match in matches:
            if match.id not in changes.changed and not changes.has_found(match):
                content = match.content or b""
                self._count_matched(content)
                if not changes.was_there(match, terms_of(content, version, resource_type).terms):
                    return False
        if len(matches) <= 1 and changes.lacks_any(filter_, matches):
            return False
        changes.remember(filter_, [match.id for match in matches])
        return True

    def _count_matched(self, content: bytes) -> None:
        self._matched_bytes += len(content)
        if self._matched_bytes > MAX_MATCHED_BYTES:
            raise TooCostly(
                "the resources that conditions match are too large together; send fewer entries "
                "at a time."
            )

    async def search(
        self, key: TypeKey, query: SearchQuery, *, count: int, after: str | None = None
    ) -> SearchPage:
        """Return a page of matches, in no particular order."""
        changes = self._types[key.resource_type]
        page = await require_search(self._provider).search(key, query, count=count, after=after)
        stored = [match for match in page.resources if match.id not in changes.changed]
        if after is None:
            stored += changes.pending.matching(query.filter)
        return SearchPage(resources=stored, next=page.next)


class _KeyedVersions:
    """Resources of one type, indexed by their search terms."""

    def __init__(self) -> None:
        self._versions = dict[str, StoredVersion]()
        self._by_term = defaultdict[int, set[str]](set)

    def put(self, stored: StoredVersion, terms: AbstractSet[int]) -> None:
        """Add a resource, in place of the one with its id."""
        self._versions[stored.id] = stored
        for term in (*terms, id_term(stored.id)):
            self._by_term[term].add(stored.id)

    def delete(self, resource_id: str) -> None:
        """Remove a resource if it exists."""
        self._versions.pop(resource_id, None)

    def get(self, resource_id: str) -> StoredVersion | None:
        """Return the resource with an id, if there is one."""
        return self._versions.get(resource_id)

    def matching(self, filter_: Filter) -> Iterator[StoredVersion]:
        """Yield the resources that match, in no particular order."""
        terms = necessary_terms(filter_.prefilter())
        ids = self._versions.keys() if terms is None else self._with_any(terms)
        for resource_id in sorted(ids):
            stored = self._versions.get(resource_id)
            if stored is not None and filter_.matches(stored.content or b""):
                yield stored

    def _with_any(self, terms: AbstractSet[int]) -> set[str]:
        return set[str]().union(*(self._by_term.get(term, ()) for term in terms))


class _PendingType:
    """The pending changes of one type, and the stored resources that conditions have matched."""

    def __init__(self) -> None:
        self.changed = set[str]()
        """The ids of stored resources that pending changes replace or delete."""
        self.pending = _KeyedVersions()
        self._found = _KeyedVersions()
        self._conditions = defaultdict[int | None, list[tuple[Filter, Sequence[str]]]](list)
        """The filter of each condition and the ids that it matched, by the terms of matches."""

    def put(self, stored: StoredVersion, terms: AbstractSet[int]) -> None:
        """Replace the resource with this id, or add it."""
        self.changed.add(stored.id)
        self.pending.put(stored, terms)

    def delete(self, resource_id: str) -> None:
        """Remove the resource with an id."""
        self.changed.add(resource_id)
        self.pending.delete(resource_id)

    def has_found(self, match: StoredVersion) -> bool:
        """Return whether an earlier condition matched the same version of a stored resource."""
        return self._found.get(match.id) == match

    def was_there(self, match: StoredVersion, terms: AbstractSet[int]) -> bool:
        """Return whether no earlier condition missed a stored resource; then note it."""
        known = (None, id_term(match.id), *terms)
        conditions = (pair for term in known for pair in self._conditions.get(term, ()))
        content = match.content or b""
        if any(match.id not in ids and filter_.matches(content) for filter_, ids in conditions):
            return False
        self._found.put(match, terms)
        return True

    def lacks_any(self, filter_: Filter, matches: Sequence[StoredVersion]) -> bool:
        """Return whether the matches lack a resource that earlier conditions matched."""
        return any(
            stored not in matches
            for stored in self._found.matching(filter_)
            if stored.id not in self.changed
        )

    def remember(self, filter_: Filter, ids: Sequence[str]) -> None:
        """Note which resources a condition has matched."""
        terms = necessary_terms(filter_.prefilter())
        for term in (None,) if terms is None else terms:
            self._conditions[term].append((filter_, ids))
