"""Literal references: reading them, and putting real ones where a Bundle had temporary ones."""

import re
from collections.abc import Mapping, Sequence

import msgspec

_LITERAL = re.compile(
    r"([A-Z][A-Za-z]{1,63})/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?"
)
_ANYWHERE = re.compile(rf"(?:https?://[^?#|]+/)?{_LITERAL.pattern}")
# In compact JSON no string content can look like this: a quote inside a string is escaped.
_TEMPORARY = re.compile(rb'"reference":"(urn:(?:uuid|oid):[^"\\]*)"')
_CONDITIONAL = re.compile(rb'"reference":("[A-Z][A-Za-z]{1,63}\?(?:[^"\\]|\\.)*")')
_BACKSLASH = ord("\\")


def split_reference(reference: str, base_urls: Sequence[str] = ()) -> tuple[str, str] | None:
    """
    Give type and id of what a literal reference points to on this server.

    An absolute URL counts only under one of `base_urls`. Contained (#x), temporary (urn:) and
    conditional references, and those to elsewhere, give None.
    """
    for base in base_urls:
        if reference.startswith(prefix := base.rstrip("/") + "/"):
            reference = reference[len(prefix) :]
            break
    match = _LITERAL.fullmatch(reference)
    return (match[1], match[2]) if match else None


def base_urls(base_url: str) -> tuple[str, ...]:
    """Give the base URLs of this server, none where it does not know its own."""
    return (base_url,) if base_url else ()


def referenced_type(reference: str) -> str | None:
    """
    Give the resource type that a literal reference names, wherever it points.

    Contained (#x), temporary (urn:) and conditional references, and canonical URLs, give None.
    """
    match = _ANYWHERE.fullmatch(reference)
    return match[1] if match else None


def replace_temporary(body: bytes, mapping: Mapping[str, str]) -> tuple[bytes, set[str]]:
    """
    Put `Type/id` in place of temporary references (urn:uuid:, urn:oid:), in compact JSON.

    `mapping` goes from the temporary URL to `Type/id`. Those it does not know stay as they are
    and are given back.
    """
    unresolved: set[str] = set()

    def replacement(match: re.Match[bytes]) -> bytes:
        temporary = match[1].decode(errors="replace")
        if body[match.start() - 1] == _BACKSLASH:
            return match[0]
        if temporary not in mapping:
            unresolved.add(temporary)
            return match[0]
        # An id in a Bundle may be any string; encoding keeps it one.
        return b'"reference":' + msgspec.json.encode(mapping[temporary])

    return _TEMPORARY.sub(replacement, body), unresolved


def conditional_references(body: bytes) -> set[str]:
    """Give the references in compact JSON that are searches: `Type?parameter=value`."""
    texts = (_conditional(body, match) for match in _CONDITIONAL.finditer(body))
    return {text for text in texts if text is not None}


def replace_conditional(body: bytes, mapping: Mapping[str, str]) -> bytes:
    """Put `Type/id` in place of the references in compact JSON that are searches."""

    def replacement(match: re.Match[bytes]) -> bytes:
        text = _conditional(body, match)
        return b'"reference":' + msgspec.json.encode(mapping[text]) if text else match[0]

    return _CONDITIONAL.sub(replacement, body)


def _conditional(body: bytes, match: re.Match[bytes]) -> str | None:
    """Give the text of what looks like such a reference, None where it is none."""
    if body[match.start() - 1] == _BACKSLASH:
        return None
    try:
        return str(msgspec.json.decode(match[1]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # checking the resource as a whole says what is wrong
