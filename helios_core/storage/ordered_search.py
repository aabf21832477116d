"""The power of a data provider to find resources in an order of their values."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from helios_core.fhir.search import ValueOrder
from helios_core.storage.data_provider import SearchQuery, StoredVersion
from helios_core.storage.resource_keys import TypeKey


class ValuePosition(msgspec.Struct, frozen=True):
    """A position in an order of values; there need not be a resource at it."""

    value: tuple[int, int] | None
    """As in `IndexedVersion`; None comes after all values."""
    id: str
    """An id; the empty string comes before all resources with that value."""


class FirstMatches(msgspec.Struct, frozen=True, kw_only=True):
    """All matches at one instant up to a position in an order, and maybe later ones."""

    resources: Sequence[StoredVersion]
    """In any order; some may come before the requested position."""
    end: ValuePosition | None
    """The position, inclusive; None if there are no later matches."""


@runtime_checkable
class SupportsFirstMatches(Protocol):
    """The provider can find what comes first in an order of values."""

    async def first_matches(
        self,
        key: TypeKey,
        query: SearchQuery,
        order: ValueOrder,
        *,
        count: int,
        after: ValuePosition | None,
    ) -> FirstMatches | None:
        """
        Return all matches from `after` up to a later position; None if the index is unusable.

        `count`, from 1 to 10,000, is how many indexed resources may be examined; those that are
        not indexed yet come on top. The contents of the indexed ones may exceed `query.max_bytes`
        in total by one resource.
        """
        ...
