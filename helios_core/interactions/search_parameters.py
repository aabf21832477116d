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
from helios_core.fhir.elements import json_names
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.search import RESULT_PARAMETERS, Filter, compile_query
from helios_core.interactions.callers import Caller, Interaction
from helios_core.interactions.includes import Include, parse_include
from helios_core.interactions.parameters import (
    DEFAULT_COUNT,
    MAX_COUNT,
    Pairs,
    parse_whole_number,
    single_value,
)
from helios_core.storage.data_provider import SortOrder

MAX_INCLUDES: Final = 20
"""The number of `_include` and `_revinclude` in one search: each is a search of its own."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class TotalMode(StrEnum):
    """How well the number of all matches must be known (FHIR R4, search.html#total)."""

    NONE = "none"
    ESTIMATE = "estimate"
    ACCURATE = "accurate"


class SummaryMode(StrEnum):
    """The values of `_summary` that are supported (FHIR R4, search.html#summary)."""

    FALSE = "false"
    COUNT = "count"


class ParsedSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A search within one type: what it selects, and what its result looks like."""

    interaction: ClassVar[Interaction] = Interaction.SEARCH_TYPE
    resource_type: str
    parameters: tuple[tuple[str, str], ...]
    """The parameters that were used, without `_after`: links to pages consist of them."""
    filter: Filter
    order: SortOrder = SortOrder.ID
    count: int = DEFAULT_COUNT
    """The number of matches on a page."""
    after: str | None = None
    """Where the page begins: the `next` of the page before; None for the first page."""
    only_total: bool = False
    """Whether only the number of matches is requested, and no resource."""
    total: TotalMode | None = None
    elements: Mapping[str, frozenset[str]] = {}
    """By type, the root elements to return beside the mandatory ones; other types are whole."""
    includes: tuple[Include, ...] = ()
    ignored: tuple[str, ...] = ()
    """What was ignored: one sentence each."""


def parse_search(
    caller: Caller, resource_type: str, pairs: Pairs, *, lenient: bool
) -> ParsedSearch:
    """
    Parse the parameters of a search; if `lenient`, those that are not supported are ignored.

    Raises:
        InvalidParameter: A value cannot mean anything.
        UnsupportedParameter: A parameter or value is not supported, and not to be ignored.
        TooCostly: There are more than `MAX_INCLUDES` includes.
    """
    supported: list[tuple[str, str]] = []
    ignored: list[str] = []
    for name, value in pairs:
        if name in PRESENTATION_PARAMETERS:
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
    Return the filter that the parameters select with.

    Raises:
        InvalidParameter: A value cannot mean anything.
        UnsupportedParameter: A parameter is not supported.
    """
    return compile_query(caller.fhir_version, resource_type, pairs, base_urls=(caller.base,))


def _parsed(
    caller: Caller, resource_type: str, pairs: Pairs, ignored: tuple[str, ...]
) -> ParsedSearch:
    count = _count(single_value(pairs, "_count"))
    summary = _choice(SummaryMode, "_summary", single_value(pairs, "_summary"))
    criteria = [pair for pair in pairs if pair[0] not in RESULT_PARAMETER_TEXTS]
    return ParsedSearch(
        resource_type=resource_type,
        parameters=tuple(_effective(pair, count) for pair in pairs if pair[0] != "_after"),
        filter=parse_criteria(caller, resource_type, criteria),
        order=_choice(SortOrder, "_sort", single_value(pairs, "_sort")) or SortOrder.ID,
        count=count or DEFAULT_COUNT,
        after=single_value(pairs, "_after"),
        only_total=summary is SummaryMode.COUNT or count == 0,
        total=_choice(TotalMode, "_total", single_value(pairs, "_total")),
        elements=parse_elements(caller.fhir_version, resource_type, pairs),
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
    Return the root elements that `_elements` names, by type; without a type, of `searched`.

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


def _check(caller: Caller, resource_type: str, name: str, value: str) -> None:
    """Raise if a parameter, or its value on its own, is not supported."""
    code = re.split("[:.]", name, maxsplit=1)[0]
    if name in _INCLUDES:
        parse_include(caller.fhir_version, resource_type, name, value)
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
    """Leave a value to be parsed together with the others."""


_INCLUDES: Final = ("_include", "_revinclude")
_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {
    "_after": _accept,
    "_count": _accept,
    "_elements": _accept,
    "_sort": partial(_choice, SortOrder, "_sort"),
    "_summary": partial(_choice, SummaryMode, "_summary"),
    "_total": partial(_choice, TotalMode, "_total"),
}
"""What raises if the value of a result parameter is not supported."""
RESULT_PARAMETER_TEXTS: Final[Mapping[str, str]] = {
    "_count": f"Resources on a page, at most {MAX_COUNT}; 0 is only the total.",
    "_sort": f"One of {', '.join(SortOrder)}.",
    "_total": f"How well the number of all matches must be known: {', '.join(TotalMode)}.",
    "_summary": f"One of {', '.join(SummaryMode)}.",
    "_elements": "Root elements to return beside the mandatory ones, joined by commas.",
    "_include": "Type:parameter, to include what the matches refer to.",
    "_revinclude": "Type:parameter, to include what refers to the matches.",
    "_after": "Where a page begins; the links of the page before have it.",
}
"""The supported result parameters, in words for somebody who writes a client."""
