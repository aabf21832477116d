r"""
Search values as sent: lists, parts and escapes (FHIR R4, 3.1.1.4.19).

Inside a value `\,` `\|` `\$` and `\\` stand for the character itself. A backslash before anything
else is a backslash.
"""

import re

from helios_core.errors import InvalidParameter

_ESCAPED = re.compile(r"\\([,|$\\])")
_PREFIXED = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.DOTALL)


def split_unescaped(text: str, separator: str) -> list[str]:
    """Give what lies between separators that are not escaped; the parts stay escaped."""
    parts = [""]
    for token in re.findall(r"\\[,|$\\]|.", text, re.DOTALL):
        if token == separator:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def unescape(text: str) -> str:
    """Give the text that an escaped part stands for."""
    return _ESCAPED.sub(r"\1", text)


def alternatives(name: str, value: str) -> tuple[str, ...]:
    """
    Give the values of a comma-separated list, still escaped.

    Raises:
        InvalidParameter: One of them is empty.
    """
    values = tuple(split_unescaped(value, ","))
    if not all(values):
        raise InvalidParameter(f"{name} is empty or has an empty value in its list; leave it out")
    return values


def split_prefix(value: str) -> tuple[str, str]:
    """Give the comparison (eq where there is none) and the rest of a value."""
    match = _PREFIXED.fullmatch(value)
    return (match[1] or "eq", match[2]) if match else ("eq", value)
