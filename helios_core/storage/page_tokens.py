"""Tokens of a search's pages that say after which resource a page ended, and when one is full."""

import re

import msgspec

from helios_core.errors import InvalidParameter
from helios_core.fhir.instants import to_stamp
from helios_core.storage.data_provider import Order, StoredVersion

PAGE_BYTES = 16 * 1024 * 1024
"""Where a page ends before it has all it may have, so that large resources do not pile up."""

BY_ID = frozenset({Order.ID, Order.ID_DESCENDING})
DESCENDING = frozenset({Order.ID_DESCENDING, Order.LAST_UPDATED_DESCENDING})

_SIGNS = {
    Order.ID: "id",
    Order.ID_DESCENDING: "-id",
    Order.LAST_UPDATED: "at",
    Order.LAST_UPDATED_DESCENDING: "-at",
}
_TOKEN = re.compile(r"(-?)(?:id|at:([0-9]{1,18})):([A-Za-z0-9\-.]{1,64})")


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The resource with which a page ended."""

    stamp: int
    """0 where the order is by id."""
    id: str


class Filling:
    """A page that takes resources until it is full."""

    def __init__(self, count: int) -> None:
        self.found: list[StoredVersion] = []
        self._count = count
        self._room = PAGE_BYTES

    @property
    def full(self) -> bool:
        """Whether the next resource belongs to the next page; a first one always has room."""
        return len(self.found) == self._count or bool(self.found and self._room <= 0)

    def add(self, stored: StoredVersion) -> None:
        """Take one more resource."""
        self.found.append(stored)
        self._room -= len(stored.content or b"")


def token_after(last: StoredVersion, order: Order) -> str:
    """Give the token of the page behind a resource."""
    at = "" if order in BY_ID else f":{to_stamp(last.last_updated)}"
    return f"{_SIGNS[order]}{at}:{last.id}"


def ending_of(token: str, order: Order) -> Ending:
    """
    Give the resource behind which a page begins.

    Raises:
        InvalidParameter: It is not a token that a page in this order gave.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] + ("id" if match[2] is None else "at") != _SIGNS[order]:
        raise InvalidParameter(
            "the page asked for is not one that this search gave; follow its links as they are,"
            " or start again without one"
        )
    return Ending(stamp=int(match[2] or 0), id=match[3])
