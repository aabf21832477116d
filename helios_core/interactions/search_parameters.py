"""The parameters of a search (FHIR R4, search.html)."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import ClassVar, Final, TypeVar

import msgspec

from helios_core.errors import InvalidParameter, TooCostly, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.elements import (
    data_elements,
    json_names,
    summary_elements,
    text_elements,
)
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.search import RESULT_PARAMETERS, Filter, compile_query
from helios_core.fhir.search.parameters import selects
from helios_core.fhir.search.sorting import Sort, parse_sort
from helios_core.interactions.callers import Caller, Interaction
from helios_core.interactions.includes import ITERATING, Include, parse_include
from helios_core.interactions.parameters import (
    DEFAULT_COUNT,
    MAX_COUNT,
    Pairs,
    parse_whole_number,
    single_value,
)
from helios_core.storage.data_provider import SortOrder

SUBSET_PARAMETERS: Final = ("_summary", "_elements")
"""The parameters by which a read may be reduced to some elements."""
MAX_INCLUDES: Final = 20
"""Maximum number of `_include` and `_revinclude` in a search: each is a search of its own."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class TotalMode(StrEnum):
    """How exact the number of all matches must be (FHIR R4, search.html#total)."""

    NONE = "none"
    ESTIMATE = "estimate"
    ACCURATE = "accurate"


class SummaryMode(StrEnum):
    """How much of each resource is returned (FHIR R4, search.html#summary)."""

    TRUE = "true"
    TEXT = "text"
    DATA = "data"
    COUNT = "count"
    FALSE = "false"


class ParsedSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A search within one type: which resources it matches, and how they are returned."""

    interaction: ClassVar[Interaction] = Interaction.SEARCH_TYPE
    resource_type: str
    parameters: tuple[tuple[str, str], ...]
    """The parameters that were used, without `_after`, for links to pages."""
    filter: Filter
    order: SortOrder | Sort = SortOrder.ID
    count: int = DEFAULT_COUNT
    """The number of matches on a page."""
    after: str | None = None
    """Where the page begins: the `next` of the page before; None for the first page."""
    only_total: bool = False
    """Whether only the number of matches is requested, and no resource."""
    total: TotalMode | None = None
    elements: Mapping[str, frozenset[str]] = {}
    """By type, the root elements to return besides mandatory ones; other types are complete."""
    summary: SummaryMode | None = None
    includes: tuple[Include, ...] = ()
    ignored: tuple[str, ...] = ()
    """What was ignored: one sentence each."""

    def kept_elements(self, version: FHIRVersion, resource_type: str) -> frozenset[str] | None:
        """Return the root elements to keep of a type besides mandatory ones; None for all."""
        elements = self.elements.get(resource_type)
        if elements is not None or self.summary not in _SUMMARIES:
            return elements
        return _SUMMARIES[self.summary](version, resource_type)


def parse_subset(version: FHIRVersion, resource_type: str, pairs: Pairs) -> frozenset[str] | None:
    """
    Return the root elements that a read keeps besides the mandatory ones, None for all.

    Raises:
        InvalidParameter: `_elements` names an element that does not exist, or a parameter is
            repeated.
        UnsupportedParameter: The value of `_summary` is unknown, or not supported by reads.
    """
    summary = _choice(SummaryMode, "_summary", single_value(pairs, "_summary"))
    if summary is SummaryMode.COUNT:
        raise UnsupportedParameter("_summary=count is for searches.")
    elements = parse_elements(version, resource_type, pairs).get(resource_type)
    if elements is not None or summary not in _SUMMARIES:
        return elements
    return _SUMMARIES[summary](version, resource_type)


def parse_search(
    caller: Caller, resource_type: str, pairs: Pairs, *, lenient: bool
) -> ParsedSearch:
    """
    Parse the parameters of a search; if `lenient`, those that are not supported are ignored.

    Unknown parameters whose name begins with an underscore, and which cannot change the matches,
    are ignored in any case.

    Raises:
        InvalidParameter: A value is malformed.
        UnsupportedParameter: A parameter or value is not supported, and must not be ignored.
        TooCostly: There are more than `MAX_INCLUDES` includes.
    """
    supported: list[tuple[str, str]] = []
    ignored: list[str] = []
    for name, value in pairs:
        if name in PRESENTATION_PARAMETERS:
            continue
        if _selects_nothing(caller, resource_type, name, value):
            if lenient:
                ignored.append("A parameter that selects nothing is not known and was ignored.")
            continue
        try:
            _check(caller, resource_type, name, value)
        except UnsupportedParameter as error:
            if not lenient:
                raise
            ignored.append(str(error))
        else:
            supported.append((name, value))
    return _parsed(caller, resource_type, supported, tuple(dict.fromkeys(ignored)))


def parse_criteria(caller: Caller, resource_type: str, pairs: Pairs) -> Filter:
    """
    Return the filter of the resources that parameters select.

    Raises:
        InvalidParameter: A value is malformed.
        UnsupportedParameter: A parameter is not supported.
    """
    return compile_query(caller.fhir_version, resource_type, pairs, base_urls=(caller.base,))


def _parsed(
    caller: Caller, resource_type: str, pairs: Pairs, ignored: tuple[str, ...]
) -> ParsedSearch:
    count = _count(single_value(pairs, "_count"))
    summary = _choice(SummaryMode, "_summary", single_value(pairs, "_summary"))
    criteria = [pair for pair in pairs if pair[0] not in _KNOWN]
    return ParsedSearch(
        resource_type=resource_type,
        parameters=tuple(_effective(pair, count) for pair in pairs if pair[0] != "_after"),
        filter=parse_criteria(caller, resource_type, criteria),
        order=_order(caller, resource_type, single_value(pairs, "_sort")),
        count=count or DEFAULT_COUNT,
        after=single_value(pairs, "_after"),
        only_total=summary is SummaryMode.COUNT or count == 0,
        total=_choice(TotalMode, "_total", single_value(pairs, "_total")),
        elements=parse_elements(caller.fhir_version, resource_type, pairs),
        summary=summary,
        includes=_includes(caller.fhir_version, resource_type, pairs),
        ignored=ignored,
    )


def _includes(version: FHIRVersion, searched: str, pairs: Pairs) -> tuple[Include, ...]:
    includes = dict.fromkeys(pair for pair in pairs if pair[0] in _INCLUDES)
    if len(includes) > MAX_INCLUDES:
        raise TooCostly(f"A search may have at most {MAX_INCLUDES} _include and _revinclude.")
    return tuple(parse_include(version, searched, name, value) for name, value in includes)


def parse_elements(
    version: FHIRVersion, searched: str, pairs: Pairs
) -> Mapping[str, frozenset[str]]:
    """
    Return the root elements that `_elements` names, by type; names without one are of `searched`.

    Raises:
        InvalidParameter: There is no such type, or it has no such root element.
    """
    elements = defaultdict[str, set[str]](set)
    values = [value for key, value in pairs if key == "_elements"]
    for name in (name for value in values for name in value.split(",")):
        resource_type, _, element = name.rpartition(".")
        resource_type = resource_type or searched
        if resource_type not in load_definitions(version).types or not json_names(
            version, resource_type, element
        ):
            raise InvalidParameter(
                f"_elements: expected root elements of {searched}, or Type.element for those of "
                "included resources, joined by commas."
            )
        elements[resource_type].add(element)
    return {resource_type: frozenset(names) for resource_type, names in elements.items()}


def _order(caller: Caller, resource_type: str, text: str | None) -> SortOrder | Sort:
    """Return the requested order, as a SortOrder of data providers if it equals one of these."""
    if text is None:
        return SortOrder.ID
    sort = parse_sort(caller.fhir_version, resource_type, text)
    first, *rest = (key.text for key in sort.keys)
    # Equal instants are ordered by id in any case, so a further _id changes nothing.
    if first in list(SortOrder) and rest in ([], ["_id"]):
        return SortOrder(first)
    return sort


def _selects_nothing(caller: Caller, resource_type: str, name: str, value: str) -> bool:
    """Return whether a parameter is unknown and cannot change which resources match."""
    code = re.split("[:.]", name, maxsplit=1)[0]
    if not code.startswith("_") or code in _CODES:
        return False
    if code == "_contained":
        return value == "false"
    return not selects(caller.fhir_version, resource_type, code)


def _check(caller: Caller, resource_type: str, name: str, value: str) -> None:
    """Raise if a parameter, or its value considered alone, is not supported."""
    code = re.split("[:.]", name, maxsplit=1)[0]
    if name in _INCLUDES:
        parse_include(caller.fhir_version, resource_type, name, value)
    elif name == "_sort":
        _order(caller, resource_type, value)
    elif name in _CHECKS:
        _CHECKS[name](value)
    elif code in RESULT_PARAMETERS or code in _CHECKS:
        raise UnsupportedParameter(
            f"{code} is not supported here, or not with a modifier; supported are: "
            f"{', '.join(sorted(RESULT_PARAMETER_TEXTS))}."
        )
    else:
        parse_criteria(caller, resource_type, [(name, value)])


def _effective(pair: tuple[str, str], count: int | None) -> tuple[str, str]:
    """Return a parameter as it was used: `_count` may have been reduced to `MAX_COUNT`."""
    return (pair[0], str(count)) if pair[0] == "_count" else pair


def _count(text: str | None) -> int | None:
    return None if text is None else min(parse_whole_number("_count", text, minimum=0), MAX_COUNT)


def _choice(choices: type[_Choice], name: str, text: str | None) -> _Choice | None:
    if text is None:
        return None
    if text not in list(choices):
        raise UnsupportedParameter(f"{name} is supported with one of: {', '.join(choices)}.")
    return choices(text)


def _accept(_: str) -> None:
    """Accept any value: it is parsed together with the others."""


_INCLUDES: Final = frozenset(
    f"{name}{modifier}"
    for name in ("_include", "_revinclude")
    for modifier in ("", *(f":{modifier}" for modifier in ITERATING))
)
_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {
    "_after": _accept,
    "_count": _accept,
    "_elements": _accept,
    "_summary": partial(_choice, SummaryMode, "_summary"),
    "_total": partial(_choice, TotalMode, "_total"),
}
"""Functions that raise if the value of a result parameter is not supported."""
_KNOWN: Final = _INCLUDES | _CHECKS.keys() | {"_sort"}
RESULT_PARAMETER_TEXTS: Final[Mapping[str, str]] = {
    "_count": f"Resources on a page, at most {MAX_COUNT}; 0 returns only the total.",
    "_sort": "Search parameters to sort by, joined by commas, with - before descending ones.",
    "_total": f"How exact the number of all matches must be: {', '.join(TotalMode)}.",
    "_summary": f"One of {', '.join(SummaryMode)}.",
    "_elements": "Root elements to return besides the mandatory ones, joined by commas.",
    "_include": "Type:parameter, to include what the matches refer to, or * for all of it.",
    "_include:iterate": "The same, applied to included resources as well.",
    "_revinclude": "Type:parameter, to include what refers to the matches, or * for all of it.",
    "_revinclude:iterate": "The same, applied to included resources as well.",
    "_after": "Where a page begins; taken from the links of the page before.",
}
"""Descriptions of the supported result parameters for authors of clients."""
_CODES: Final = frozenset(name.partition(":")[0] for name in RESULT_PARAMETER_TEXTS)
_SUMMARIES: Final[Mapping[SummaryMode | None, Callable[[FHIRVersion, str], frozenset[str]]]] = {
    SummaryMode.TRUE: summary_elements,
    SummaryMode.TEXT: text_elements,
    SummaryMode.DATA: data_elements,
}
"""Functions that return the root elements of a type that a summary keeps."""
