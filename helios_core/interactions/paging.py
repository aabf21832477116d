"""How long a page is and where it begins."""

from collections.abc import Sequence
from typing import Final

from helios_core.errors import InvalidParameter

DEFAULT_COUNT: Final = 50
LARGEST_COUNT: Final = 1000
"""A larger `_count` gets pages of this size, which FHIR allows (FHIR R4, search.html#count)."""


def single(given: Sequence[tuple[str, str]], name: str) -> str | None:
    """
    Give the one value of a parameter, None where it is absent.

    Raises:
        InvalidParameter: It is given more than once.
    """
    values = [value for key, value in given if key == name]
    if len(values) > 1:
        raise InvalidParameter(f"{name} is given {len(values)} times; give it once.")
    return values[0] if values else None


def whole_number(name: str, text: str, *, least: int = 1) -> int:
    """
    Give the whole number a value is.

    Raises:
        InvalidParameter: It is none, or it is below `least`.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 18 and int(text) >= least):  # noqa: PLR2004
        raise InvalidParameter(f"{name} is not a whole number from {least}.")
    return int(text)


def number_of(given: Sequence[tuple[str, str]], name: str) -> int | None:
    """
    Give the value of a parameter that is a whole number from 1.

    Raises:
        InvalidParameter: It is not.
    """
    text = single(given, name)
    return None if text is None else whole_number(name, text)


def count_of(given: Sequence[tuple[str, str]]) -> int:
    """
    Give the length of a page.

    Raises:
        InvalidParameter: `_count` is not a whole number from 1.
    """
    return min(number_of(given, "_count") or DEFAULT_COUNT, LARGEST_COUNT)
