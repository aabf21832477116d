"""Parse `_typeFilter`: the search queries that resources of a type must match."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from helios_core.errors import (
    HeliosError,
    InvalidParameter,
    TooCostly,
    UnsupportedParameter,
)
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search import compile_query, parse_type_filter, split_type_filter
from helios_core.model.exports import TypeFilter

MAX_LOOKUPS: Final = 100
"""Maximum number of steps of all chains and `_has` of one export: each step reads a whole type."""


class Decline(Protocol):
    """Raises an error, or under handling=lenient records that something is ignored."""

    def __call__(self, reason: str, *, error: Callable[[str], Exception]) -> None:
        """Raise `error(reason)`, or record the reason."""


class ParsedFilters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of a request."""

    filters: tuple[TypeFilter, ...] = ()
    withheld: frozenset[str] = frozenset()
    """The types that are not exported, because one of their filters was ignored."""


class TypeFilterParser:
    """Parses queries over the types of one export."""

    def __init__(
        self,
        version: FHIRVersion,
        types: Sequence[str],
        *,
        base_urls: Sequence[str],
        decline: Decline,
        concealed: bool,
    ) -> None:
        self._version = version
        self._types = types
        self._base_urls = base_urls
        self._decline = decline
        self._concealed = concealed
        self._lookups = set[str]()

    def parse(self, values: Sequence[str]) -> ParsedFilters:
        """
        Parse the values of `_typeFilter`.

        If a query is ignored, its type is withheld: exporting it unfiltered would return more
        than was requested.

        Raises:
            InvalidParameter: A query does not name a single type, so there is none to withhold.
            TooCostly: Their chains have more than `MAX_LOOKUPS` steps together.
        """
        filters = list[TypeFilter]()
        withheld = set[str]()
        for value in values:
            for query in split_type_filter(value):
                resource_type = self._exported_type(query)
                if resource_type is None:
                    continue
                try:
                    filters.append(self._parse_query(query))
                except (InvalidParameter, UnsupportedParameter) as error:
                    self._decline(_withheld_reason(resource_type, error), error=type(error))
                    withheld.add(resource_type)
        return ParsedFilters(
            filters=tuple(f for f in filters if f.resource_type not in withheld),
            withheld=frozenset(withheld),
        )

    def _exported_type(self, query: str) -> str | None:
        """Return the type of a query, or None if it is declined because it is not exported."""
        resource_type, mark, _ = query.partition("?")
        if not mark or not resource_type.isascii() or not resource_type.isalpha():
            raise InvalidParameter(
                "_typeFilter: a value is not a search of one type; send Type?parameter=value, "
                "with the ? percent-encoded in a URL."
            )
        if resource_type in self._types:
            return resource_type
        known = resource_type in load_definitions(self._version).types
        reason = "is not exported" if known else f"does not exist in FHIR {self._version}"
        self._decline(
            f"_typeFilter: the type {resource_type[:64]} {reason}, so there is nothing to "
            "filter; name it in _type, or leave the query out.",
            error=InvalidParameter,
        )
        return None

    def _parse_query(self, query: str) -> TypeFilter:
        if self._concealed:
            raise UnsupportedParameter(
                "_typeFilter: filters are not supported here, because their results would reveal "
                "what is removed from the exported resources"
            )
        resource_type, pairs = parse_type_filter(query, self._version)
        compiled = compile_query(self._version, resource_type, pairs, base_urls=self._base_urls)
        self._lookups |= {lookup.key for lookup in compiled.lookups}
        if len(self._lookups) > MAX_LOOKUPS:
            raise TooCostly(
                f"_typeFilter: the chains and _has of an export may have at most {MAX_LOOKUPS} "
                "steps together; each is a search of all resources of a type."
            )
        return TypeFilter(resource_type=resource_type, pairs=tuple(pairs))


def _withheld_reason(resource_type: str, error: HeliosError) -> str:
    reason = str(error).removeprefix("_typeFilter: ").rstrip(".")
    return (
        f"_typeFilter: {reason}. {resource_type} is left out, because without this filter more "
        "would be exported than requested."
    )
