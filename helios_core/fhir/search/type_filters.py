"""Parse `_typeFilter`, whose values are searches (Bulk Data 2.0.0 and 3.0.0)."""

import re
from urllib.parse import unquote

from helios_core.errors import InvalidParameter
from helios_core.fhir.definitions import FHIRVersion, load_definitions
from helios_core.fhir.search.queries import refuse_result_parameter

_COMMA = re.compile(r"\\.|(,)(?=[A-Z][A-Za-z]*\?)", re.DOTALL)
_EXPECTED = "_typeFilter: expected Type?parameter=value, a search of one resource type"


def split_type_filter(value: str) -> list[str]:
    """
    Split a comma-separated list into its searches.

    Search values have commas too. A comma separates only if it is not escaped and `Type?` follows.
    """
    commas = [match.start() for match in _COMMA.finditer(value) if match[1]]
    starts = [0, *(comma + 1 for comma in commas)]
    return [value[start:end] for start, end in zip(starts, [*commas, None], strict=True)]


def parse_type_filter(query: str, version: FHIRVersion) -> tuple[str, list[tuple[str, str]]]:
    """
    Return the resource type, and the names and values of one search, percent-decoded once.

    A plus stays a plus, because it is more often part of a time zone than a space.

    Raises:
        InvalidParameter: The text is not a search of one resource type, or there is no such type.
        UnsupportedParameter: The search has a result parameter, such as `_sort`.
    """
    resource_type, mark, parameters = query.partition("?")
    if not mark or "/" in resource_type or not resource_type:
        raise InvalidParameter(_EXPECTED)
    if resource_type not in load_definitions(version).types:
        raise InvalidParameter(f"{_EXPECTED}; FHIR {version} has no such resource type")
    pairs = [_parse_pair(resource_type, pair) for pair in parameters.split("&") if pair]
    for name, _ in pairs:
        refuse_result_parameter(name)
    return resource_type, pairs


def _parse_pair(resource_type: str, text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    try:
        return unquote(name, errors="strict"), unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            f"_typeFilter: a parameter of {resource_type} is not percent-encoded UTF-8"
        ) from error
