"""
The contract of a search index, which is kept beside the store that has the resources.

The data provider is the source of truth and knows nothing of an index. Some time after a change,
any process reads it from the provider's version log by stamp (`SupportsChangeFeed`) and applies it
to the index. A caller of the index knows up to which instant it is complete, and takes later
changes from the data provider.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime

import msgspec

from helios_core.fhir.definitions import FHIRVersion
from helios_core.fhir.search import Extremes, IndexTerms, Prefilter, ValueOrder
from helios_core.storage.data_provider import SortOrder
from helios_core.storage.page_tokens import place_in_order
from helios_core.storage.resource_keys import TypeKey


class Dataset(msgspec.Struct, frozen=True):
    """All resources of one tenant in one FHIR version: what is indexed up to one instant."""

    tenant: str
    fhir_version: FHIRVersion

    def type(self, resource_type: str) -> TypeKey:
        """Return the key of one type in it."""
        return TypeKey(self.tenant, self.fhir_version, resource_type)


class IndexState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the index of a dataset has come."""

    epoch: str
    """
    The build that the entries belong to: 1 to 64 letters, digits and hyphens, chosen by the core.

    Entries of other epochs are not used.
    """
    reached: datetime | None = None
    """
    The settled instant up to which every change is in the index; None while it is first built.

    In whole microseconds.
    """
    note: str = ""
    """What the core noted, up to 64 KiB of text, for example how much of a build is done."""


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of one resource, as the index keeps it."""

    resource_type: str
    id: str
    version_id: int
    """Counted from 1."""
    updated: int
    """When the version became current, in microseconds since 1970."""
    terms: IndexTerms | None
    """The terms by which it is found; None for a deletion."""
    values: tuple[Extremes | None, ...] = ()
    """
    Its least and greatest value in each of up to `MAX_VALUE_ORDERS` orders of values.

    None if it has no value, which may be left out at the end. A deletion has none.
    """


class IndexQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A request for entries of one type."""

    prefilter: Prefilter | None = None
    """What a live resource must satisfy; None is always satisfied."""
    changed_after: int | None = None
    """
    All entries updated later than this are requested too, in microseconds since 1970.

    Deletions among them: the versions before them may have satisfied the prefilter.
    """
    order: SortOrder | ValueOrder = SortOrder.ID


class IndexedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What the index returns about a resource."""

    id: str
    version_id: int
    """The version of its entry, counted from 1."""
    updated: int
    """In microseconds since 1970."""
    deleted: bool
    value: tuple[int, int] | None = None
    """The value by which it is ordered, if the order of the query is one of values."""


def place_in_index(
    version: IndexedVersion, order: SortOrder | ValueOrder
) -> tuple[int | str, ...]:
    """Return a sort key that orders entries as a query returns them."""
    if not isinstance(order, ValueOrder):
        return place_in_order(version.updated, version.id, order)
    if version.value is None:
        return 1, version.id
    first, last = version.value
    sign = -1 if order.descending else 1
    return 0, sign * first, sign * last, version.id


class SearchIndex(ABC):
    """
    Finds the ids of resources by what was indexed of them.

    I1  Of several entries of one resource in one epoch, the one with the highest version stays,
        in whatever order, how often and by however many processes they are applied. The entry
        of a deletion stays as well, so that no older version can take its place.
    I2  What was applied is durable, and seen by every process, once `apply` has returned.
    I3  Exactly those entries are found that are requested: live ones that satisfy the prefilter,
        and all that were updated after `changed_after`; each of them once, whatever its size, the
        number of matches and the number of terms or ids in the prefilter.
    I4  Entries are found in the order of the query, from the one behind a position on. A page is
        shorter than requested only if it is the last one. Entries that are applied meanwhile cause
        no other entry to be left out or repeated; in the order of ids, not even themselves.
    I5  `reached` and the note are as durable and as shared as the entries, and change together.
        Neither goes back within an epoch: of several calls, at once and in whatever processes,
        the one with the latest instant holds.
    I6  A dataset has one epoch at a time, and only `reset` changes it: of several calls that
        expect the same one, at once and in whatever processes, exactly one does. In a new epoch
        nothing is found that was applied for another one, and `advance` for another one changes
        nothing.
    I7  Nothing of another tenant, FHIR version or type is found, and nothing done in one dataset
        changes another.
    I8  An index that is down, or that cannot return a complete result, raises BackendUnavailable;
        a result is never silently shorter.
    I9  In an order of values entries follow each other by the least value that they have, or by
        the greatest one from the highest down, as `place_in_index` compares them: by the first
        number, then by the second one, then by id, ascending in either direction. Those without
        a value come last, in either direction, and deletions among them.
    """

    @abstractmethod
    async def state(self, dataset: Dataset) -> IndexState | None:
        """Return how far a dataset has come, or None if it has never had an epoch (I5)."""

    @abstractmethod
    async def datasets(self) -> Sequence[Dataset]:
        """Return every dataset that has a state, in any order."""

    @abstractmethod
    async def reset(self, dataset: Dataset, epoch: str, *, expected: str | None) -> IndexState:
        """
        Begin a new epoch without entries, if `expected` is the current one (I6).

        `expected` is None if there should be none. Earlier entries are not found from now on, and
        may be removed some time later. Return the state that holds afterwards, whether this call
        or another one set it.
        """

    @abstractmethod
    async def apply(self, dataset: Dataset, epoch: str, entries: Sequence[IndexEntry]) -> None:
        """
        Add entries of an epoch, which may be of several types (I1, I2).

        Entries of an epoch that is not the current one are not found, or not stored at all.

        Raises:
            BackendUnavailable: Not everything was stored; the same entries may be applied again.
        """

    @abstractmethod
    async def advance(
        self, dataset: Dataset, epoch: str, *, reached: datetime | None, note: str = ""
    ) -> bool:
        """
        Note how far an epoch has come; return whether it is the current one (I5, I6).

        If the epoch has reached a later instant, nothing changes; None is before all instants. If
        it has reached the same one, the note is replaced.
        """

    @abstractmethod
    async def find(
        self,
        key: TypeKey,
        epoch: str,
        query: IndexQuery,
        *,
        count: int,
        after: IndexedVersion | None = None,
    ) -> Sequence[IndexedVersion]:
        """
        Return the entries of a type that follow `after`, at most `count`, 1 to 10,000 (I3, I4).

        Entries of one instant follow each other by id, ascending in either order of instants.
        `after` is a position in the order of the query, and no entry need be at it. Of its fields
        only the id counts and, depending on the order, `updated` or the value (I9). In an order of
        values the id may be empty, which is before all ids. If the epoch is not the current one,
        the result may lack anything, so callers check the state afterwards.
        """

    @abstractmethod
    async def count(self, key: TypeKey, epoch: str, query: IndexQuery) -> int:
        """Return how many entries `find` would list in all (I3)."""

    @abstractmethod
    async def size(self, dataset: Dataset, epoch: str) -> int:
        """Return how many entries a dataset has in an epoch, deletions included."""
