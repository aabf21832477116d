"""How long a page is and where it begins."""

from collections.abc import Sequence
from typing import Final

from helios_core.errors import InvalidParameter

DEFAULT_COUNT: Final = 50
MAX_COUNT: Final = 1000
"""A larger `_count` gets pages of this size, which FHIR allows (FHIR R4, search.html#count)."""


def single_value(given: Sequence[tuple[str, str]], name: str) -> str | None:
    """
    Give the one value of a parameter, None where it is absent.

    Raises:
        InvalidParameter: It is given more than once.
    """
    values = [value for key, value in given if key == name]
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
    return values[0] if values else None


def parse_whole_number(name: str, text: str, *, least: int = 1) -> int:
    """
    Give the whole number a value is.

    Raises:
        InvalidParameter: It is none, or it is below `least`.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 18 and int(text) >= least):  # noqa: PLR2004
        raise InvalidParameter(f"{name} is not a whole number from {least}.")
    return int(text)


def parse_number(given: Sequence[tuple[str, str]], name: str) -> int | None:
    """
    Give the value of a parameter that is a whole number from 1.

    Raises:
        InvalidParameter: It is not.
    """
    text = single_value(given, name)
    return None if text is None else parse_whole_number(name, text)


def parse_count(given: Sequence[tuple[str, str]]) -> int:
    """
    Give the length of a page.

    Raises:
        InvalidParameter: `_count` is not a whole number from 1.
    """
    return min(parse_number(given, "_count") or DEFAULT_COUNT, MAX_COUNT)
