"""Scopes: which of the requested scopes a client is granted."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from helios_core import Scope, parse_scope

LONGEST: Final = 6 * 1024
"""How many characters the scopes of a request, or of a token, may have; all types need 4000."""

_LETTERS = "cruds"
_EVERY_TYPE = "*"


class _Word(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a scope, and the parsed scope."""

    text: str
    scope: Scope

    @property
    def query(self) -> str:
        return self.text.partition("?")[2]


def granted(requested: str, registered: Iterable[str]) -> Sequence[str]:
    """
    Return the scopes that are granted: the intersection of requested and registered scopes.

    A requested scope that the registered scopes cover is granted in its requested spelling; of
    any other scope the covered part is granted. Words that are not scopes of backend services
    grant nothing. The result has at most LONGEST characters.

    Raises:
        ValueError: The request or the result is longer; the message quotes nothing of it.
    """
    if len(requested) > LONGEST:
        raise ValueError(f"scope has more than {LONGEST} characters")
    allowed = list(_words(registered))
    parts, length = dict[str, None](), 0
    for word in _words(dict.fromkeys(requested.split(" "))):
        for part in _parts(word, allowed):
            length += 0 if part in parts else len(part) + 1
            if length > LONGEST:
                raise ValueError(
                    f"scope grants more than the {LONGEST} characters that a token has room for; "
                    "request fewer scopes"
                )
            parts[part] = None
    return list(parts)


def _words(texts: Iterable[str]) -> Iterator[_Word]:
    for text in texts:
        scope = parse_scope(text)
        if scope is not None and scope.letters:
            yield _Word(text=text, scope=scope)


def _parts(requested: _Word, allowed: Sequence[_Word]) -> Iterable[str]:
    if any(_covers(each.scope, requested.scope) for each in allowed):
        return [requested.text]
    widest = list[_Word]()
    for each in filter(None, (_common(requested, word) for word in allowed)):
        if not any(_covers(other.scope, each.scope) for other in widest):
            widest = [other for other in widest if not _covers(each.scope, other.scope)]
            widest.append(each)
    return [each.text for each in widest]


def _common(one: _Word, other: _Word) -> _Word | None:
    types = {one.scope.resource_type, other.scope.resource_type} - {_EVERY_TYPE}
    letters = set(one.scope.letters) & set(other.scope.letters)
    if len(types) > 1 or not letters:
        return None
    resource_type = types.pop() if types else _EVERY_TYPE
    in_order = "".join(letter for letter in _LETTERS if letter in letters)
    query = "&".join(dict.fromkeys(filter(None, (one.query, other.query))))
    text = f"system/{resource_type}.{in_order}{f'?{query}' if query else ''}"
    scope = parse_scope(text)
    return None if scope is None else _Word(text=text, scope=scope)


def _covers(one: Scope, other: Scope) -> bool:
    return (
        one.resource_type in (_EVERY_TYPE, other.resource_type)
        and set(other.letters) <= set(one.letters)
        and set(one.query) <= set(other.query)
    )
