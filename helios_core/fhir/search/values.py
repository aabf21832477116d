r"""
Split and unescape search values (FHIR R4, 3.1.1.4.19).

In a value, `\,` `\|` `\$` and `\\` stand for their second character. A backslash before any other
character stands for itself.
"""

import re

from helios_core.errors import InvalidParameter

_ESCAPED = re.compile(r"\\([,|$\\])")
_PREFIXED = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)


def split_unescaped(text: str, separator: str) -> list[str]:
    """Split at separators that are not escaped; the parts stay escaped."""
    parts = [""]
    for token in re.findall(r"\\[,|$\\]|.", text, re.DOTALL):
        if token == separator:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def unescape(text: str) -> str:
    """Return the text that an escaped part stands for."""
    return _ESCAPED.sub(r"\1", text)


def alternatives(name: str, value: str) -> tuple[str, ...]:
    """
    Split a comma-separated list into its values, still escaped.

    Raises:
        InvalidParameter: A value is empty.
    """
    values = tuple(split_unescaped(value, ","))
    if not all(values):
        raise InvalidParameter(f"{name} has an empty value; leave it out")
    return values


def split_prefix(value: str) -> tuple[str, str]:
    """Split a value into its prefix (`eq` if it has none) and the rest."""
    match = _PREFIXED.fullmatch(value)
    return (match[1] or "eq", match[2]) if match else ("eq", value)
