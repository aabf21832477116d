"""
Scopes: what an access token allows (SMART App Launch 1.0 and 2.2).

A word is one scope of the token as a string, such as `system/Patient.rs` (RFC 6749, section 3.3).
Only `system/` scopes grant anything. `user/` and `patient/` scopes grant nothing: they are about a
user who is present, and in Backend Services there is none. Other words, such as `openid`, grant
nothing either.
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
"""The permissions create, read (also earlier versions), update (also patch), delete, search."""
EXPORT_LETTERS: Final = "rs"
"""The permissions that an export of a type needs."""
NAMES: Final = {"c": "create", "r": "read", "u": "update", "d": "delete", "s": "search"}
"""The name of each permission."""

_SCOPE = re.compile(r"system/(\*|[A-Z][A-Za-z]{0,63})\.([a-z]{1,5}|\*)(?:\?(.+))?", re.DOTALL)
_VERSION_1 = {"read": "rs", "write": "cud", "*": LETTERS}
_VERSION_2 = re.compile("c?r?u?d?s?")
_ANY: Final = "*"


class Scope(msgspec.Struct, frozen=True):
    """A parsed scope that grants something."""

    resource_type: str
    """The type, or `*` for every type."""
    letters: str
    """The permissions it grants, each one of `LETTERS`."""
    query: Query = ()
    """The search that a resource has to match; empty if there is none."""


class Grant(msgspec.Struct, frozen=True):
    """
    The resources of one type to which a permission applies.

    A resource has to match at least one query of every clause. Without clauses there is no limit;
    no resource meets an empty clause.
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
        """
        Return whether this grant certainly includes all resources of another one.

        Queries are compared by their text, so that false may be too cautious.
        """
        if self.is_everything or other.is_nothing:
            return True
        return all(
            any(set(narrower) <= set(clause) for narrower in other.clauses)
            for clause in self.clauses
        )


NOTHING: Final = Grant(clauses=((),))
EVERYTHING: Final = Grant()


class Scopes:
    """The scopes of one access token."""

    def __init__(self, words: Iterable[str]) -> None:
        self._by_type = defaultdict[str, list[Scope]](list)
        self._grants = dict[tuple[str, str], Grant]()
        for word in words:
            if (scope := parse_scope(word)) is not None:
                self._by_type[scope.resource_type].append(scope)

    def grant(self, resource_type: str, letters: str) -> Grant:
        """Return the resources of a type for which all permissions in `letters` are granted."""
        # Types that no scope names share one entry, so that the cache is bounded.
        key = (resource_type if resource_type in self._by_type else _ANY, letters)
        cached = self._grants.get(key)
        if cached is None:
            cached = self._grants[key] = self._grant(*key)
        return cached

    def _grant(self, resource_type: str, letters: str) -> Grant:
        clauses = list[tuple[Query, ...]]()
        for letter in letters:
            queries = self._queries(resource_type, letter)
            if () not in queries:
                clauses.append(tuple(dict.fromkeys(queries)))
        return Grant(tuple(dict.fromkeys(clauses)))

    def any_grant(self, resource_type: str, letters: str) -> Grant:
        """Return the resources of a type for which any permission in `letters` is granted."""
        queries = self._queries(resource_type, letters)
        return Grant() if () in queries else Grant((tuple(dict.fromkeys(queries)),))

    def _queries(self, resource_type: str, letters: str) -> list[Query]:
        """Return the searches of all scopes that grant any of `letters` for a type."""
        names = dict.fromkeys((resource_type, _ANY))
        scopes = (scope for name in names for scope in self._by_type.get(name, ()))
        return [s.query for s in scopes if any(letter in s.letters for letter in letters)]

    def missing(self, resource_type: str, letters: str) -> str:
        """Return the permissions in `letters` that are not granted for any resource of a type."""
        return "".join(
            letter for letter in letters if self.grant(resource_type, letter).is_nothing
        )


@lru_cache(maxsize=4096)
def parse_scope(word: str) -> Scope | None:
    """Return the scope that a word is, or None if it grants nothing."""
    match = _SCOPE.fullmatch(word)
    if match is None:
        return None
    resource_type, permissions, query = match.groups()
    if permissions in _VERSION_1:
        # SMART 1.0 has no queries; ignoring one would grant too much.
        return None if query else Scope(resource_type, _VERSION_1[permissions])
    if not _VERSION_2.fullmatch(permissions):
        return None
    if query is None:
        # The pattern does not match a question mark without a query.
        return Scope(resource_type, permissions)
    pairs = _parse_query(query)
    return None if pairs is None else Scope(resource_type, permissions, pairs)


@lru_cache(maxsize=1024)
def scopes_of(words: tuple[str, ...]) -> Scopes:
    """Return the parsed scopes of a token; equal lists of words share one object."""
    return Scopes(words)


def _parse_query(text: str) -> Query | None:
    """Return the pairs of a query, parsed as in `_typeFilter`, or None if it is malformed."""
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
