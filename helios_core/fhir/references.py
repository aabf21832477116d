"""Parse literal references, and replace conditional ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_LITERAL = re.compile(
    r"([A-Z][A-Za-z]{1,63})/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?"
)
_LITERAL_ON_ANY_SERVER = re.compile(rf"(?:https?://[^?#|]+/)?{_LITERAL.pattern}")
# In compact JSON the content of a string cannot match: its quotes are escaped.
_CONDITIONAL = re.compile(
    rb'"reference":("(?:https?:(?:[^"\\?#]|\\/)++|(?:\\?/)?[A-Z][A-Za-z]{1,63}(?:\\?/)?)'
    rb'(?:\?|\\u003[fF])(?:[^"\\]|\\.)*")'
)
_SEARCHED = re.compile(r"/?([A-Z][A-Za-z]{1,63})/?")
_BACKSLASH = ord("\\")


_DECODER = msgspec.json.Decoder(float_hook=str)


def decode_links(text: bytes) -> Any:  # noqa: ANN401 - decoded JSON
    """
    Decode JSON to search it for references; numbers with a fraction become strings.

    JSON allows numbers that are too large for `float`.

    Raises:
        msgspec.DecodeError: The text is not JSON.
    """
    return _DECODER.decode(text)


def split_reference(reference: str, base_urls: Sequence[str] = ()) -> tuple[str, str] | None:
    """
    Return the resource type and id of a literal reference to this server, otherwise None.

    An absolute URL is to this server if it begins with one of `base_urls`. Contained (#x),
    temporary (urn:) and conditional references are not literal.
    """
    for base in base_urls:
        if reference.startswith(prefix := base.rstrip("/") + "/"):
            reference = reference[len(prefix) :]
            break
    match = _LITERAL.fullmatch(reference)
    return (match[1], match[2]) if match else None


def base_urls(base_url: str) -> tuple[str, ...]:
    """Return the base URLs of this server for `split_reference`; none if `base_url` is empty."""
    return (base_url,) if base_url else ()


def referenced_type(reference: str) -> str | None:
    """
    Return the resource type that a literal reference to any server names, otherwise None.

    Contained (#x), temporary (urn:) and conditional references, and canonical URLs, have none.
    """
    match = _LITERAL_ON_ANY_SERVER.fullmatch(reference)
    return match[1] if match else None


def conditional_search(reference: str, base_urls: Sequence[str] = ()) -> str | None:
    """
    Return the search `Type?query` of a conditional reference to this server, otherwise None.

    Clients also write `/Type?query`, `Type/?query` and absolute URLs, as other servers accept.
    """
    path, mark, query = reference.partition("?")
    for base in base_urls:
        if path.startswith(prefix := base.rstrip("/") + "/"):
            path = path[len(prefix) :]
            break
    match = _SEARCHED.fullmatch(path)
    return f"{match[1]}?{query}" if mark and match else None


def conditional_references(body: bytes, base_urls: Sequence[str] = ()) -> set[str]:
    """Return the searches of the conditional references in compact JSON: `Type?query`."""
    searches = (_search(body, match, base_urls) for match in _CONDITIONAL.finditer(body))
    return {search for search in searches if search is not None}


def replace_conditional(
    body: bytes, mapping: Mapping[str, str], base_urls: Sequence[str] = ()
) -> bytes:
    """
    Replace conditional references in compact JSON by `Type/id`.

    `mapping` must have a `Type/id` for every search that `conditional_references` returns.
    """

    def replacement(match: re.Match[bytes]) -> bytes:
        search = _search(body, match, base_urls)
        return b'"reference":' + msgspec.json.encode(mapping[search]) if search else match[0]

    return _CONDITIONAL.sub(replacement, body)


def _search(body: bytes, match: re.Match[bytes], base_urls: Sequence[str]) -> str | None:
    """Return the search of a match of `_CONDITIONAL`, or None if it is not a reference."""
    if body[match.start() - 1] == _BACKSLASH:
        return None  # the quote before `reference` is escaped: the member has a longer name
    try:
        return conditional_search(msgspec.json.decode(match[1], type=str), base_urls)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # `parse_resource` reports what is wrong with the text
