"""Query parameters: decoding, limits, and the parameters that most interactions share."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

from helios_core.errors import InvalidParameter, InvalidRequest, TooCostly

Pairs = Sequence[tuple[str, str]]
"""Decoded names and values in their order, including repeated names and empty values."""

MAX_PARAMETERS: Final = 1000
MAX_VALUES: Final = 10_000
"""Maximum number of values of all parameters; commas separate the values of one parameter."""
MAX_TEXT_BYTES: Final = 1024 * 1024
"""Maximum length of all parameters together, as they are sent."""
DEFAULT_COUNT: Final = 50
MAX_COUNT: Final = 1000
"""A larger `_count` is reduced to this page size, as FHIR allows (FHIR R4, search.html#count)."""


def parse_pairs(text: str, what: str) -> list[tuple[str, str]]:
    """
    Return the decoded pairs of a text that is encoded like a query string.

    Raises:
        InvalidRequest: It does not decode to UTF-8, or has more than `MAX_PARAMETERS` pairs; the
            message calls it `what`.
        TooCostly: It is longer than `MAX_TEXT_BYTES`, or has more than `MAX_VALUES` values.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise TooCostly(f"{what} is longer than {MAX_TEXT_BYTES} bytes; send less at a time.")
    try:
        text.encode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        raise InvalidRequest(
            f"{what} is not percent-encoded UTF-8 with at most {MAX_PARAMETERS} parameters."
        ) from error
    if len(pairs) + sum(value.count(",") for _, value in pairs) > MAX_VALUES:
        raise TooCostly(f"{what} has more than {MAX_VALUES} values; send less at a time.")
    return pairs


def single_value(pairs: Pairs, name: str) -> str | None:
    """
    Return the value of a parameter, None if it is absent.

    Raises:
        InvalidParameter: It occurs more than once.
    """
    values = [value for key, value in pairs if key == name]
    if len(values) > 1:
        raise InvalidParameter(f"{name} occurs {len(values)} times; send it once.")
    return values[0] if values else None


def parse_whole_number(name: str, text: str, *, minimum: int = 1) -> int:
    """
    Parse the whole number in a parameter's value.

    Raises:
        InvalidParameter: It is not a whole number, or is below `minimum`.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 18 and int(text) >= minimum):  # noqa: PLR2004
        raise InvalidParameter(f"{name} is not a whole number from {minimum}.")
    return int(text)


def parse_number(pairs: Pairs, name: str) -> int | None:
    """
    Return the value of a parameter that is a whole number from 1, None if it is absent.

    Raises:
        InvalidParameter: It is not such a number, or occurs more than once.
    """
    text = single_value(pairs, name)
    return None if text is None else parse_whole_number(name, text)


def parse_count(pairs: Pairs) -> int:
    """
    Return the number of entries on a page: `_count` up to `MAX_COUNT`, or `DEFAULT_COUNT`.

    Raises:
        InvalidParameter: `_count` is not a whole number from 1, or occurs more than once.
    """
    return min(parse_number(pairs, "_count") or DEFAULT_COUNT, MAX_COUNT)
