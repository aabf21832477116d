"""The parameters of a search, understood."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

import msgspec

from helios_core.errors import InvalidParameter, TooCostly, UnsupportedParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.elements import json_names
from helios_core.fhir.preferences import PRESENTATION_PARAMETERS
from helios_core.fhir.search import RESULT_PARAMETERS, Filter, compile_query
from helios_core.interactions.callers import Caller
from helios_core.interactions.includes import Include, parse_include
from helios_core.interactions.paging import (
    DEFAULT_COUNT,
    MAX_COUNT,
    parse_whole_number,
    single_value,
)
from helios_core.storage.data_provider import SortOrder

Pairs = Sequence[tuple[str, str]]

MAX_INCLUDES: Final = 20
"""How many `_include` and `_revinclude` one search may have: each is a search of its own."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class TotalMode(StrEnum):
    """How well the number of all matches must be known (FHIR R4, search.html#total)."""

    NONE = "none"
    ESTIMATE = "estimate"
    ACCURATE = "accurate"


class SummaryMode(StrEnum):
    """The summaries served."""

    FALSE = "false"
    COUNT = "count"


class ParsedSearch(msgspec.Struct, frozen=True, kw_only=True):
    """One search: what it selects, and how the answer shall look."""

    resource_type: str
    given: tuple[tuple[str, str], ...]
    """What counted, without the place in the pages: the self link is made of it."""
    filter: Filter
    order: SortOrder = SortOrder.ID
    count: int = DEFAULT_COUNT
    after: str | None = None
    only_total: bool = False
    total: TotalMode | None = None
    elements: Mapping[str, frozenset[str]] = {}
    """By type, the only root elements wanted beside the mandatory ones."""
    includes: tuple[Include, ...] = ()
    ignored: tuple[str, ...] = ()
    """One sentence for everything that was ignored."""


def parse_search(
    caller: Caller, resource_type: str, pairs: Pairs, *, lenient: bool
) -> ParsedSearch:
    """
    Give the meaning of search parameters; what is not served is ignored where that is allowed.

    Raises:
        InvalidParameter: A value cannot mean anything.
        UnsupportedParameter: Something is not served, and the client did not say to ignore it.
    """
    kept: list[tuple[str, str]] = []
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
            kept.append((name, value))
    return _asked(caller, resource_type, kept, tuple(dict.fromkeys(ignored)))


def parse_criteria(caller: Caller, resource_type: str, pairs: Pairs) -> Filter:
    """
    Give the filter of the parameters that select.

    Raises:
        InvalidParameter: A value cannot mean anything.
        UnsupportedParameter: A parameter is not served.
    """
    return compile_query(caller.fhir_version, resource_type, pairs, base_urls=(caller.base,))


def _asked(
    caller: Caller, resource_type: str, given: Pairs, ignored: tuple[str, ...]
) -> ParsedSearch:
    count = _count(single_value(given, "_count"))
    summary = _choice(SummaryMode, "_summary", single_value(given, "_summary"))
    return ParsedSearch(
        resource_type=resource_type,
        given=tuple(_used(pair, count) for pair in given if pair[0] != "_after"),
        filter=parse_criteria(caller, resource_type, [p for p in given if p[0] not in _SERVED]),
        order=_choice(SortOrder, "_sort", single_value(given, "_sort")) or SortOrder.ID,
        count=count or DEFAULT_COUNT,
        after=single_value(given, "_after"),
        only_total=summary is SummaryMode.COUNT or count == 0,
        total=_choice(TotalMode, "_total", single_value(given, "_total")),
        elements=parse_elements(caller.fhir_version, resource_type, given),
        includes=_includes(caller.fhir_version, resource_type, given),
        ignored=ignored,
    )


def _includes(version: FHIRVersion, searched: str, given: Pairs) -> tuple[Include, ...]:
    wanted = dict.fromkeys(pair for pair in given if pair[0] in _INCLUDES)
    if len(wanted) > MAX_INCLUDES:
        raise TooCostly(f"A search may have {MAX_INCLUDES} _include and _revinclude at most.")
    return tuple(parse_include(version, searched, name, value) for name, value in wanted)


def parse_elements(
    version: FHIRVersion, searched: str, given: Pairs
) -> Mapping[str, frozenset[str]]:
    """
    Give the elements that `_elements` names by type; those named without one are of the matches.

    Raises:
        InvalidParameter: There is no such type, or it has no such root element.
    """
    wanted = defaultdict[str, set[str]](set)
    for name in (each for key, value in given if key == "_elements" for each in value.split(",")):
        resource_type, _, element = name.rpartition(".")
        resource_type = resource_type or searched
        if resource_type not in load_definitions(version).types or not json_names(
            version, resource_type, element
        ):
            raise InvalidParameter(
                f"_elements: expected root elements of {searched}, or Type.element for those of "
                "included resources, joined by commas."
            )
        wanted[resource_type].add(element)
    return {resource_type: frozenset(names) for resource_type, names in wanted.items()}


def _check(caller: Caller, resource_type: str, name: str, value: str) -> None:
    """Refuse a parameter that is not served; values are looked at once all are together."""
    code = re.split("[:.]", name, maxsplit=1)[0]
    if name in _INCLUDES:
        parse_include(caller.fhir_version, resource_type, name, value)
    elif name in _SHAPING:
        _SHAPING[name](value)
    elif code in RESULT_PARAMETERS or code in _SHAPING:
        raise UnsupportedParameter(
            f"{code} is not served here, or not with a modifier; served are: "
            f"{', '.join(sorted(_SERVED))}."
        )
    else:
        parse_criteria(caller, resource_type, [(name, value)])


def _used(pair: tuple[str, str], count: int | None) -> tuple[str, str]:
    return (pair[0], str(count)) if pair[0] == "_count" else pair


def _count(text: str | None) -> int | None:
    return None if text is None else min(parse_whole_number("_count", text, least=0), MAX_COUNT)


def _choice(choices: type[_Choice], name: str, text: str | None) -> _Choice | None:
    if text is None:
        return None
    if text not in list(choices):
        raise UnsupportedParameter(f"{name} is served with one of: {', '.join(choices)}.")
    return choices(text)


def _any(_: str) -> None:
    """Leave a value to be looked at with the others."""


_INCLUDES: Final = ("_include", "_revinclude")
_SHAPING: Final[Mapping[str, Callable[[str], object]]] = {
    "_after": _any,
    "_count": _any,
    "_elements": _any,
    "_sort": partial(_choice, SortOrder, "_sort"),
    "_summary": partial(_choice, SummaryMode, "_summary"),
    "_total": partial(_choice, TotalMode, "_total"),
}
"""What shapes an answer, and what refuses the values of it that are not served."""
RESULT_PARAMETER_TEXTS: Final[Mapping[str, str]] = {
    "_count": f"Resources on a page, at most {MAX_COUNT}; 0 is only the total.",
    "_sort": f"One of {', '.join(SortOrder)}.",
    "_total": f"How well the number of all matches must be known: {', '.join(TotalMode)}.",
    "_summary": f"One of {', '.join(SummaryMode)}.",
    "_elements": "Root elements to send beside the mandatory ones, joined by commas.",
    "_include": "Type:parameter, to bring what the matches refer to.",
    "_revinclude": "Type:parameter, to bring what refers to the matches.",
    "_after": "Where a page begins; it stands in the links of the page before.",
}
"""What shapes an answer, in words for somebody who writes a client."""
_SERVED: Final = frozenset(RESULT_PARAMETER_TEXTS)
