"""
Scopes: what the words of an access token allow (SMART App Launch 1.0 and 2.2).

`system/` counts alone: `user/` and `patient/` speak of somebody who is present, which nobody is in
Backend Services, and grant nothing. Words that are no scopes of resources grant nothing either.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import unquote

import msgspec

Query: TypeAlias = tuple[tuple[str, str], ...]
"""Names, with modifiers, and values of search parameters, as `compile_query` takes them."""

LETTERS: Final = "cruds"
"""Create, read (also earlier versions), update (also patch), delete, search."""
EXPORT_LETTERS: Final = "rs"
"""What an export of a type needs."""
NAMES: Final = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}

_SCOPE = re.compile(r"system/(\*|[A-Z][A-Za-z]{0,63})\.([a-z]{1,5}|\*)(?:\?(.+))?", re.DOTALL)
_VERSION_1 = {"read": "rs", "write": "cud", "*": LETTERS}
_VERSION_2 = re.compile("c?r?u?d?s?")
_ANY: Final = "*"


class Scope(msgspec.Struct, frozen=True):
    """One word that grants something."""

    resource_type: str
    """The type, or `*` for every type."""
    letters: str
    query: Query = ()
    """The search that a resource has to match; empty if there is none."""


class Grant(msgspec.Struct, frozen=True):
    """
    Which resources of one type may be dealt with in one way.

    A resource has to match one query of each clause. No clause is no limit; an empty one is met by
    nothing.
    """

    clauses: tuple[tuple[Query, ...], ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether no resource meets it."""
        return () in self.clauses

    @property
    def is_everything(self) -> bool:
        """Whether every resource meets it."""
        return not self.clauses

    def covers(self, other: "Grant") -> bool:
        """Return whether what another grant has is certainly in this one too."""
        if self.is_everything or other.is_nothing:
            return True
        return all(
            any(set(narrower) <= set(clause) for narrower in other.clauses)
            for clause in self.clauses
        )


NOTHING: Final = Grant(clauses=((),))
EVERYTHING: Final = Grant()


class Scopes:
    """What a list of words allows."""

    def __init__(self, words: Iterable[str]) -> None:
        self._by_type = defaultdict[str, list[Scope]](list)
        self._grants = dict[tuple[str, str], Grant]()
        for word in words:
            if (scope := parse_scope(word)) is not None:
                self._by_type[scope.resource_type].append(scope)

    def grant(self, resource_type: str, letters: str) -> Grant:
        """Return which resources of a type may be dealt with in all of the ways of `letters`."""
        # All types that no scope names are one to it, so that what is kept has a bound.
        key = (resource_type if resource_type in self._by_type else _ANY, letters)
        kept = self._grants.get(key)
        if kept is None:
            kept = self._grants[key] = self._grant(*key)
        return kept

    def _grant(self, resource_type: str, letters: str) -> Grant:
        clauses = list[tuple[Query, ...]]()
        for letter in letters:
            queries = self._queries(resource_type, letter)
            if () not in queries:
                clauses.append(tuple(dict.fromkeys(queries)))
        return Grant(tuple(dict.fromkeys(clauses)))

    def any_grant(self, resource_type: str, letters: str) -> Grant:
        """Return which resources of a type may be dealt with in one of the ways of `letters`."""
        queries = self._queries(resource_type, letters)
        return Grant() if () in queries else Grant((tuple(dict.fromkeys(queries)),))

    def _queries(self, resource_type: str, letters: str) -> list[Query]:
        """Return the searches of all scopes of a type that have one of the letters."""
        names = dict.fromkeys((resource_type, _ANY))
        scopes = (scope for name in names for scope in self._by_type.get(name, ()))
        return [s.query for s in scopes if any(letter in s.letters for letter in letters)]

    def missing(self, resource_type: str, letters: str) -> str:
        """Return those of `letters` that are not granted for any resource of a type."""
        return "".join(
            letter for letter in letters if self.grant(resource_type, letter).is_nothing
        )


@lru_cache(maxsize=4096)
def parse_scope(word: str) -> Scope | None:
    """Return what a word grants, None if it grants nothing."""
    match = _SCOPE.fullmatch(word)
    if match is None:
        return None
    resource_type, permissions, query = match.groups()
    if permissions in _VERSION_1:
        # Version 1 has no queries: what follows would be ignored, and grant too much.
        return None if query else Scope(resource_type, _VERSION_1[permissions])
    if not _VERSION_2.fullmatch(permissions):
        return None
    if query is None:
        # A question mark with nothing behind it is not matched by the pattern.
        return Scope(resource_type, permissions)
    pairs = _parse_query(query)
    return None if pairs is None else Scope(resource_type, permissions, pairs)


@lru_cache(maxsize=1024)
def scopes_of(words: tuple[str, ...]) -> Scopes:
    """Return what the words of a token allow."""
    return Scopes(words)


def _parse_query(text: str) -> Query | None:
    """Return the pairs of a query as of a `_typeFilter`; None if it cannot mean anything."""
    pairs = list[tuple[str, str]]()
    for pair in text.split("&"):
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            return None
        try:
            pairs.append((unquote(name, errors="strict"), unquote(value, errors="strict")))
        except UnicodeDecodeError:
            return None
    return tuple(pairs)
