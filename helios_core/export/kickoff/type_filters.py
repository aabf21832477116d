"""What a kick-off selects within its types: `_typeFilter` and `_elements`."""

from collections.abc import Sequence

import msgspec

from helios_core.errors import HeliosError, InvalidParameter, UnsupportedParameter
from helios_core.export.kickoff.parameters import Decline
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.elements import json_names
from helios_core.fhir.search import compile_query, parse_type_filter, split_type_filter
from helios_core.model.exports import TypeFilter


class ParsedFilters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of a request, and the types that are not exported for want of one."""

    filters: tuple[TypeFilter, ...] = ()
    withheld: frozenset[str] = frozenset()


class FilterParser:
    """Reads what is selected from resources of some types, and declines what means nothing."""

    def __init__(
        self,
        version: FHIRVersion,
        types: Sequence[str],
        *,
        base_urls: Sequence[str],
        decline: Decline,
    ) -> None:
        self._version = version
        self._types = types
        self._base_urls = base_urls
        self._decline = decline

    def type_filters(self, values: Sequence[str]) -> ParsedFilters:
        """
        Read the queries of `_typeFilter`.

        A query that cannot be answered, once it is declined, withholds its type: what is not
        filtered is not exported.

        Raises:
            InvalidParameter: A query names no single type, so nobody knows what it would withhold.
        """
        filters = list[TypeFilter]()
        withheld = set[str]()
        for value in values:
            for text in split_type_filter(value):
                resource_type = self._type_of(text)
                if resource_type is None:
                    continue
                try:
                    filters.append(self._filter(text))
                except (InvalidParameter, UnsupportedParameter) as error:
                    self._decline(_withholding(resource_type, error), kind=type(error))
                    withheld.add(resource_type)
        return ParsedFilters(
            filters=tuple(each for each in filters if each.resource_type not in withheld),
            withheld=frozenset(withheld),
        )

    def _type_of(self, text: str) -> str | None:
        """Give the type a query is about, or None for one that has nothing to say here."""
        resource_type, mark, _ = text.partition("?")
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
            kind=InvalidParameter,
        )
        return None

    def _filter(self, text: str) -> TypeFilter:
        resource_type, pairs = parse_type_filter(text, self._version)
        compile_query(self._version, resource_type, pairs, base_urls=self._base_urls)
        return TypeFilter(resource_type=resource_type, pairs=tuple(pairs))

    def elements(self, values: Sequence[str] | None) -> tuple[str, ...]:
        """
        Read the entries of `_elements`; None where it is not given.

        Raises:
            InvalidParameter: No entry means anything: everything would be sent.
        """
        if values is None:
            return ()
        good = list[str]()
        problem = InvalidParameter("_elements names no element; name some, or leave it out.")
        for value in values:
            try:
                self._check_element(value)
            except InvalidParameter as error:
                problem = error
                self._decline(str(error), kind=InvalidParameter)
            else:
                good.append(value)
        if not good:
            raise problem
        return tuple(good)

    def _check_element(self, value: str) -> None:
        owner, dot, element = value.partition(".")
        if not dot:
            owner, element = "", value
        if "." in element:
            raise InvalidParameter(
                f"_elements: {value[:64]!r} is nested; only elements at the root of a resource "
                "can be chosen, as element or Type.element."
            )
        if dot and owner not in load_definitions(self._version).types:
            raise InvalidParameter(
                f"_elements: {owner[:64]!r} is not a resource type of FHIR {self._version}; send "
                "element or Type.element."
            )
        types = [owner] if owner else self._types
        if not any(json_names(self._version, each, element) for each in types):
            where = owner or "the exported types"
            raise InvalidParameter(
                f"_elements: {element[:64]!r} is not a root element of {where} in FHIR "
                f"{self._version}; send element or Type.element."
            )


def _withholding(resource_type: str, error: HeliosError) -> str:
    """Name the parameter, and say what becomes of its type when it is ignored."""
    reason = str(error).removeprefix("_typeFilter: ").rstrip(".")
    return f"_typeFilter: {reason}. {resource_type} is not exported unfiltered instead."
