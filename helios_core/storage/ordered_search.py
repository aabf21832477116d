"""What a data provider can do whose index has resources in an order of their values."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from helios_core.fhir.search import ValueOrder
from helios_core.storage.data_provider import SearchQuery, StoredVersion
from helios_core.storage.resource_keys import TypeKey


class ValuePosition(msgspec.Struct, frozen=True):
    """A place in an order of values, at which no resource need be."""

    value: tuple[int, int] | None
    """None is behind all values."""
    id: str
    """Empty before all resources with that value."""


class FirstMatches(msgspec.Struct, frozen=True, kw_only=True):
    """All matches of one instant up to a place in an order, and maybe more of them."""

    resources: Sequence[StoredVersion]
    """In any order; some may come before the place that was asked for."""
    end: ValuePosition | None
    """The place, inclusive; None if they are all that there are."""


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
        Return all matches from the place `after` up to another one; None if it cannot now.

        `count` is how many resources may be looked at, from 1 to 10,000, besides those that the
        index does not have yet, and their contents together may exceed `query.max_bytes` by one.
        """
        ...
