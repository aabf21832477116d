"""Scopes: which of the requested scopes a client is granted."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from helios_core import Scope, parse_scope

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
    grant nothing.
    """
    allowed = list(_words(registered))
    wanted = _words(dict.fromkeys(requested.split(" ")))
    return list(dict.fromkeys(part for word in wanted for part in _parts(word, allowed)))


def _words(texts: Iterable[str]) -> Iterator[_Word]:
    for text in texts:
        scope = parse_scope(text)
        if scope is not None and scope.letters:
            yield _Word(text=text, scope=scope)


def _parts(requested: _Word, allowed: Sequence[_Word]) -> Iterator[str]:
    common = [each for word in allowed if (each := _common(requested, word))]
    if any(_covers(each.scope, requested.scope) for each in common):
        yield requested.text
        return
    for each in common:
        if not any(_covers(other.scope, each.scope) for other in common if other != each):
            yield each.text


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
