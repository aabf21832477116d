"""`_typeFilter`: searches inside of a parameter (Bulk Data 2.0.0 and 3.0.0)."""

import re
from urllib.parse import unquote

from helios_core.errors import InvalidParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search.queries import refuse_result_parameter

_COMMA = re.compile(r"\\.|(,)(?=[A-Z][A-Za-z]*\?)", re.DOTALL)
_EXPECTED = "_typeFilter: expected Type?parameter=value, a search of one resource type"


def split_type_filter(value: str) -> list[str]:
    """
    Give the queries of a comma-joined list.

    Search values hold commas too: only one that is not escaped and is followed by `Type?` parts.
    """
    commas = [match.start() for match in _COMMA.finditer(value) if match[1]]
    starts = [0, *(comma + 1 for comma in commas)]
    return [value[start:end] for start, end in zip(starts, [*commas, None], strict=True)]


def parse_type_filter(query: str, version: FHIRVersion) -> tuple[str, list[tuple[str, str]]]:
    """
    Give the type and the pairs of one query, names and values percent-decoded once.

    A plus stays a plus: it is more often a time zone's than a space.

    Raises:
        InvalidParameter: It is not a search of one type, or the type is unknown.
        UnsupportedParameter: It has a parameter that shapes results.
    """
    resource_type, mark, parameters = query.partition("?")
    if not mark or "/" in resource_type or not resource_type:
        raise InvalidParameter(_EXPECTED)
    if resource_type not in load_definitions(version).types:
        raise InvalidParameter(f"{_EXPECTED}; FHIR {version} has no such type")
    pairs = [_pair(resource_type, each) for each in parameters.split("&") if each]
    for name, _ in pairs:
        refuse_result_parameter(name)
    return resource_type, pairs


def _pair(resource_type: str, text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    try:
        return unquote(name, errors="strict"), unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            f"_typeFilter: a parameter of {resource_type} is not percent-encoded UTF-8"
        ) from error
